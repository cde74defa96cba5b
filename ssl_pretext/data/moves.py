"""Random flips and shifts of image batches: each pixel keeps its value, so they fit any channels, dtype and NaN."""

import torch
from torch import Tensor

__all__ = ["draw_moves", "moved"]

LARGEST_SHIFT = 8  # a shift is at most this part of the side


def draw_moves(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """How each image is moved: int64 `(count, 3)` of a flip (0 or 1), pixels down and pixels to the right."""
    columns = [torch.randint(0, 2, (count,), generator=generator)]
    for side in (height, width):
        most = side // LARGEST_SHIFT
        columns.append(torch.randint(-most, most + 1, (count,), generator=generator))
    return torch.stack(columns, dim=1)


def moved(images: Tensor, moves: Tensor) -> Tensor:
    """Images flipped horizontally and then shifted, in one gather; what a shift uncovers mirrors the image.

    Args:
        images: `(B, C, H, W)` of any dtype.
        moves: Of `draw_moves`, `(B, 3)`, on the same device.

    Returns:
        New images of the same shape.

    Examples:
        >>> images = torch.arange(8).view(1, 1, 1, 8)
        >>> moved(images, torch.tensor([[0, 0, 1]])).flatten().tolist()
        [1, 0, 1, 2, 3, 4, 5, 6]
        >>> moved(images, torch.tensor([[1, 0, 0]])).flatten().tolist()
        [7, 6, 5, 4, 3, 2, 1, 0]
    """
    batch, channels, height, width = images.shape
    flip, down, right = moves.unbind(1)
    rows = _mirrored(_pixels(height, images) - down[:, None], height)  # (B, H)
    columns = _mirrored(_pixels(width, images) - right[:, None], width)  # (B, W)
    columns = torch.where(flip[:, None] == 1, width - 1 - columns, columns)
    return images[
        _pixels(batch, images).view(-1, 1, 1, 1),
        _pixels(channels, images).view(1, -1, 1, 1),
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _pixels(count: int, images: Tensor) -> Tensor:
    return torch.arange(count, device=images.device)


def _mirrored(positions: Tensor, side: int) -> Tensor:
    """Positions up to a side outside, reflected at the border pixels, which are not repeated."""
    last = side - 1
    return last - (last - positions.abs()).abs()
