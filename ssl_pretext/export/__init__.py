"""Export: encoders for use in other libraries, and saving and loading of representations."""

from ssl_pretext.export.encoder import ImageEncoder, export_encoder
from ssl_pretext.export.representation import load_representation, save_representation

__all__ = ["ImageEncoder", "export_encoder", "load_representation", "save_representation"]
