"""Context managers that switch a module to eval or train mode and back."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode", "train_mode"]

_LOCK = threading.Lock()
_HELD: dict[nn.Module, tuple[int, bool]] = {}  # number of blocks that a part is in, and its mode before the first
_TRAINED: Counter[nn.Module] = Counter()  # number of blocks of `train_mode` that a part is in


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switches a module to eval mode for a block, and restores the mode of each of its parts afterward.

    The modes are restored part by part, because parts can have different modes, and also after an exception. If several
    threads are in such a block with the same part, its mode is restored when the last of them leaves it. Within a block
    of `train_mode` with the same module, nothing is changed.

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
    if any(_TRAINED[part] for part in parts):
        yield
        return
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


@contextmanager
def train_mode(module: nn.Module) -> Iterator[None]:
    """Switches a module to train mode for a block, for training through functions that are made for frozen networks.

    Such functions put the module in eval mode while they run; in the block they do not. The modes of all parts are
    restored afterward.

    Args:
        module: The module whose mode is changed.

    Examples:
        >>> network = nn.Dropout().eval()
        >>> with train_mode(network), eval_mode(network):
        ...     print(network.training)
        True
        >>> network.training
        False
    """
    modes = {part: part.training for part in module.modules()}
    _TRAINED.update(modes.keys())
    module.train()
    try:
        yield
    finally:
        _TRAINED.subtract(modes.keys())
        for part, training in modes.items():
            part.training = training
