"""Quantization of channel values into bins: soft encoding, priors, rebalancing weights and decoding."""

from ssl_pretext.quantize.quantizer import ColorQuantizer, DecodeMethod, Quantizer, is_colorful

__all__ = ["ColorQuantizer", "DecodeMethod", "Quantizer", "is_colorful"]
