"""Random flips and shifts of image batches: each pixel keeps its value, so they fit any channels, dtype and NaN."""

import torch
from torch import Tensor

__all__ = ["draw_flips_and_shifts", "flip_and_shift"]

LARGEST_SHIFT = 8  # a shift is at most this part of the side


def draw_flips_and_shifts(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draws a flip (0 or 1), a shift down and a shift to the right in pixels for each image: int64 `(count, 3)`."""
    columns = [torch.randint(0, 2, (count,), generator=generator)]
    for side in (height, width):
        most = side // LARGEST_SHIFT
        columns.append(torch.randint(-most, most + 1, (count,), generator=generator))
    return torch.stack(columns, dim=1)


def flip_and_shift(images: Tensor, draws: Tensor) -> Tensor:
    """Flips images horizontally and then shifts them, in one gather; the uncovered border is filled by reflection.

    Args:
        images: `(B, C, H, W)` of any dtype.
        draws: What `draw_flips_and_shifts` returned for each image, `(B, 3)`, on the same device.

    Returns:
        New images of the same shape.

    Examples:
        >>> images = torch.arange(8).view(1, 1, 1, 8)
        >>> flip_and_shift(images, torch.tensor([[0, 0, 1]])).flatten().tolist()
        [1, 0, 1, 2, 3, 4, 5, 6]
        >>> flip_and_shift(images, torch.tensor([[1, 0, 0]])).flatten().tolist()
        [7, 6, 5, 4, 3, 2, 1, 0]
    """
    batch, channels, height, width = images.shape
    flip, down, right = draws.unbind(1)
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
