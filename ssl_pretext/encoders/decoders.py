"""Decoders: from an encoder's feature map back to the size of its input."""

import math
from typing import cast

from torch import Tensor, nn

from ssl_pretext.encoders.autoencoder import AutoencoderDecoder, AutoencoderEncoder
from ssl_pretext.encoders.inspection import EncoderShape

__all__ = ["UpsamplingDecoder", "create_decoder"]


class UpsamplingDecoder(nn.Module):
    """A light decoder: a 3×3 convolution and GroupNorm at each doubling of the size, then one to the outputs.

    Args:
        in_channels: Channels of the feature map `(B, in_channels, h, w)`.
        out_channels: Channels of the prediction `(B, out_channels, s h, s w)`.
        doublings: How often the size is doubled, `s = 2**doublings`.
        width: Channels in between.
    """

    def __init__(self, in_channels: int, out_channels: int, *, doublings: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, kernel_size=3, padding=1)]
        for _ in range(doublings):
            layers += [
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(width, width, kernel_size=3, padding=1),
            ]
        layers += [nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, out_channels, kernel_size=3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


def create_decoder(encoder: nn.Module, shape: EncoderShape, out_channels: int) -> nn.Module:
    """The decoder that fits an encoder: its mirror for the documented autoencoder, else `UpsamplingDecoder`."""
    if isinstance(encoder, AutoencoderEncoder):
        return AutoencoderDecoder(shape.channels, out_channels)
    return UpsamplingDecoder(shape.channels, out_channels, doublings=math.ceil(math.log2(max(1.0, shape.reduction))))
