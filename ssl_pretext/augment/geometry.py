"""Geometric augmentations: crops, flips, rotations and shifts of images with any number of channels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ssl_pretext.augment.steps import Geometric, check_numbers, chosen, register_augmentation

__all__ = ["Flip", "RandomResizedCrop", "Rotation", "Shift", "VerticalFlip", "compose", "resample"]

IDENTITY = torch.eye(2, 3)


@register_augmentation("random_resized_crop")
@dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """Crops a random rectangle and resizes it to the size of the image, as in SimCLR and torchvision.

    Area and aspect ratio are drawn as by torchvision, whose rectangles are drawn again if they do not fit into the
    image; here, a side that is too long is cut.

    Args:
        min_area: Smallest area of a crop as a fraction of the image; the largest is the whole image.
        max_ratio: Largest ratio of width to height, relative to that of the image; the smallest is its inverse.
    """

    num_draws: ClassVar[int] = 4
    exact: ClassVar[bool] = False

    min_area: float = 0.2
    max_ratio: float = 4 / 3

    def __post_init__(self) -> None:
        check_numbers("random_resized_crop", min_area=(self.min_area, 0.01, 1), max_ratio=(self.max_ratio, 1, 10))

    @override
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        area = self.min_area + (1 - self.min_area) * draws[:, 0]
        ratio = torch.exp(math.log(self.max_ratio) * (2 * draws[:, 1] - 1))
        scales = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)  # of x and y
        room = (1 - scales) * draws.new_tensor([width, height])  # in pixels that the crop can move
        return torch.cat([torch.diag_embed(scales), ((draws[:, 2:] - 0.5) * room)[..., None]], dim=2)


@register_augmentation("horizontal_flip")
@dataclass(frozen=True)
class Flip(Geometric):
    """Mirrors left and right.

    Args:
        p: Probability of a flip.
    """

    num_draws: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    signs: ClassVar[tuple[int, int]] = (-1, 1)  # of x and y

    p: float = 0.5

    def __post_init__(self) -> None:
        check_numbers("flip", p=(self.p, 0, 1))

    @override
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        identity = IDENTITY.to(draws).expand(len(draws), 2, 3)
        return chosen(draws[:, 0], self.p, identity * draws.new_tensor(self.signs)[:, None], identity)


@register_augmentation("vertical_flip")
@dataclass(frozen=True)
class VerticalFlip(Flip):
    """Mirrors top and bottom.

    Args:
        p: Probability of a flip.
    """

    signs: ClassVar[tuple[int, int]] = (1, -1)


@register_augmentation("quarter_turns")
@dataclass(frozen=True)
class QuarterTurns(Geometric):
    """Rotates by a random multiple of 90°, each with the same probability; for images without a preferred direction."""

    num_draws: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    square_only: ClassVar[bool] = True

    @override
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        return _rotations((draws[:, 0] * 4).floor() * (math.pi / 2)).round()


@register_augmentation("rotation")
@dataclass(frozen=True)
class Rotation(Geometric):
    """Rotates by a random angle; what lies outside of the image is filled with its mirror image.

    Args:
        degrees: Largest angle in degrees, in both directions.
    """

    num_draws: ClassVar[int] = 1
    exact: ClassVar[bool] = False

    degrees: float = 180.0

    def __post_init__(self) -> None:
        check_numbers("rotation", degrees=(self.degrees, 0, 180))

    @override
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        return _rotations((2 * draws[:, 0] - 1) * math.radians(self.degrees))


@register_augmentation("shift")
@dataclass(frozen=True)
class Shift(Geometric):
    """Shifts by whole pixels; the uncovered border is filled with the mirror image.

    Args:
        fraction: Largest shift in each direction as a fraction of the height and of the width.
    """

    num_draws: ClassVar[int] = 2
    exact: ClassVar[bool] = True

    fraction: float = 0.125

    def __post_init__(self) -> None:
        check_numbers("shift", fraction=(self.fraction, 0, 1))

    @override
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        largest = (draws.new_tensor([width, height]) * self.fraction).floor()
        pixels = (draws * (2 * largest + 1)).floor() - largest
        return torch.cat([torch.eye(2).to(draws).expand(len(draws), 2, 2), pixels[..., None]], dim=2)


def _rotations(angles: Tensor) -> Tensor:
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    return torch.stack([cos, sin, zero, -sin, cos, zero], dim=1).view(-1, 2, 3)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Returns the affine maps `(B, 2, 3)` of a first and then a second step; positions are mapped back in turn."""
    linear = first[..., :2] @ second[..., :2]
    offset = first[..., :2] @ second[..., 2:] + first[..., 2:]
    return torch.cat([linear, offset], dim=2)


def resample(images: Tensor, matrices: Tensor, *, exact: bool) -> Tensor:
    """Reads each pixel of the result at the position that an affine map gives; the border is mirrored.

    Args:
        images: Images `(B, C, H, W)`; of any dtype if `exact`, else floats.
        matrices: Affine maps `(B, 2, 3)`, as `Geometric.matrices` returns them.
        exact: Whether positions are whole pixels, whose values are taken over. Otherwise, values are interpolated
            bilinearly, and a result is missing (NaN) if most of its weight is on missing values.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width, device=images.device)], dim=-1)
    positions = grid @ matrices[:, None].mT  # (B, H, W, 2) in pixels from the center
    half = positions.new_tensor([(width - 1) / 2, (height - 1) / 2])
    if exact:
        columns, rows = (
            _reflect(index, size)
            for index, size in zip((positions + half).round().long().unbind(-1), (width, height), strict=True)
        )
        pixels = (rows * width + columns).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, pixels).view_as(images)
    grid = positions / half.clamp(min=0.5)  # corners of the image are at ±1
    missing = images.isnan()
    if not missing.any():
        return _interpolate(images, grid)
    weights = _interpolate((~missing).to(images), grid)
    values = _interpolate(images.nan_to_num(nan=0.0), grid) / weights
    return values.masked_fill(weights < 0.5, math.nan)


def _interpolate(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid.to(images), mode="bilinear", padding_mode="reflection", align_corners=True)


def _reflect(positions: Tensor, length: int) -> Tensor:
    """Reflects positions outside `0 .. length - 1` at the border pixels; border pixels are not repeated."""
    last = length - 1
    if last == 0:
        return torch.zeros_like(positions)
    return last - (last - positions.remainder(2 * last)).abs()
