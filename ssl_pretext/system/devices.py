"""Selection of the device by name: `"auto"`, `"cpu"` or `"cuda"`."""

import torch

from ssl_pretext.errors import ArgumentError

__all__ = ["DEVICES", "resolve_device"]

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str, argument: str = "device") -> str:
    """Returns `"cpu"` or `"cuda"` for the name of a device; `"auto"` selects the GPU if there is one.

    Args:
        device: Name of the device.
        argument: Name of the argument that `device` was passed as, for error messages.

    Raises:
        ArgumentError: The name is unknown, or it is `"cuda"` and this machine has no GPU that PyTorch can use.

    Examples:
        >>> resolve_device("cpu")
        'cpu'
    """
    if device not in DEVICES:
        raise ArgumentError(f"{argument} must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(
            f"{argument} is 'cuda', but PyTorch finds no CUDA device on this machine; use 'auto' or 'cpu'"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
