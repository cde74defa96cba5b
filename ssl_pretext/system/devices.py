"""Devices by name: `"auto"`, `"cpu"` or `"cuda"`."""

import torch

from ssl_pretext.errors import ArgumentError

__all__ = ["DEVICES", "resolve_device"]

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str, argument: str = "device") -> str:
    """The device that a name stands for: for `"auto"` the GPU if there is one.

    Args:
        device: The name.
        argument: The argument that it was given for, in messages.

    Raises:
        ArgumentError: There is no device of that name, or no GPU on this machine.

    Examples:
        >>> resolve_device("cpu")
        'cpu'
    """
    if device not in DEVICES:
        raise ArgumentError(f"{argument} is one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"{argument} is 'cuda', and PyTorch finds no CUDA device on this machine; 'auto' takes any")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
