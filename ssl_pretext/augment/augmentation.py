"""Augmentations by name, and transforms from elsewhere, with random numbers that depend on keys of the images alone."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import groupby
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pretext.augment.geometry import compose, resample
from ssl_pretext.augment.keyed_random import keyed_uniforms
from ssl_pretext.augment.steps import AUGMENTATIONS, Geometric, Step
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import split_specs

__all__ = ["NO_AUGMENTATION", "Augment", "Augmentation", "PerImage", "create_augmentation"]

NO_AUGMENTATION = "none"
PIECE = 2**19  # values that a CPU augments at a time, so that intermediate results fit into its cache


class Augment(Protocol):
    """What loaders need of an augmentation: a function of a batch of images and of their keys."""

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Returns the augmented images `(B, C, H, W)`; the keys, int64 `(B,)`, determine all that is random."""


class Augmentation:
    """Steps that are applied to batches of images, each with random numbers of its own for each image.

    The random numbers of an image depend on its key alone, so that the same image with the same key is changed in the
    same way in any batch, on any device and in any process.

    Args:
        steps: The steps in their order.
        photos: Whether the images are photos, whose values stay in `[0, 1]`.

    Raises:
        ArgumentError: A step computes with colors, and the images are not photos.
    """

    def __init__(self, steps: Sequence[Step], *, photos: bool = True) -> None:
        if not photos and (colored := [type(step).__name__ for step in steps if step.photos_only]):
            raise ArgumentError(f"{', '.join(colored)} can augment photos only, but the images are not photos")
        self.steps, self.photos = list(steps), photos

    def __repr__(self) -> str:
        return f"Augmentation({self.steps!r}, photos={self.photos})"

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments images.

        Args:
            images: Images `(B, C, H, W)`, `uint8` or floating, with NaN where values are missing.
            keys: A key for each image, int64 `(B,)`.

        Returns:
            Images of the same shape. They are `uint8` if the given images are and pixels only change their places, else
            floats, in which the range of `uint8` is `[0, 1]`.

        Raises:
            ArgumentError: A step needs square images, or photos, and the images are not.
        """
        if not self.steps:
            return images
        self._check(images)
        if images.device.type != "cpu":
            return self._augmented(images, keys.to(images.device))
        count = max(1, PIECE // max(1, images[:1].numel()))
        pieces = zip(images.split(count), keys.cpu().split(count), strict=True)
        return torch.cat([self._augmented(*piece) for piece in pieces])

    def _augmented(self, images: Tensor, keys: Tensor) -> Tensor:
        counts = [step.num_draws for step in self.steps]
        draws = keyed_uniforms(keys, (sum(counts),)).split(counts, dim=1)
        for is_geometric, group in groupby(
            zip(self.steps, draws, strict=True), lambda part: isinstance(part[0], Geometric)
        ):
            if is_geometric:
                images = _move_pixels(images, list(group))
            else:
                images = as_floats(images)
                for step, numbers in group:
                    images = step.apply(images, numbers, keys)  # type: ignore[attr-defined]
        return images.clamp(0, 1) if self.photos and images.is_floating_point() else images

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height != width and any(step.square_only for step in self.steps):
            raise ArgumentError(f"quarter turns need square images, got {height}×{width} pixels")
        if images.shape[1] != 3 and any(step.photos_only for step in self.steps):
            raise ArgumentError(f"color jitter and grayscale need images with three channels, got {images.shape[1]}")


class PerImage:
    """Applies a transform from elsewhere, such as one of torchvision or kornia, to each image with its own seed.

    The random numbers of PyTorch, NumPy and Python are seeded for each image, and their states are restored afterward.

    Args:
        transform: A function from an image `(C, H, W)` to an image of the same shape. Images of `uint8` are handed over
            as floats in `[0, 1]`.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        if not callable(transform):
            raise ArgumentError(
                f"augment must be a function of an image tensor, such as a transform of torchvision, got {transform!r}"
            )
        self.transform = transform

    def __repr__(self) -> str:
        """Describes the transform without its address in memory, so that another process can compare it."""
        if isinstance(self.transform, nn.Module):
            return repr(self.transform)
        return getattr(self.transform, "__qualname__", type(self.transform).__qualname__)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augments images `(B, C, H, W)`; see `Augmentation`.

        Raises:
            ArgumentError: The transform returns something else than an image of the same shape.
        """
        images = as_floats(images)
        with _restored_random_state(images.device):
            return torch.stack([self._applied(image, key) for image, key in zip(images, keys.tolist(), strict=True)])

    def _applied(self, image: Tensor, key: int) -> Tensor:
        torch.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002  # the global state, which transforms use
        result = self.transform(image)
        if isinstance(result, Tensor) and result.shape == (1, *image.shape):  # kornia adds a dimension
            result = result[0]
        if not isinstance(result, Tensor) or result.shape != image.shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ArgumentError(
                f"the transform given as augment must return an image tensor of the shape that it gets, "
                f"{tuple(image.shape)}; it returned {got}"
            )
        return as_floats(result)


def create_augmentation(spec: str, *, photos: bool = True) -> Augmentation:
    """Creates an augmentation from its spec.

    Args:
        spec: Names of steps with options in brackets, separated by commas, such as
            `"random_resized_crop[min_area=0.3],horizontal_flip"`; see `list_augmentations()`. `"none"` has no steps.
        photos: Whether the images are photos; otherwise, steps that compute with colors are refused.

    Raises:
        UnknownNameError: There is no augmentation of this name.
        ArgumentError: The spec is malformed, an option is out of its range, or a step needs photos.

    Examples:
        >>> augmentation = create_augmentation("random_resized_crop,horizontal_flip,noise[std=0.1]", photos=False)
        >>> images, keys = torch.rand(2, 5, 32, 32), torch.tensor([0, 1])
        >>> augmentation(images, keys).shape
        torch.Size([2, 5, 32, 32])
        >>> torch.equal(augmentation(images, keys)[1:], augmentation(images[1:], keys[1:]))
        True
    """
    specs = [] if spec == NO_AUGMENTATION else split_specs(spec)
    return Augmentation([AUGMENTATIONS.create(step) for step in specs], photos=photos)


def as_floats(images: Tensor) -> Tensor:
    """Returns images as floats; the range of `uint8` becomes `[0, 1]`."""
    return images / 255 if images.dtype == torch.uint8 else images


def _move_pixels(images: Tensor, parts: list[tuple[Step, Tensor]]) -> Tensor:
    """Applies consecutive geometric steps, so that pixels are read once."""
    height, width = images.shape[-2:]
    steps = [(cast(Geometric, step), numbers) for step, numbers in parts]
    exact = all(step.exact for step, _ in steps)
    matrices = reduce(compose, (step.matrices(numbers, height, width) for step, numbers in steps))
    return resample(images if exact else as_floats(images), matrices, exact=exact)


@contextmanager
def _restored_random_state(device: torch.device) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
