"""Operations on patches: cropping and resizing, and removal of cues that would reveal their positions."""

from functools import lru_cache
from itertools import chain, permutations
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_patches", "distant_permutations", "keep_one_channel", "resize_patches", "standardize_patches"]

# Standard deviation of the noise, relative to that of the channel that is kept; Doersch et al. 2015, section 3.1.
NOISE = 0.01
# The variance of about one step of 8 bits in normalized values, so that rounding errors are not amplified to a pattern.
EPSILON = 1e-4


def crop_patches(values: Tensor, corners: Tensor, size: int) -> Tensor:
    """Crops square patches from each image, in one indexing operation.

    Args:
        values: Images `(B, n, H, W)`.
        corners: Row and column of the upper left corner of each patch, `int64`, `(B, k, 2)`.
        size: Height and width of the patches in pixels.

    Returns:
        Patches `(B, k, n, size, size)`.

    Examples:
        >>> values = torch.arange(16).view(1, 1, 4, 4)
        >>> crop_patches(values, torch.tensor([[[0, 0], [1, 2]]]), 2).flatten(2).tolist()
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


def resize_patches(patches: Tensor, size: int | tuple[int, int] | None, *, min_size: int = 1) -> Tensor:
    """Resizes patches by antialiased bilinear interpolation.

    Args:
        patches: Patches `(B, k, n, s, s)`.
        size: New height and width in pixels, one number or `(h, w)`; None keeps the current size.
        min_size: Lower limit of the new size, if it is not `(h, w)`.

    Returns:
        Patches `(B, k, n, h, w)`, where `h` and `w` are the new size.
    """
    shape = size if isinstance(size, tuple) else (max(size or patches.shape[-1], min_size),) * 2
    if patches.shape[-2:] == shape:
        return patches
    flat = F.interpolate(patches.flatten(0, 1), shape, mode="bilinear", align_corners=False, antialias=True)
    return cast(Tensor, flat.unflatten(0, patches.shape[:2]))


def keep_one_channel(patches: Tensor) -> Tensor:
    """Keeps one random channel of each patch, and replaces the others by weak noise.

    A lens shifts the color channels against each other (chromatic aberration), and more so toward the edges of a
    photo. Two channels of one patch would therefore reveal where it was cropped.

    Args:
        patches: Patches `(B, k, n, s, s)`.

    Returns:
        Patches of the same shape. Patches with a single channel are returned unchanged.
    """
    count = patches.shape[2]
    if count == 1:
        return patches
    chosen = torch.randint(count, (*patches.shape[:2], 1, 1, 1), device=patches.device)
    deviation = patches.take_along_dim(chosen, dim=2).std(dim=(2, 3, 4), keepdim=True, correction=0)
    mask = torch.arange(count, device=patches.device)[:, None, None] == chosen
    return torch.where(mask, patches, NOISE * deviation * torch.randn_like(patches))


def standardize_patches(patches: Tensor) -> Tensor:
    """Standardizes each channel of each patch to mean zero and standard deviation one.

    Without this, neighboring patches could be found by their similar colors.

    Args:
        patches: Patches `(B, k, n, s, s)`.
    """
    variance, mean = torch.var_mean(patches, dim=(-2, -1), keepdim=True, correction=0)
    return (patches - mean) / (variance + EPSILON).sqrt()


@lru_cache
def distant_permutations(parts: int, count: int) -> Tensor:
    """Chooses permutations with large Hamming distances to each other (Noroozi and Favaro 2016, algorithm 1).

    The algorithm is greedy and starts with the identity. As in the paper, it adds the permutation with the largest sum
    of distances to those already chosen. Ties are resolved by the largest distance to the nearest of them, then by
    lexicographic order. The result is not random.

    Args:
        parts: Number of items that are permuted.
        count: Number of permutations, at most `parts!`.

    Returns:
        The permutations, `int64`, `(count, parts)`.

    Examples:
        >>> distant_permutations(3, 3).tolist()
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    candidates = np.fromiter(chain.from_iterable(permutations(range(parts))), dtype=np.int8).reshape(-1, parts)
    columns = np.ascontiguousarray(candidates.T)  # transposed, because a sum over the short last axis would be slow
    sums = np.zeros(len(candidates), dtype=np.int32)
    nearest = np.full(len(candidates), parts, dtype=np.int8)
    chosen = [0]
    while len(chosen) < count:
        distances = (columns != candidates[chosen[-1]][:, None]).sum(axis=0, dtype=np.int8)
        sums += distances
        np.minimum(nearest, distances, out=nearest)  # zero for the permutations that are already chosen
        farthest = np.flatnonzero(sums == sums[nearest > 0].max())
        chosen.append(int(farthest[nearest[farthest].argmax()]))
    return torch.from_numpy(candidates[chosen].astype(np.int64))
