"""Eval mode for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and afterward restores the mode of each part, since parts may differ.

    Examples:
        >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with eval_mode(network):
        ...     print(network[0].training, network[1].training)
        False False
        >>> print(network[0].training, network[1].training)
        True False
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
