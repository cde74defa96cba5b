"""Masks and noise: what is hidden from the encoder, drawn from PyTorch's global generator."""

import math

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["central_mask", "noisy", "random_blocks"]

NOISES = ("gaussian", "masking", "salt_and_pepper")
BLOCK = 0.25  # side of a random block, as a share of the image's


def central_mask(images: Tensor, mask_ratio: float) -> Tensor:
    """The rectangle in the middle that covers a share of each image.

    Args:
        images: `(B, C, H, W)`.
        mask_ratio: Share of the area; a quarter is half of each side.

    Returns:
        True where hidden, `(B, 1, H, W)`.

    Examples:
        >>> central_mask(torch.zeros(1, 3, 4, 4), 0.25)[0, 0].int().tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = images.shape[-2:]
    mask = torch.zeros(len(images), 1, height, width, dtype=torch.bool, device=images.device)
    rows, columns = (max(1, round(math.sqrt(mask_ratio) * side)) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    mask[..., top : top + rows, left : left + columns] = True
    return mask


def random_blocks(images: Tensor, mask_ratio: float) -> Tensor:
    """Blocks of a quarter of each side at random places, which may overlap, other ones for each image.

    So many blocks are drawn, at least one, that they cover about `mask_ratio` of the image if none overlap. As in the
    paper, that is the most they hide.

    Args:
        images: `(B, C, H, W)`.
        mask_ratio: Share of the area.

    Returns:
        True where hidden, `(B, 1, H, W)`.
    """
    height, width = images.shape[-2:]
    count = max(1, round(mask_ratio / BLOCK**2))

    def spans(side: int) -> Tensor:
        """Which of the positions along a side each block covers, `(B, count, side)`."""
        length = max(1, round(BLOCK * side))
        starts = torch.randint(side - length + 1, (len(images), count, 1), device=images.device)
        positions = torch.arange(side, device=images.device)
        return (positions >= starts) & (positions < starts + length)

    return (spans(height)[..., :, None] & spans(width)[..., None, :]).any(dim=1, keepdim=True)


def noisy(values: Tensor, noise: str, amount: float) -> Tensor:
    """Corrupts normalized values, about `[-1, 1]`, each one for itself.

    Args:
        values: Of any shape.
        noise: `"gaussian"`: adds noise of standard deviation `amount`. `"masking"`: sets a share `amount` to zero, the
            center of the range. `"salt_and_pepper"`: sets that share to -1 or 1, by the toss of a coin.
        amount: How much of it.

    Raises:
        ArgumentError: There is no such noise, or the amount is out of its range.
    """
    if noise not in NOISES:
        raise ArgumentError(f"the noise is one of {', '.join(NOISES)}, got {noise!r}")
    if not (0 < amount < math.inf if noise == "gaussian" else 0 < amount < 1):
        limits = "positive" if noise == "gaussian" else "between 0 and 1"
        raise ArgumentError(f"the amount of {noise} noise is {limits}, got {amount!r}")
    if noise == "gaussian":
        return values + amount * torch.randn_like(values)
    chance = torch.rand_like(values)
    extremes = torch.where(chance < amount / 2, -1.0, 1.0) if noise == "salt_and_pepper" else torch.zeros_like(values)
    return torch.where(chance < amount, extremes.to(values.dtype), values)
