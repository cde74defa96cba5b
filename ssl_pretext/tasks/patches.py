"""Patches: cutting them out, and taking from them what would give their place away."""

from functools import lru_cache
from itertools import chain, permutations
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cut", "distant_permutations", "one_channel_left", "resized", "standardized"]

NOISE = 0.01  # of the deviation of the channel that is left; Doersch et al. 2015, section 3.1
LEAST_VARIANCE = 1e-4  # about one step of 8 bits in normalized values: rounding is not blown up to a pattern


def cut(values: Tensor, corners: Tensor, size: int) -> Tensor:
    """Square patches of each image, in one gather.

    Args:
        values: `(B, n, H, W)`.
        corners: Row and column of the upper left corner of each patch, int64 `(B, k, 2)`.
        size: Side of the patches.

    Returns:
        `(B, k, n, size, size)`.

    Examples:
        >>> values = torch.arange(16).view(1, 1, 4, 4)
        >>> cut(values, torch.tensor([[[0, 0], [1, 2]]]), 2).flatten(2).tolist()
        [[[0, 1, 4, 5], [6, 7, 10, 11]]]
    """
    batch, channels = (torch.arange(count, device=values.device) for count in values.shape[:2])
    rows, columns = (corners[..., None] + torch.arange(size, device=values.device)).unbind(2)  # (B, k, size)
    return values[
        batch[:, None, None, None, None],
        channels[:, None, None],
        rows[:, :, None, :, None],
        columns[:, :, None, None, :],
    ]


def resized(patches: Tensor, size: int | None, *, least: int = 1) -> Tensor:
    """Patches `(B, k, n, s, s)` at another side, or at their own without one, but at no smaller one than `least`."""
    size = max(size or patches.shape[-1], least)
    if patches.shape[-1] == size:
        return patches
    flat = F.interpolate(patches.flatten(0, 1), (size, size), mode="bilinear", align_corners=False, antialias=True)
    return cast(Tensor, flat.unflatten(0, patches.shape[:2]))


def one_channel_left(patches: Tensor) -> Tensor:
    """Keeps one channel of each patch, drawn for itself, and puts faint noise in place of the others.

    The lens bends colors apart, the more the farther from the middle of the photo, so that two channels of one patch
    tell where it was cut.

    Args:
        patches: `(B, k, n, s, s)`.

    Returns:
        Of the same shape.
    """
    count = patches.shape[2]
    if count == 1:
        return patches
    left = torch.randint(count, (*patches.shape[:2], 1, 1, 1), device=patches.device)
    deviation = patches.take_along_dim(left, dim=2).std(dim=(2, 3, 4), keepdim=True, correction=0)
    kept = torch.arange(count, device=patches.device)[:, None, None] == left
    return torch.where(kept, patches, NOISE * deviation * torch.randn_like(patches))


def standardized(patches: Tensor) -> Tensor:
    """Each channel of each patch at mean zero and deviation one: neighbors can no longer be told by their tone."""
    variance, mean = torch.var_mean(patches, dim=(-2, -1), keepdim=True, correction=0)
    return (patches - mean) / (variance + LEAST_VARIANCE).sqrt()


@lru_cache
def distant_permutations(parts: int, count: int) -> Tensor:
    """Permutations that are far from one another in Hamming distance (Noroozi and Favaro 2016, algorithm 1).

    Greedily: from the identity on, the next one is that with the largest sum of distances to those chosen, as in the
    paper; among equals, that which keeps the largest distance to the nearest of them, then the first. Nothing is drawn
    at random.

    Args:
        parts: What is permuted.
        count: How many permutations, at most `parts!`.

    Returns:
        int64 `(count, parts)`.

    Examples:
        >>> distant_permutations(3, 3).tolist()
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    known = np.fromiter(chain.from_iterable(permutations(range(parts))), dtype=np.int8).reshape(-1, parts)
    places = np.ascontiguousarray(known.T)  # by place, since adding up along the last axis, of nine, is slow
    sums = np.zeros(len(known), dtype=np.int32)
    nearest = np.full(len(known), parts, dtype=np.int8)
    chosen = [0]
    while len(chosen) < count:
        distances = (places != known[chosen[-1]][:, None]).sum(axis=0, dtype=np.int8)
        sums += distances
        np.minimum(nearest, distances, out=nearest)  # zero at those that are chosen
        farthest = np.flatnonzero(sums == sums[nearest > 0].max())
        chosen.append(int(farthest[nearest[farthest].argmax()]))
    return torch.from_numpy(known[chosen].astype(np.int64))
