"""Export: encoders and fine-tuned networks for use in other libraries, and saving and loading of representations."""

from ssl_pretext.export.classifier import ImageClassifier, finetune_classifier, is_classifier, load_classifier
from ssl_pretext.export.encoder import ImageEncoder, export_encoder
from ssl_pretext.export.formats import FORMATS, export_network
from ssl_pretext.export.representation import load_representation, save_representation

__all__ = [
    "FORMATS",
    "ImageClassifier",
    "ImageEncoder",
    "export_encoder",
    "export_network",
    "finetune_classifier",
    "is_classifier",
    "load_classifier",
    "load_representation",
    "save_representation",
]
