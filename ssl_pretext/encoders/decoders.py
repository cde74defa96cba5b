"""Decoders: from an encoder's feature map back to the size of its input."""

import math
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.encoders.autoencoder import AutoencoderDecoder, AutoencoderEncoder
from ssl_pretext.encoders.inspection import EncoderShape
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = ["DECODERS", "UpsamplingDecoder", "create_decoder", "decoder_for"]


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

    @override
    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


DECODERS: dict[str, Callable[..., nn.Module]] = {"autoencoder": AutoencoderDecoder, "upsampling": UpsamplingDecoder}


def decoder_for(encoder: nn.Module) -> str:
    """The name of the decoder that fits an encoder: its mirror for the documented autoencoder, else `"upsampling"`."""
    return "autoencoder" if isinstance(encoder, AutoencoderEncoder) else "upsampling"


def create_decoder(decoder: str | nn.Module, shape: EncoderShape, out_channels: int) -> nn.Module:
    """Builds the decoder that a name stands for; a module passes through.

    A decoder doubles the size as often as it takes to reach the encoder's input. For a reduction that is not a power of
    two its output is larger than the input, and the task resizes it.

    Args:
        decoder: `"autoencoder"`, `"upsampling"`, or a module `(B, C, h, w)` to `(B, out_channels, H, W)`.
        shape: The shape of the encoder, from `measure_encoder`.
        out_channels: Channels to predict.

    Raises:
        UnknownNameError: There is no decoder of that name.
        ArgumentError: `decoder` is neither a name nor a module.

    Examples:
        >>> import torch
        >>> shape = EncoderShape(in_channels=3, channels=192, reduction=14)
        >>> create_decoder("autoencoder", shape, 2)(torch.zeros(1, 192, 2, 2)).shape
        torch.Size([1, 2, 32, 32])
    """
    if isinstance(decoder, nn.Module):
        return decoder
    if not isinstance(decoder, str):
        raise ArgumentError(f"a decoder is a name or an nn.Module instance, got {type(decoder).__name__}")
    if decoder not in DECODERS:
        raise UnknownNameError(f"there is no decoder named {decoder!r}; known: {', '.join(sorted(DECODERS))}")
    # Rounding keeps 2.0000001 doublings, the logarithm of a reduction measured on odd sizes, from becoming three.
    doublings = math.ceil(round(math.log2(max(1.0, shape.reduction)), 6))
    return DECODERS[decoder](shape.channels, out_channels, doublings=doublings)
