"""The choice of a few images of many, where a part is enough to measure or to show something."""

import torch
from torch import Tensor

__all__ = ["evenly_spaced"]


def evenly_spaced(count: int, most: int) -> Tensor:
    """Returns at most `most` of the positions `0, ..., count - 1`, evenly spaced, with the first and the last.

    Examples:
        >>> evenly_spaced(9, most=5), evenly_spaced(2, most=5)
        (tensor([0, 2, 4, 6, 8]), tensor([0, 1]))
    """
    # In float64, because float32 cannot tell apart the positions of more than 16 million images.
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
