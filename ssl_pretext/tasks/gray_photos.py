"""The check that training images have colors, without which a task that tells color from lightness is trivial."""

import logging

import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.spacing import evenly_spaced

__all__ = ["check_colors"]

SAMPLE = 512  # images that are measured
GRAY = 2 / 255  # mean distance between the highest and the lowest of R, G and B up to which an image counts as gray
MOST_GRAY = 0.95  # of images that are gray; above this fraction, training is refused
WARNING_FRACTION = 0.5  # above this fraction of gray images, a warning is logged

log = logging.getLogger(__name__)


def check_colors(images: ImageStore, task: str) -> None:
    """Raises if almost all images are gray; warns if most are.

    Args:
        images: The training images, sRGB, of which up to 512 are measured.
        task: Name of the task in messages.

    Raises:
        ArgumentError: More than 95% of the images are gray.
    """
    if images.num_channels != 3:  # the task itself refuses them
        return
    chosen = evenly_spaced(len(images), SAMPLE)
    gray = 0
    for part in chosen.split(64):  # which limits the memory for large images
        photos = images.images(part)
        spread = (photos.amax(1) - photos.amin(1)).float().mean((1, 2)) / (255 if photos.dtype == torch.uint8 else 1)
        gray += int((spread <= GRAY).sum())
    measured = f"{gray} of {len(chosen)} training images{' that were measured' * (len(chosen) < len(images))} are gray"
    if gray > MOST_GRAY * len(chosen):
        raise ArgumentError(
            f"{task} learns from the colors of its images, but {measured}. Train it on color photos, or choose a task "
            "that needs no colors, such as denoising, inpainting or rotation"
        )
    if gray > WARNING_FRACTION * len(chosen):
        log.warning("%s learns from the colors of its images, but %s; leave them out", task, measured)
