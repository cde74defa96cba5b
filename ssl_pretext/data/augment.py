"""Random flips and shifts of image batches: pixels keep their values, so any channels, any dtype and NaN are fine."""

import torch
from torch import Tensor

__all__ = ["draw_flips_and_shifts", "flip_and_shift"]

SHIFT_DIVISOR = 8  # an image shifts by at most its height or width divided by this number


def draw_flips_and_shifts(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draws a horizontal flip (0 or 1), a shift down and a shift right for each image.

    Args:
        count: Number of images.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        generator: Source of the random numbers.

    Returns:
        The flip and the two shifts in pixels of each image, int64 `(count, 3)`. Negative shifts go up or left.
    """
    columns = [torch.randint(0, 2, (count,), generator=generator)]
    for length in (height, width):
        limit = length // SHIFT_DIVISOR
        columns.append(torch.randint(-limit, limit + 1, (count,), generator=generator))
    return torch.stack(columns, dim=1)


def flip_and_shift(images: Tensor, draws: Tensor) -> Tensor:
    """Flips images horizontally and then shifts them, in one gather; the uncovered border is filled by reflection.

    Args:
        images: Images `(B, C, H, W)` of any dtype.
        draws: The flips and shifts from `draw_flips_and_shifts`, `(B, 3)`, on the same device.

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
    rows = _reflect(_arange(height, images) - down[:, None], height)  # (B, H)
    columns = _reflect(_arange(width, images) - right[:, None], width)  # (B, W)
    columns = torch.where(flip[:, None] == 1, width - 1 - columns, columns)
    return images[
        _arange(batch, images).view(-1, 1, 1, 1),
        _arange(channels, images).view(1, -1, 1, 1),
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _arange(count: int, images: Tensor) -> Tensor:
    return torch.arange(count, device=images.device)


def _reflect(positions: Tensor, length: int) -> Tensor:
    """Reflects positions outside `0 .. length - 1` at the border pixels; border pixels are not repeated."""
    last = length - 1
    return last - (last - positions.abs()).abs()
