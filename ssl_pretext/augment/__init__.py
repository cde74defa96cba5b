"""Augmentations of batches of images with any number of channels, whose random numbers depend on keys of the images."""

from ssl_pretext.augment import photometric as photometric  # registers its steps
from ssl_pretext.augment.augmentation import (
    NO_AUGMENTATION,
    Augment,
    Augmentation,
    PerImage,
    create_augmentation,
)
from ssl_pretext.augment.steps import Geometric, Pixelwise, list_augmentations, register_augmentation

__all__ = [
    "NO_AUGMENTATION",
    "Augment",
    "Augmentation",
    "Geometric",
    "PerImage",
    "Pixelwise",
    "create_augmentation",
    "list_augmentations",
    "register_augmentation",
]
