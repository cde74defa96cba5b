"""Named channels: conversion of images to the channel groups that tasks predict from each other, and back."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ssl_pretext.color import _lab_to_rgb, _rgb_to_lab, check_unit_range, luma, rgb_to_ycbcr, ycbcr_to_rgb
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = ["ChannelSpace", "Channels", "as_images", "join"]

_SPACES: dict[str, "ChannelSpace"] = {}


# Named functions instead of lambdas, because spaces are pickled for other processes.
def _unchanged(images: Tensor) -> Tensor:
    return images


def _rgb_from_gray(gray: Tensor) -> Tensor:
    return gray.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class ChannelSpace:
    """The names and value ranges of the channels of a space, and the conversion of images to them and back.

    The normalized value of a channel is `(value - center) / scale`, about `[-1, 1]`. The spaces `rgb`, `lab`, `ycbcr`
    and `gray` are built in; `ChannelSpace.bands` creates one for any other multi-channel images.

    Attributes:
        name: Name of the space, which is used in `Channels.parse("name:...")`.
        channels: Names of the channels, in order.
        center: Value of each channel that is normalized to 0.
        scale: Distance from `center` that is normalized to 1, for each channel.
        is_color: Whether the images are sRGB in `[0, 1]`; otherwise they are the channels themselves.
    """

    name: str
    channels: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    is_color: bool = False
    _from_image: Callable[[Tensor], Tensor] = field(default=_unchanged, repr=False, compare=False)
    _to_image: Callable[[Tensor], Tensor] = field(default=_unchanged, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ArgumentError(f"the channels of space {self.name!r} must have distinct names, got {self.channels}")
        numbers = (*self.center, *self.scale)
        if not len(self.channels) == len(self.center) == len(self.scale) or not (
            all(map(math.isfinite, numbers)) and min(self.scale) > 0
        ):
            raise ArgumentError(
                f"space {self.name!r} has {len(self.channels)} channels and needs as many finite centers and finite "
                f"positive scales, got centers {self.center} and scales {self.scale}"
            )

    @classmethod
    def bands(
        cls,
        name: str,
        channels: Sequence[str],
        *,
        center: Sequence[float] | float = 0.0,
        scale: Sequence[float] | float = 1.0,
    ) -> Self:
        """Creates a space whose images are its channels, such as satellite bands, RGB and depth, or microscopy stains.

        The space is registered under `name`, so that `Channels.parse` and saved tasks find it. Creating the same space
        again returns an equal one; a different space with a name that is in use is an error.

        As everywhere, `uint8` images are first divided by 255; center and scale apply to the result. NaN marks missing
        values in floating images: no loss is computed on them, and encoders see the center of the band instead.

        Args:
            name: Name of the space, without `:`, `,` and spaces.
            channels: Names of the bands, in the order in which images contain them.
            center: Value that is normalized to 0, for each band or for all bands.
            scale: Distance from the center that is normalized to 1, for each band or for all bands.

        Raises:
            ArgumentError: Names repeat or contain a forbidden character, the number of centers or scales differs from
                that of the channels, a number is not finite, a scale is not positive, or another space has the name.

        Examples:
            >>> space = ChannelSpace.bands("rgbd", ["R", "G", "B", "D"], scale=[1, 1, 1, 50])
            >>> Channels.parse("rgbd:D").complement().names
            ('R', 'G', 'B')
        """
        if not name or any(mark in text for text in (name, *channels) for mark in ":, "):
            raise ArgumentError(
                f"names of spaces and bands must not contain ':', ',' or spaces, got {name!r} and {channels}"
            )
        return cls(name, tuple(channels), _per_channel(center, channels), _per_channel(scale, channels))._register()

    def describe(self) -> dict[str, Any]:
        """Returns the arguments from which `bands` creates the space, as JSON-serializable values."""
        return {"name": self.name, "channels": list(self.channels), "center": self.center, "scale": self.scale}

    def _register(self) -> Self:
        if _SPACES.setdefault(self.name, self) != self:
            raise ArgumentError(f"the channel space {self.name!r} already exists with other channels or ranges")
        return self

    @property
    def image_channels(self) -> int:
        """The number of channels of the images that the space converts."""
        return 3 if self.is_color else len(self.channels)

    def extract(self, images: Tensor) -> Tensor:
        """Computes all normalized channels `(B, len(channels), H, W)` of floating images `(B, C, H, W)`, unchecked."""
        return (self._from_image(images) - _column(self.center, images)) / _column(self.scale, images)

    def fill_missing(self, values: Tensor) -> Tensor:
        """Replaces NaN by 0, the normalized center of the band; color spaces have no missing values."""
        return values if self.is_color else values.nan_to_num(nan=0.0)

    def to_image(self, values: Tensor) -> Tensor:
        """Converts normalized values back to images, as the inverse of `extract`.

        sRGB is not clamped, so colors outside the gamut are outside `[0, 1]`.
        """
        return self._to_image(values * _column(self.scale, values) + _column(self.center, values))


@dataclass(frozen=True, init=False)
class Channels:
    """A selection of channels of a space, such as `Channels("lab", "L")` or `Channels.parse("lab:ab")`.

    Args:
        space: The `ChannelSpace` or its name.
        names: Names of the selected channels, as a sequence or one string; by default all channels.

    Raises:
        UnknownNameError: The space or one of the channels does not exist.
        ArgumentError: A channel is selected twice.

    Examples:
        >>> ab = Channels("lab", ("a", "b"))
        >>> ab.complement()
        Channels('lab:L')
        >>> ab.extract(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 2, 8, 8])
    """

    space: ChannelSpace
    names: tuple[str, ...]

    def __init__(self, space: ChannelSpace | str, names: Sequence[str] | str | None = None) -> None:
        space = _find_space(space)
        if isinstance(names, str):
            names = _split_names(names, space)
        chosen = tuple(space.channels if names is None else names)
        for name in chosen:
            if name not in space.channels:
                raise UnknownNameError(
                    f"space {space.name!r} has no channel {name!r}; its channels are {', '.join(space.channels)}"
                )
        if len(set(chosen)) != len(chosen):
            raise ArgumentError(f"each channel may be selected only once, got {chosen}")
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "names", chosen)

    @classmethod
    def parse(cls, text: "str | Channels") -> "Channels":
        """Parses `"lab:ab"`, `"rgb"` (all channels) or `"sentinel2:B02,B03"`; a `Channels` is returned unchanged."""
        if isinstance(text, Channels):
            return text
        space, colon, names = text.partition(":")
        if colon and not names:
            raise ArgumentError(f"channels must be written 'space' or 'space:names', got {text!r}")
        return cls(space, names if colon else None)

    def __str__(self) -> str:
        if self.names == self.space.channels:
            return self.space.name
        separator = "" if _has_short_names(self.space) else ","
        return f"{self.space.name}:{separator.join(self.names)}"

    def __repr__(self) -> str:
        return f"Channels({str(self)!r})"

    @property
    def num_channels(self) -> int:
        """The number of selected channels."""
        return len(self.names)

    def extract(self, images: Tensor) -> Tensor:
        """Selects and normalizes the channels.

        Args:
            images: Images `(B, C, H, W)`: for a color space sRGB, `uint8` or floating in `[0, 1]`; otherwise the bands.

        Returns:
            Normalized values `(B, num_channels, H, W)`, about in `[-1, 1]`.

        Raises:
            ArgumentError: The shape, dtype or range of `images` is wrong.
        """
        return self.select(self.space.extract(as_images(images, self.space)))

    def inputs(self, images: Tensor) -> Tensor:
        """Computes the input of an encoder: `extract`, with missing values replaced by the center of their band."""
        return self.space.fill_missing(self.extract(images))

    def select(self, values: Tensor) -> Tensor:
        """Selects these channels from all channels `(B, len(space.channels), H, W)`: `(B, num_channels, H, W)`."""
        return values[:, _constant(self._indices, values.device, torch.int64)]

    def denormalize(self, values: Tensor) -> Tensor:
        """Converts normalized values `(..., num_channels, H, W)` to the units of the space; `L` is in `[0, 100]`."""
        center, scale = self._range(values)
        return values * scale + center

    def normalize(self, values: Tensor) -> Tensor:
        """Normalizes values in the units of the space, as the inverse of `denormalize`."""
        center, scale = self._range(values)
        return (values - center) / scale

    def complement(self) -> "Channels":
        """Returns the channels of the space that are not selected, which may be none."""
        return Channels(self.space, tuple(name for name in self.space.channels if name not in self.names))

    @property
    def _indices(self) -> list[int]:
        return [self.space.channels.index(name) for name in self.names]

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        center = [self.space.center[i] for i in self._indices]
        scale = [self.space.scale[i] for i in self._indices]
        return _column(center, like), _column(scale, like)


def join(groups: Mapping[Channels, Tensor]) -> Tensor:
    """Joins disjoint channel groups of one space to images; the operation is differentiable.

    Args:
        groups: Normalized values `(B, n, H, W)` of `Channels` that together contain each channel of a space once.

    Returns:
        Images `(B, C, H, W)`. For a color space these are sRGB and not clamped, so that colors outside the gamut have
        gradients.

    Raises:
        ArgumentError: The groups overlap, a channel is missing, or the shapes do not fit.

    Examples:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> light, color = Channels("lab", "L"), Channels("lab", "ab")
        >>> again = join({light: light.extract(images), color: color.extract(images)})
        >>> torch.allclose(again, images, atol=1e-4)
        True
    """
    spaces = {channels.space for channels in groups}
    if len(spaces) != 1:
        raise ArgumentError(f"join needs channels of exactly one space, got {sorted(space.name for space in spaces)}")
    (space,) = spaces
    given = [name for channels in groups for name in channels.names]
    if sorted(given) != sorted(space.channels):
        raise ArgumentError(f"join needs each channel of {space.name} ({', '.join(space.channels)}) once, got {given}")
    for channels, values in groups.items():
        if values.dim() != 4 or values.shape[1] != channels.num_channels:
            raise ArgumentError(
                f"join needs values of shape (B, {channels.num_channels}, H, W) for {channels!r}, got "
                f"{tuple(values.shape)}"
            )
    if len({(len(values), *values.shape[2:]) for values in groups.values()}) > 1:
        shapes = ", ".join(f"{channels} {tuple(values.shape)}" for channels, values in groups.items())
        raise ArgumentError(f"join needs groups with the same batch size, height and width, got {shapes}")
    values = torch.cat(list(groups.values()), dim=1)
    order = _constant([given.index(name) for name in space.channels], values.device, torch.int64)
    return space.to_image(values[:, order])


def _shape_hint(images: object, channels: int) -> str:
    """Advice for two common mistakes, as the end of an error message."""
    if isinstance(images, Tensor) and images.dim() == 4 and images.shape[-1] == channels:
        return "; the channels must come before height and width: images.permute(0, 3, 1, 2)"
    if isinstance(images, Tensor) and images.dim() == 3 and images.shape[0] == channels:
        return "; pass a single image as a batch of one: image[None]"
    return ""


def as_images(images: Tensor, space: ChannelSpace) -> Tensor:
    """Checks a batch of images and scales `uint8` to floats in `[0, 1]`; public functions call it once.

    Args:
        images: Images `(B, C, H, W)`, `uint8` or floating.
        space: The space that the images are converted to.

    Raises:
        ArgumentError: `images` is not a tensor `(B, C, H, W)` with the channels of the space, its dtype is neither
            `uint8` nor floating, or sRGB is outside `[0, 1]`; see `check_unit_range` for busy GPUs.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != space.image_channels:
        what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentError(
            f"space {space.name!r} needs image tensors of shape (B, {space.image_channels}, H, W), got {what}"
            f"{_shape_hint(images, space.image_channels)}"
        )
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255
    if not torch.is_floating_point(images):
        raise ArgumentError(f"images must be uint8 or floating, got {images.dtype}")
    if space.is_color:
        check_unit_range(f"space {space.name!r}", images)
    return images


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return _constant(numbers, like.device, like.dtype).view(-1, 1, 1)


def _constant(numbers: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copies numbers to a device asynchronously; creating them there or indexing with a list would synchronize."""
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=device.type == "cuda")


def _per_channel(numbers: Sequence[float] | float, channels: Sequence[str]) -> tuple[float, ...]:
    given = torch.as_tensor(numbers, dtype=torch.float64)
    return tuple(given.tolist() if given.dim() else [given.item()] * len(channels))


def _find_space(space: ChannelSpace | str) -> ChannelSpace:
    if isinstance(space, ChannelSpace):
        return space
    if space not in _SPACES:
        raise UnknownNameError(
            f"there is no channel space {space!r}; known: {', '.join(_SPACES)}. "
            "ChannelSpace.bands(name, channels) creates one for other images."
        )
    return _SPACES[space]


def _split_names(names: str, space: ChannelSpace) -> tuple[str, ...]:
    if "," in names or names in space.channels:
        return tuple(name.strip() for name in names.split(","))
    # "ab" and "CbCr" are short for "a,b" and "Cb,Cr".
    found = re.findall("|".join(map(re.escape, space.channels)), names) if _has_short_names(space) else []
    if found and "".join(found) == names:
        return tuple(found)
    return tuple(names) if _has_single_letters(space) else (names,)


def _has_short_names(space: ChannelSpace) -> bool:
    return space.is_color or _has_single_letters(space)


def _has_single_letters(space: ChannelSpace) -> bool:
    return all(len(name) == 1 for name in space.channels)


# The ranges of Lab are those of Zhang et al. 2017: (L - 50) / 50, a / 110 and b / 110.
_YCBCR = ("Y", "Cb", "Cr")
for _space in (
    ChannelSpace("rgb", ("R", "G", "B"), (0.5,) * 3, (0.5,) * 3, True),
    ChannelSpace("lab", ("L", "a", "b"), (50.0, 0.0, 0.0), (50.0, 110.0, 110.0), True, _rgb_to_lab, _lab_to_rgb),
    ChannelSpace("ycbcr", _YCBCR, (0.5, 0.0, 0.0), (0.5,) * 3, True, rgb_to_ycbcr, ycbcr_to_rgb),
    ChannelSpace("gray", ("Y",), (0.5,), (0.5,), True, luma, _rgb_from_gray),
):
    _space._register()
