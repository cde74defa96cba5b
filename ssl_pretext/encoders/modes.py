"""A context manager that switches a module to eval mode and back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switches a module to eval mode for a block, and restores the mode of each of its parts afterward.

    The modes are restored part by part, because parts can have different modes, and also after an exception.

    Args:
        module: The module whose mode is changed.

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
