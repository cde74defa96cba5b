"""Encoders by name, and any `nn.Module` from `(B, in_channels, H, W)` to `(B, C, h, w)` in their place."""

from collections.abc import Callable

from torch import nn

from ssl_pretext.encoders.autoencoder import AutoencoderDecoder, AutoencoderEncoder
from ssl_pretext.encoders.decoders import UpsamplingDecoder, create_decoder
from ssl_pretext.encoders.inspection import EncoderShape, feature_layers, measure_encoder
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Registry

__all__ = [
    "AutoencoderDecoder",
    "AutoencoderEncoder",
    "EncoderShape",
    "UpsamplingDecoder",
    "create_decoder",
    "create_encoder",
    "feature_layers",
    "list_encoders",
    "measure_encoder",
    "register_encoder",
]

ENCODERS: Registry[nn.Module] = Registry("encoder")
ENCODERS.register("autoencoder")(AutoencoderEncoder)


def create_encoder(encoder: str | nn.Module, *, in_channels: int = 1) -> nn.Module:
    """Builds the encoder that a name (with options in brackets) stands for; a module passes through.

    Args:
        encoder: A name of `list_encoders()`, or a module from `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Channels of its input.

    Raises:
        UnknownNameError: There is no such name.
        ArgumentError: `encoder` is neither a name nor a module.

    Examples:
        >>> import torch
        >>> encoder = create_encoder("autoencoder", in_channels=1)
        >>> encoder(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
    """
    if isinstance(encoder, nn.Module):
        return encoder
    if not isinstance(encoder, str):
        raise ArgumentError(f"an encoder is a name or an nn.Module instance, got {type(encoder).__name__}")
    return ENCODERS.create(encoder, in_channels=in_channels)


def list_encoders() -> list[str]:
    """Names that `create_encoder` knows."""
    return ENCODERS.names()


def register_encoder(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Files a factory that takes `in_channels` under a name, as a decorator."""
    return ENCODERS.register(name)
