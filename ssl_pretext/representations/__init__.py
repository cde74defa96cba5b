"""Representations: named frozen functions from images to features, which is how probes see a network."""

from ssl_pretext.representations.base import OUTPUT, Backbone, ColorHistogram, Concatenated, Pixels, Representation
from ssl_pretext.representations.collapse import Health, collapse_warnings, feature_health, health_rows
from ssl_pretext.representations.embedding import Embeddings
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.representations.feature_formats import FeatureFormats
from ssl_pretext.representations.network import IMAGENET_LABELS, FrozenNetwork, imagenet_reference

__all__ = [
    "IMAGENET_LABELS",
    "OUTPUT",
    "Backbone",
    "ColorHistogram",
    "Concatenated",
    "Embeddings",
    "FeatureFormats",
    "FrozenNetwork",
    "Health",
    "Pixels",
    "Representation",
    "collapse_warnings",
    "extract_features",
    "feature_health",
    "health_rows",
    "imagenet_reference",
]
