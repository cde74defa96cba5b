"""Decoders, which map the output of an encoder back to the size of its input."""

import math
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.encoders.autoencoder import AutoencoderDecoder, AutoencoderEncoder
from ssl_pretext.encoders.copies import unwrapped
from ssl_pretext.encoders.inspection import EncoderShape
from ssl_pretext.encoders.unet import UNetDecoder, skip_layers
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = ["DECODERS", "UpsamplingDecoder", "create_decoder", "decoder_for"]


class UpsamplingDecoder(nn.Module):
    """A light decoder: GroupNorm, nearest upsampling and a 3×3 convolution for each doubling of the size.

    It maps a feature map `(B, in_channels, h, w)` to a prediction `(B, out_channels, s h, s w)` with
    `s = 2**doublings`.

    Args:
        in_channels: Number of channels of the feature map.
        out_channels: Number of channels of the prediction.
        doublings: Number of times that the size is doubled.
        width: Number of inner channels.
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


UNET = "unet"
DECODERS: dict[str, Callable[..., nn.Module]] = {"autoencoder": AutoencoderDecoder, "upsampling": UpsamplingDecoder}


def decoder_for(encoder: nn.Module) -> str:
    """Returns the name of an encoder's default decoder: `"autoencoder"` for the autoencoder, else `"upsampling"`."""
    return "autoencoder" if isinstance(encoder, AutoencoderEncoder) else "upsampling"


def create_decoder(
    decoder: str | nn.Module, encoder: nn.Module, shape: EncoderShape, out_channels: int, *, output_stride: int = 1
) -> nn.Module:
    """Creates a decoder by name; a module is returned as it is, without the wrappers that `create_encoder` removes.

    `"unet"` joins the maps of the encoder's layers and its input. The other decoders double the size of the encoder's
    output as often as needed to reach the size of the prediction. If the reduction of the encoder is not a power of
    two, their output is larger than that, and the task resizes it.

    Args:
        decoder: `"autoencoder"`, `"upsampling"`, `"unet"`, a `SkipDecoder`, or a module that maps `(B, C, h, w)` to
            `(B, out_channels, H, W)`.
        encoder: The encoder.
        shape: Shape of the encoder, from `measure_encoder`.
        out_channels: Number of channels to predict.
        output_stride: Pixels of the image per pixel of the prediction.

    Raises:
        UnknownNameError: There is no decoder of this name.
        ArgumentError: `decoder` is neither a name nor a module, or the encoder does not run.

    Examples:
        >>> import torch
        >>> encoder = nn.Conv2d(3, 192, kernel_size=14, stride=14)
        >>> shape = EncoderShape(in_channels=3, channels=192, reduction=14)
        >>> create_decoder("autoencoder", encoder, shape, 2)(encoder(torch.zeros(1, 3, 28, 28))).shape
        torch.Size([1, 2, 32, 32])
    """
    if isinstance(decoder, nn.Module):
        return unwrapped(decoder)
    if not isinstance(decoder, str):
        raise ArgumentError(f"a decoder must be a name or an nn.Module instance, got {type(decoder).__name__}")
    if decoder == UNET:
        skips = skip_layers(encoder, shape, output_stride=output_stride)
        return UNetDecoder(shape, out_channels, skips=skips, output_stride=output_stride)
    if decoder not in DECODERS:
        names = ", ".join(sorted([*DECODERS, UNET]))
        raise UnknownNameError(f"there is no decoder named {decoder!r}; the decoders are {names}")
    # A reduction measured on odd sizes can have a logarithm such as 2.0000001; rounding keeps it from becoming three.
    doublings = math.ceil(round(math.log2(max(1.0, shape.reduction / output_stride)), 6))
    return DECODERS[decoder](shape.channels, out_channels, doublings=doublings)
