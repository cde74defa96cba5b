"""Encoders by name or as any `nn.Module`, their feature maps, and decoders for them."""

from ssl_pretext.encoders.autoencoder import AutoencoderDecoder, AutoencoderEncoder
from ssl_pretext.encoders.decoders import UpsamplingDecoder, create_decoder, decoder_for
from ssl_pretext.encoders.inspection import EncoderShape, feature_layers, feature_maps, measure_encoder
from ssl_pretext.encoders.registry import create_encoder, half_width, list_encoders, register_encoder
from ssl_pretext.encoders.unet import SkipDecoder, UNetDecoder
from ssl_pretext.encoders.untrained import without_weights

__all__ = [
    "AutoencoderDecoder",
    "AutoencoderEncoder",
    "EncoderShape",
    "SkipDecoder",
    "UNetDecoder",
    "UpsamplingDecoder",
    "create_decoder",
    "create_encoder",
    "decoder_for",
    "feature_layers",
    "feature_maps",
    "half_width",
    "list_encoders",
    "measure_encoder",
    "register_encoder",
    "without_weights",
]
