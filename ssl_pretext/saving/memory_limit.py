"""A bound on the memory that a network takes which a file from elsewhere describes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ssl_pretext.errors import ArgumentError

__all__ = ["MemoryLimit"]

BESIDES = 2**31  # bytes for what is built and not saved, such as the networks of perceptual losses
FACTORIES = frozenset(
    {
        torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.linspace, torch.logspace,
        torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros,
    }
)  # fmt: skip


class MemoryLimit(TorchFunctionMode):
    """Refuses to make tensors beyond a number of bytes, before the memory for them is asked for.

    A checkpoint may name an encoder a million times as wide as the weights beside it. What is built inside of this
    may take twice as much as those, and 2 GiB besides.

    Args:
        weights: Bytes of the weights that are to be loaded.

    Raises:
        ArgumentError: What is being built takes more.

    Examples:
        >>> with MemoryLimit(1000):
        ...     torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ssl_pretext.errors.ArgumentError: this network takes far more memory than its weights, of 1,000 bytes, ...
    """

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.weights, self.left = weights, 2 * weights + BESIDES

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES:
            shape_alone = {key: value for key, value in kwargs.items() if key not in ("generator", "out", "pin_memory")}
            self.left -= func(*args, **{**shape_alone, "device": "meta"}).nbytes
            if self.left < 0:
                raise ArgumentError(
                    f"this network takes far more memory than its weights, of {self.weights:,} bytes, could fill"
                )
        return func(*args, **kwargs)
