"""Augmentations of values: color jitter and grayscale for photos, blur and noise for any channels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ssl_pretext.augment.keyed_random import keyed_normals
from ssl_pretext.augment.steps import Pixelwise, check_numbers, chosen, register_augmentation

__all__ = ["Blur", "ColorJitter", "Grayscale", "Noise"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision


@register_augmentation("color_jitter")
@dataclass(frozen=True)
class ColorJitter(Pixelwise):
    """Changes the brightness, the contrast, the saturation and the hue of photos, in this order.

    Each factor is drawn from `[1 - x, 1 + x]`, and the shift of the hue from `[-hue, hue]` of a full turn, as by
    torchvision, which also draws the order.

    Args:
        brightness: Largest change of the factor that multiplies all values.
        contrast: Largest change of the factor that multiplies the distance to the mean gray value.
        saturation: Largest change of the factor that multiplies the distance to the gray value of the pixel.
        hue: Largest shift of the hue.
        p: Probability that an image is changed.
    """

    num_draws: ClassVar[int] = 5
    photos_only: ClassVar[bool] = True

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8

    def __post_init__(self) -> None:
        factors = {name: (getattr(self, name), 0, 1) for name in ("brightness", "contrast", "saturation", "p")}
        check_numbers("color_jitter", **factors, hue=(self.hue, 0, 0.5))

    @override
    def apply(self, images: Tensor, draws: Tensor, keys: Tensor) -> Tensor:
        largest = draws.new_tensor([self.brightness, self.contrast, self.saturation, self.hue])
        changes = ((2 * draws[:, 1:] - 1) * largest).to(images).view(-1, 4, 1, 1, 1)
        brightness, contrast, saturation, hue = changes.unbind(1)
        values = (images * (1 + brightness)).clamp(0, 1)
        values = _away_from(_gray(values).mean((2, 3), keepdim=True), values, 1 + contrast)
        values = _away_from(_gray(values), values, 1 + saturation)
        if self.hue:
            values = _turn_hue(values, hue[:, 0])
        return chosen(draws[:, 0], self.p, values, images)


@register_augmentation("grayscale")
@dataclass(frozen=True)
class Grayscale(Pixelwise):
    """Removes the colors of photos.

    Args:
        p: Probability that an image is changed.
    """

    num_draws: ClassVar[int] = 1
    photos_only: ClassVar[bool] = True

    p: float = 0.2

    def __post_init__(self) -> None:
        check_numbers("grayscale", p=(self.p, 0, 1))

    @override
    def apply(self, images: Tensor, draws: Tensor, keys: Tensor) -> Tensor:
        return chosen(draws[:, 0], self.p, _gray(images).expand_as(images), images)


@register_augmentation("blur")
@dataclass(frozen=True)
class Blur(Pixelwise):
    """Blurs with a Gaussian, whose width is drawn for each image; the border is mirrored.

    Args:
        min_sigma: Smallest standard deviation in pixels.
        max_sigma: Largest standard deviation in pixels.
        p: Probability that an image is changed.
    """

    num_draws: ClassVar[int] = 2

    min_sigma: float = 0.1
    max_sigma: float = 2.0
    p: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(
            "blur",
            min_sigma=(self.min_sigma, 0.01, self.max_sigma),
            max_sigma=(self.max_sigma, 0.01, 50),
            p=(self.p, 0, 1),
        )

    @override
    def apply(self, images: Tensor, draws: Tensor, keys: Tensor) -> Tensor:
        sigma = (self.min_sigma + (self.max_sigma - self.min_sigma) * draws[:, 1]).to(images)
        radius = min(math.ceil(3 * self.max_sigma), min(images.shape[-2:]) - 1)  # as far as an image can be mirrored
        distances = torch.arange(-radius, radius + 1, device=images.device)
        kernels = torch.softmax(-(distances**2) / (2 * sigma[:, None] ** 2), dim=1)
        missing = images.isnan()
        if not missing.any():
            return chosen(draws[:, 0], self.p, _filtered(images, kernels), images)
        weights = _filtered((~missing).to(images), kernels)
        blurred = _filtered(images.nan_to_num(nan=0.0), kernels) / weights
        return chosen(draws[:, 0], self.p, blurred.masked_fill(missing, math.nan), images)


@register_augmentation("noise")
@dataclass(frozen=True)
class Noise(Pixelwise):
    """Adds Gaussian noise to each pixel and channel; photos are clipped to `[0, 1]` afterward.

    Args:
        std: Largest standard deviation of the noise, relative to that of the channel in the image. The standard
            deviation is drawn for each image.
        p: Probability that an image is changed.
    """

    num_draws: ClassVar[int] = 2

    std: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        check_numbers("noise", std=(self.std, 0, 10), p=(self.p, 0, 1))

    @override
    def apply(self, images: Tensor, draws: Tensor, keys: Tensor) -> Tensor:
        mean = images.nanmean((2, 3), keepdim=True)
        scale = (images - mean).square().nanmean((2, 3), keepdim=True).sqrt()  # NaN if the whole channel is missing
        size = self.std * draws[:, 1].to(images).view(-1, 1, 1, 1) * scale
        return chosen(draws[:, 0], self.p, images + size * keyed_normals(keys, images.shape[1:]).to(images), images)


def _gray(images: Tensor) -> Tensor:
    return (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def _away_from(center: Tensor, values: Tensor, factors: Tensor) -> Tensor:
    return (center + factors * (values - center)).clamp(0, 1)


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue of the HSV representation by a fraction of a full turn; value and saturation stay the same."""
    value, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - smallest
    red, green, blue = (images / chroma.clamp(min=torch.finfo(images.dtype).tiny)).split(1, dim=1)
    hue = torch.where(
        images[:, :1] == value, green - blue, torch.where(images[:, 1:2] == value, blue - red + 2, red - green + 4)
    )
    # The formula f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + 6 hue) mod 6 returns red, green and blue.
    offsets = images.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    position = (offsets + hue + 6 * turns[:, None]).remainder(6)
    return value - chroma * torch.minimum(position, 4 - position).clamp(0, 1)


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Filters the rows and the columns of each image with its kernel `(B, K)`."""
    radius = kernels.shape[1] // 2
    values = images.transpose(0, 1)  # one group of the convolution per image
    for dim, shape in ((2, (-1, 1)), (3, (1, -1))):
        padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        values = F.conv2d(
            F.pad(values, padding, mode="reflect"), kernels.view(len(kernels), 1, *shape), groups=len(kernels)
        )
    return values.transpose(0, 1)
