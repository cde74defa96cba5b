"""Conversion of the data that `fit` and `evaluate` accept to image stores and streams."""

import logging
from typing import Any

from ssl_pretext.data.datasets import Key, Samples, is_source
from ssl_pretext.data.sample_stream import SampleStream
from ssl_pretext.data.store import ImageStore, store_of
from ssl_pretext.data.stream import ImageStream
from ssl_pretext.errors import ArgumentError

__all__ = ["as_store", "as_training_images"]

log = logging.getLogger(__name__)


def as_store(data: Any, *, target: Key | None = "label") -> ImageStore:
    """Converts the data that `evaluate` accepts to an image store.

    Args:
        data: An `ImageStore`, a pair `(images, labels)`, or a dataset, a loader or `Samples`, which are stored as by
            `ImageStore.from_dataset`.
        target: Key of the targets in samples that are dicts, if `Samples` names no other; None stores no targets.

    Raises:
        ArgumentError: `data` is none of these, or its images cannot be stored together.
    """
    if isinstance(data, ImageStore):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return ImageStore.from_arrays(*data)
    if isinstance(data, Samples) or is_source(data):
        return store_of(_as_samples(data), target=target)
    raise ArgumentError(
        "images must be an ImageStore, a dataset or a loader (of PyTorch or Hugging Face), or a pair of images "
        f"(N, C, H, W) and labels (N,); got {type(data).__name__}"
    )


def as_training_images(data: Any) -> ImageStore | ImageStream | SampleStream:
    """Converts the images that `fit` accepts.

    Args:
        data: An `ImageStore`, an `ImageStream`, or a dataset, a loader or `Samples`. An indexed dataset is stored;
            what can only be iterated is read again in each epoch.

    Raises:
        ArgumentError: `data` is none of these, or its images cannot be stored together.
    """
    if isinstance(data, ImageStore | ImageStream):
        return data
    if not isinstance(data, Samples) and not is_source(data):
        raise ArgumentError(
            f"fit() needs an ImageStore, an ImageStream, a dataset or a loader as images, got {type(data).__name__}; "
            "use ImageStore.from_folder() for a folder, ImageStore.from_arrays() for a tensor or an array"
        )
    samples = _as_samples(data)
    if not samples.is_indexed:
        return SampleStream(samples)
    log.info(
        "the samples of %s are read once, so that random transforms are the same in all epochs; pass a DataLoader to "
        "draw them again, or FitConfig.augment",
        samples.name,
    )
    return store_of(samples, target=None)


def _as_samples(data: Any) -> Samples:
    return data if isinstance(data, Samples) else Samples(data)
