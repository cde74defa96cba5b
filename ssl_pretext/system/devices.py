"""Selection of the device by name, and copies from a GPU for which the CPU does not wait."""

import re

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["DEVICES", "CopyToHost", "check_device_name", "is_capturing", "is_idle", "resolve_device"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def check_device_name(device: object, argument: str = "device") -> None:
    """Raises unless a name is one of `DEVICES` or that of a numbered GPU; this machine need not have the device.

    Raises:
        ArgumentError: The name is unknown.
    """
    if not isinstance(device, str) or (device not in DEVICES and not re.fullmatch(r"cuda:\d+", device)):
        raise ArgumentError(
            f"{argument} must be one of {', '.join(DEVICES)}, or a numbered GPU such as cuda:1; got {device!r}"
        )


def resolve_device(device: str, argument: str = "device") -> str:
    """Returns the name of a device that PyTorch knows; `"auto"` selects the first GPU of NVIDIA if there is one.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, a numbered GPU such as `"cuda:1"`, or `"mps"`, the GPU of a Mac.
        argument: Name of the argument that `device` was passed as, for error messages.

    Raises:
        ArgumentError: The name is unknown, or this machine has no such device that PyTorch can use.

    Examples:
        >>> resolve_device("cpu")
        'cpu'
    """
    check_device_name(device, argument)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ArgumentError(
            f"{argument} is {device!r}, but PyTorch finds no CUDA device on this machine; use 'auto' or 'cpu'"
        )
    if device.startswith("cuda:") and int(device[5:]) >= (count := torch.cuda.device_count()):
        raise ArgumentError(f"{argument} is {device!r}, but this machine has {count} GPUs, counted from 0")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError(f"{argument} is 'mps', but PyTorch finds no GPU of a Mac; use 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


class CopyToHost:
    """A copy of a small tensor on the CPU, which is complete as soon as its device has computed the tensor.

    From a CUDA device the copy is asynchronous, to pinned memory, so that the CPU can go on queuing work.

    Args:
        values: The tensor to copy.

    Examples:
        >>> copy = CopyToHost(torch.ones(2))
        >>> copy.is_complete(), copy.wait()
        (True, tensor([1., 1.]))
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    def is_complete(self) -> bool:
        """Whether the values can be read without waiting."""
        return self._event is None or self._event.query()

    def wait(self) -> Tensor:
        """Waits until the copy is complete, and returns it."""
        if self._event is not None:
            self._event.synchronize()
        return self._values


def is_capturing(device: torch.device) -> bool:
    """Whether the work for a device is recorded as a CUDA graph, in which nothing can be read from the device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def is_idle(device: torch.device) -> bool:
    """Whether nothing is queued on a device, so that waiting for one more result would not interrupt its work.

    The answer is always yes for devices other than CUDA, which have no queue or none that can be asked.
    """
    return device.type != "cuda" or torch.cuda.current_stream(device).query()
