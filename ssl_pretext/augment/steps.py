"""The base classes of the steps of an augmentation, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Registry

__all__ = [
    "AUGMENTATIONS",
    "Geometric",
    "Pixelwise",
    "Step",
    "check_numbers",
    "chosen",
    "list_augmentations",
    "register_augmentation",
]


@dataclass(frozen=True)
class Step(ABC):
    """One step of an augmentation; its options are the fields of the class.

    Attributes:
        num_draws: Number of random numbers that the step takes for each image, uniform in `[0, 1)`.
        photos_only: Whether the step computes with colors, so that images must be photos.
        square_only: Whether images must be square.
    """

    num_draws: ClassVar[int]
    photos_only: ClassVar[bool] = False
    square_only: ClassVar[bool] = False


class Geometric(Step):
    """A step that moves pixels; consecutive steps of this kind read the image once.

    Attributes:
        exact: Whether each pixel gets the value of one pixel, so that nothing is interpolated.
    """

    exact: ClassVar[bool]

    @abstractmethod
    def matrices(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Computes from which position of the image each pixel of the result is read.

        Args:
            draws: Random numbers, `(B, num_draws)`.
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Returns:
            An affine map `(B, 2, 3)` from positions `(x, y)` in the result to positions in the image, in pixels from
            the center; `x` grows to the right and `y` downward.
        """


class Pixelwise(Step):
    """A step that changes the values of pixels."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Tensor, keys: Tensor) -> Tensor:
        """Changes images `(B, C, H, W)` of floats; missing values are NaN and stay missing.

        Args:
            images: Images `(B, C, H, W)`; photos are in `[0, 1]`.
            draws: Random numbers, `(B, num_draws)`.
            keys: Keys for further random numbers, int64 `(B,)`.
        """


AUGMENTATIONS: "Registry[Step]" = Registry("augmentation")


def register_augmentation(name: str) -> Callable[[Callable[..., Step]], Callable[..., Step]]:
    """Returns a decorator that registers a subclass of `Geometric` or `Pixelwise` under a name."""
    return AUGMENTATIONS.register(name)


def list_augmentations() -> list[str]:
    """Returns the names of all registered augmentations, sorted."""
    return AUGMENTATIONS.names()


def check_numbers(step: str, **limits: tuple[float, float, float]) -> None:
    """Checks options of a step.

    Args:
        step: Name of the step in messages.
        limits: Value, least value and greatest value of each option.

    Raises:
        ArgumentError: A value is outside of its limits.
    """
    for name, (value, least, most) in limits.items():
        if isinstance(value, bool) or not least <= value <= most:
            raise ArgumentError(
                f"{name} of the augmentation {step!r} must be from {least:g} to {most:g}, got {value!r}"
            )


def chosen(draws: Tensor, probability: float, changed: Tensor, original: Tensor) -> Tensor:
    """Returns the changed values of images whose random number `(B,)` is below a probability, and else the original."""
    return torch.where((draws < probability).view(-1, *[1] * (changed.dim() - 1)), changed, original)
