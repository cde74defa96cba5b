"""A context manager that switches a module to eval mode and back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode"]

_LOCK = threading.Lock()
_HELD: dict[nn.Module, tuple[int, bool]] = {}  # number of blocks that a part is in, and its mode before the first


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switches a module to eval mode for a block, and restores the mode of each of its parts afterward.

    The modes are restored part by part, because parts can have different modes, and also after an exception. If several
    threads are in such a block with the same part, its mode is restored when the last of them leaves it.

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
    parts = list(module.modules())
    with _LOCK:
        for part in parts:
            blocks, training = _HELD.get(part, (0, part.training))
            _HELD[part] = blocks + 1, training
        module.eval()
    try:
        yield
    finally:
        with _LOCK:
            for part in parts:
                blocks, training = _HELD.pop(part)
                if blocks > 1:
                    _HELD[part] = blocks - 1, training
                else:
                    part.training = training
