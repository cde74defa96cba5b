"""A decoder with skip connections (U-Net, Ronneberger et al. 2015), for any encoder whose layers have feature maps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.encoders.inspection import EncoderShape, measure_layers

__all__ = ["SkipDecoder", "UNetDecoder", "skip_layers"]

NARROWEST, WIDEST = 32, 256  # channels of the steps at the size of the image and of the coarsest ones
PIXEL_WIDTH = 64  # of the hidden layers of the function of single pixels


class SkipDecoder(nn.Module, ABC):
    """Base class of decoders that get maps of several layers of the encoder and its input, besides its output.

    Args:
        layers: Names of the layers, from `feature_layers`, whose maps the decoder gets.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)

    @abstractmethod
    def forward(self, features: Tensor, maps: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Returns the prediction `(B, m, h, w)`.

        Args:
            features: Output of the encoder, `(B, C, h, w)`.
            maps: The maps of `layers`, in this order.
            inputs: The input that the encoder got, `(B, n, H, W)`.
        """


class UNetDecoder(SkipDecoder):
    """Enlarges the encoder's output step by step, and joins at each step the map of that size and at last the input.

    The input at full resolution makes details predictable that are lost in maps of lower resolution. It is joined once
    more before the head, which is a function of single pixels: a band that depends on the other bands of the same pixel
    is hard to learn for convolutions over several pixels. All norms are over the channels of one pixel, because norms
    over an image or a batch change the level of its values, such as the brightness of a stain.

    Args:
        shape: Shape of the encoder.
        out_channels: Number of channels of the prediction.
        skips: Shape of each layer whose map is joined, by name, from coarse to fine; see `skip_layers`.
        output_stride: Pixels of the image per pixel of the prediction. The input is averaged down to it.

    Examples:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 16, 2, stride=2))
        >>> decoder = UNetDecoder(EncoderShape(3, 16, 4), 2, skips={"0": EncoderShape(3, 8, 2)})
        >>> images = torch.zeros(1, 3, 20, 30)
        >>> decoder(encoder(images), [encoder[0](images)], images).shape
        torch.Size([1, 2, 20, 30])
    """

    def __init__(
        self, shape: EncoderShape, out_channels: int, *, skips: Mapping[str, EncoderShape], output_stride: int = 1
    ) -> None:
        super().__init__(list(skips))
        self.output_stride = output_stride
        steps, channels, reduction = [], shape.channels, shape.reduction
        for skip in [*skips.values(), EncoderShape(shape.in_channels, shape.in_channels, output_stride)]:
            width = round(min(WIDEST, max(NARROWEST, 16 * skip.reduction)))
            # A map is at most doubled at once. Rounding keeps a logarithm such as 2.0000001 from becoming three.
            doublings = max(0, math.ceil(round(math.log2(reduction / skip.reduction), 6)) - 1)
            steps.append(_Step(channels, skip.channels, width, doublings=doublings))
            channels, reduction = width, skip.reduction
        self.steps = nn.ModuleList(steps)
        self.head = nn.Sequential(
            *_block(channels + shape.in_channels, PIXEL_WIDTH, kernel_size=1),
            *_block(PIXEL_WIDTH, PIXEL_WIDTH, kernel_size=1),
            nn.Conv2d(PIXEL_WIDTH, out_channels, kernel_size=1),
        )

    @override
    def forward(self, features: Tensor, maps: Sequence[Tensor], inputs: Tensor) -> Tensor:
        if self.output_stride > 1:
            inputs = F.avg_pool2d(inputs, self.output_stride, ceil_mode=True)
        for step, skip in zip(self.steps, [*maps, inputs], strict=True):
            features = step(features, skip)
        output: Tensor = self.head(torch.cat([features, inputs], dim=1))
        return output


class _Step(nn.Module):
    """Enlarges a map to the size of another one, joins the two, and applies two convolutions."""

    def __init__(self, channels: int, skip_channels: int, width: int, *, doublings: int) -> None:
        super().__init__()
        before: list[nn.Module] = []
        for _ in range(doublings):
            before += [nn.Upsample(scale_factor=2, mode="nearest"), *_block(channels, width)]
            channels = width
        self.before = nn.Sequential(*before)
        self.after = nn.Sequential(*_block(channels + skip_channels, width), *_block(width, width))

    @override
    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        enlarged = F.interpolate(self.before(features), skip.shape[-2:], mode="nearest")
        joined: Tensor = self.after(torch.cat([enlarged, skip], dim=1))
        return joined


def _block(channels: int, width: int, *, kernel_size: int = 3) -> list[nn.Module]:
    from timm.layers import LayerNorm2d

    return [nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2), LayerNorm2d(width), nn.SiLU()]


def skip_layers(encoder: nn.Module, shape: EncoderShape, *, output_stride: int = 1) -> dict[str, EncoderShape]:
    """Returns the last layer of each resolution between those of the encoder's output and the prediction.

    A plain vision transformer has none, because all of its layers have the same resolution.

    Args:
        encoder: The encoder, which runs once on a blank image.
        shape: Shape of the encoder.
        output_stride: Pixels of the image per pixel of the prediction.

    Returns:
        The shape of each layer by its name, from coarse to fine.

    Raises:
        ArgumentError: The encoder does not run.

    Examples:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 2, stride=2))
        >>> skip_layers(encoder, EncoderShape(3, 16, 4))
        {'1': EncoderShape(in_channels=3, channels=8, reduction=2.0)}
    """
    last: dict[float, str] = {}
    layers = measure_layers(encoder, shape.in_channels)
    for name, layer in layers.items():
        if output_stride <= round(layer.reduction, 3) < round(shape.reduction, 3):
            last[round(layer.reduction, 3)] = name
    return {last[reduction]: layers[last[reduction]] for reduction in sorted(last, reverse=True)}
