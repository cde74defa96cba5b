"""Representations: named frozen functions from images to features, which is all that a probe sees of a network."""

from ssl_pretext.representations.base import Backbone, ColorHistogram, Concatenated, Pixels, Representation
from ssl_pretext.representations.collapse import collapse_warnings, feature_health
from ssl_pretext.representations.network import FrozenNetwork, imagenet_reference

__all__ = [
    "Backbone",
    "ColorHistogram",
    "Concatenated",
    "FrozenNetwork",
    "Pixels",
    "Representation",
    "collapse_warnings",
    "feature_health",
    "imagenet_reference",
]
