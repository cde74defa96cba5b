"""Channel values as classes: bins, soft encoding, priors and decoding."""

from ssl_pretext.quantize.quantizer import ColorQuantizer, DecodeMethod, Quantizer, is_colorful

__all__ = ["ColorQuantizer", "DecodeMethod", "Quantizer", "is_colorful"]
