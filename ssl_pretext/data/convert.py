"""Conversion of the data that `evaluate` accepts to image stores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_pretext.data.decode import pixels_of_image
from ssl_pretext.data.store import ImageStore
from ssl_pretext.errors import ArgumentError

__all__ = ["as_store"]


def as_store(data: Any) -> ImageStore:
    """Converts the data that `evaluate` accepts to an image store.

    Args:
        data: An `ImageStore`, a pair `(images, labels)`, or a Dataset of `(image, label)`.

    Raises:
        ArgumentError: `data` is none of the three, or its images cannot be stacked.
    """
    if isinstance(data, ImageStore):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return ImageStore.from_arrays(*data)
    # Strings, mappings and plain arrays have a length and items too, but their items are not samples.
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if sized and not isinstance(data, str | bytes | Mapping | Tensor | np.ndarray) and len(data) > 0:
        samples = [data[index] for index in range(len(data))]
        if all(isinstance(sample, tuple | list) and len(sample) == 2 for sample in samples):
            return _collect(samples, getattr(data, "classes", None))
    raise ArgumentError(
        "images and labels must be an ImageStore, a non-empty Dataset of (image, label), or a pair of images "
        f"(N, C, H, W) and labels (N,); got {type(data).__name__}"
    )


def _collect(samples: Sequence[Any], classes: Sequence[str] | None) -> ImageStore:
    from PIL import Image

    tensors = []
    for image, _ in samples:
        if not isinstance(image, Tensor | Image.Image):
            raise ArgumentError(f"the images of a Dataset must be PIL images or tensors, got {type(image).__name__}")
        tensors.append(image if isinstance(image, Tensor) else torch.from_numpy(pixels_of_image(image)))
    if len({(tensor.shape, tensor.dtype) for tensor in tensors}) > 1:
        raise ArgumentError("the images of a Dataset must have the same size and dtype; resize or convert them first")
    return ImageStore.from_arrays(torch.stack(tensors), [label for _, label in samples], classes=classes)
