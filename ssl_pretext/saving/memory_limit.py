"""A memory limit for building a network that an untrusted file describes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ssl_pretext.errors import ArgumentError

__all__ = ["MemoryLimit"]

EXTRA_BYTES = 2**31  # for tensors that are not saved, such as the networks of perceptual losses
FACTORIES = frozenset(
    {
        torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.linspace, torch.logspace,
        torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros,
    }
)  # fmt: skip


class MemoryLimit(TorchFunctionMode):
    """A context manager that raises before the tensors created inside it exceed a number of bytes.

    A malicious contract may describe an encoder that is a million times as wide as its weights file allows. The limit
    is twice the size of the weights plus 2 GiB, and is checked before the memory of a tensor is allocated.

    Args:
        weight_bytes: Size of the weights file in bytes.

    Raises:
        ArgumentError: The tensors need more memory than the limit.

    Examples:
        >>> with MemoryLimit(1000):
        ...     torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ssl_pretext.errors.ArgumentError: building this network needs far more memory than its weights file ...
    """

    def __init__(self, weight_bytes: int) -> None:
        super().__init__()
        self.weight_bytes, self.remaining = weight_bytes, 2 * weight_bytes + EXTRA_BYTES

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES:
            options = {key: value for key, value in kwargs.items() if key not in ("generator", "out", "pin_memory")}
            self.remaining -= func(*args, **{**options, "device": "meta"}).nbytes  # allocates no memory
            if self.remaining < 0:
                raise ArgumentError(
                    f"building this network needs far more memory than its weights file of {self.weight_bytes:,} bytes "
                    "can fill; the description of the network is damaged or malicious"
                )
        return func(*args, **kwargs)
