"""Masks and noise that hide parts of an image from the encoder, drawn from PyTorch's global generator."""

import math

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["add_noise", "central_mask", "random_blocks"]

NOISES = ("gaussian", "masking", "salt_and_pepper")
BLOCK = 0.25  # height and width of a random block, as a fraction of those of the image


def central_mask(images: Tensor, mask_ratio: float) -> Tensor:
    """Returns a mask of one rectangle in the middle of each image.

    Args:
        images: Images `(B, C, H, W)`; only their shape and device matter.
        mask_ratio: Fraction of the area to mask; 0.25 masks half of the height and half of the width.

    Returns:
        The mask `(B, 1, H, W)`, true at masked pixels.

    Examples:
        >>> central_mask(torch.zeros(1, 3, 4, 4), 0.25)[0, 0].int().tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = images.shape[-2:]
    mask = torch.zeros(len(images), 1, height, width, dtype=torch.bool, device=images.device)
    rows, columns = (max(1, round(math.sqrt(mask_ratio) * size)) for size in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    mask[..., top : top + rows, left : left + columns] = True
    return mask


def random_blocks(images: Tensor, mask_ratio: float) -> Tensor:
    """Returns a mask of blocks at random positions, drawn independently for each image.

    A block has a quarter of the height and of the width of the image. The number of blocks, at least one, is chosen so
    that they would mask about `mask_ratio` of the image without overlap. Blocks may overlap and then mask less, as in
    Pathak et al. 2016.

    Args:
        images: Images `(B, C, H, W)`; only their shape and device matter.
        mask_ratio: Fraction of the area to mask if no blocks overlap.

    Returns:
        The mask `(B, 1, H, W)`, true at masked pixels.
    """
    height, width = images.shape[-2:]
    count = max(1, round(mask_ratio / BLOCK**2))

    def spans(size: int) -> Tensor:
        """Returns a mask `(B, count, size)` of the rows, or columns, that each block covers."""
        length = max(1, round(BLOCK * size))
        starts = torch.randint(size - length + 1, (len(images), count, 1), device=images.device)
        positions = torch.arange(size, device=images.device)
        return (positions >= starts) & (positions < starts + length)

    return (spans(height)[..., :, None] & spans(width)[..., None, :]).any(dim=1, keepdim=True)


def add_noise(values: Tensor, noise: str, amount: float) -> Tensor:
    """Corrupts normalized values, which are about in `[-1, 1]`, each independently of the others.

    Args:
        values: Tensor of any shape.
        noise: Kind of noise. `"gaussian"` adds noise of standard deviation `amount`. `"masking"` sets a fraction
            `amount` of the values to zero, the center of the range. `"salt_and_pepper"` sets this fraction to -1 or 1
            with equal probability.
        amount: Standard deviation of the noise, or fraction of the values that is changed.

    Raises:
        ArgumentError: The kind of noise is unknown, or the amount is out of its range.
    """
    if noise not in NOISES:
        raise ArgumentError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    if not (0 < amount < math.inf if noise == "gaussian" else 0 < amount < 1):
        limits = "positive and finite" if noise == "gaussian" else "between 0 and 1"
        raise ArgumentError(f"amount of {noise} noise must be {limits}, got {amount!r}")
    if noise == "gaussian":
        return values + amount * torch.randn_like(values)
    chance = torch.rand_like(values)
    extremes = torch.where(chance < amount / 2, -1.0, 1.0) if noise == "salt_and_pepper" else torch.zeros_like(values)
    return torch.where(chance < amount, extremes.to(values.dtype), values)
