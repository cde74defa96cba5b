"""Named channels: how an image becomes the channel groups that a task predicts from one another, and back."""

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


# Functions with names, since spaces are sent to other processes, which a lambda cannot be.
def _unchanged(images: Tensor) -> Tensor:
    return images


def _rgb_from_gray(gray: Tensor) -> Tensor:
    return gray.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class ChannelSpace:
    """Names the channels of a space and says how to get there from the image and back.

    A channel's normalized value is `(value - center) / scale`, about `[-1, 1]`. Built in are `rgb`, `lab`,
    `ycbcr` and `gray`; `ChannelSpace.bands` makes one for any other multi-channel images.

    Attributes:
        name: What `Channels.parse("name:...")` finds the space by.
        channels: Names of the channels, in order.
        center: Value that is normalized to 0, per channel.
        scale: Distance from `center` that is normalized to 1, per channel.
        is_color: Whether its images are sRGB in `[0, 1]`; else they are the channels themselves.
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
            raise ArgumentError(f"the channels of space {self.name!r} must be distinct names, got {self.channels}")
        numbers = (*self.center, *self.scale)
        if not len(self.channels) == len(self.center) == len(self.scale) or not (
            all(map(math.isfinite, numbers)) and min(self.scale) > 0
        ):
            raise ArgumentError(
                f"space {self.name!r} has {len(self.channels)} channels and needs as many centers and positive scales, "
                f"all finite; got {self.center} and {self.scale}"
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
        """A space whose images are its channels: satellite bands, RGB and depth, microscopy stains.

        The space is remembered under `name`, so that `Channels.parse` and saved tasks find it. Asking again for
        the same space is harmless; another one under a taken name is an error.

        Images in `uint8` are divided by 255 first, as everywhere; center and scale are of the result. Missing values
        of floating images are NaN: they are neither learned from nor shown to an encoder.

        Args:
            name: The name of the space, free of `:` and `,`.
            channels: Names of the bands, in the order in which images hold them.
            center: Value normalized to 0, per band or for all.
            scale: Distance from the center normalized to 1, per band or for all.

        Raises:
            ArgumentError: Names repeat, the counts differ, or the name is taken by another space.

        Examples:
            >>> space = ChannelSpace.bands("rgbd", ["R", "G", "B", "D"], scale=[1, 1, 1, 50])
            >>> Channels.parse("rgbd:D").complement().names
            ('R', 'G', 'B')
        """
        if not name or any(mark in text for text in (name, *channels) for mark in ":, "):
            raise ArgumentError(f"names of spaces and bands must be free of ':', ',' and spaces: {name!r}, {channels}")
        return cls(name, tuple(channels), _per_channel(center, channels), _per_channel(scale, channels))._remember()

    def describe(self) -> dict[str, Any]:
        """What `bands` makes the space of, JSON-ready."""
        return {"name": self.name, "channels": list(self.channels), "center": self.center, "scale": self.scale}

    def _remember(self) -> Self:
        if _SPACES.setdefault(self.name, self) != self:
            raise ArgumentError(f"the channel space {self.name!r} exists already with other channels or ranges")
        return self

    @property
    def image_channels(self) -> int:
        """Channels of the images that the space reads."""
        return 3 if self.is_color else len(self.channels)

    def extract(self, images: Tensor) -> Tensor:
        """All channels of checked float `images`, normalized: `(B, C, H, W)` to `(B, len(channels), H, W)`."""
        return (self._from_image(images) - _column(self.center, images)) / _column(self.scale, images)

    def fill_missing(self, values: Tensor) -> Tensor:
        """Puts missing values, NaN, at the center of their band, which is normalized to 0; sRGB has none."""
        return values if self.is_color else values.nan_to_num(nan=0.0)

    def to_image(self, values: Tensor) -> Tensor:
        """The inverse of `extract`; sRGB is not clamped, so colors out of gamut leave `[0, 1]`."""
        return self._to_image(values * _column(self.scale, values) + _column(self.center, values))


@dataclass(frozen=True, init=False)
class Channels:
    """Some channels of a space, such as `Channels("lab", "L")` or `Channels.parse("lab:ab")`.

    Args:
        space: A `ChannelSpace` or the name of one.
        names: Names of its channels, or one string of them; all of them if left out.

    Raises:
        UnknownNameError: The space or one of the channels does not exist.
        ArgumentError: A channel is named twice.

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
                    f"space {space.name!r} has no channel {name!r}; its channels: {', '.join(space.channels)}"
                )
        if len(set(chosen)) != len(chosen):
            raise ArgumentError(f"channels may be named once, got {chosen}")
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "names", chosen)

    @classmethod
    def parse(cls, text: "str | Channels") -> "Channels":
        """Reads `"lab:ab"`, `"rgb"` (all its channels) or `"sentinel2:B02,B03"`; a `Channels` passes through."""
        if isinstance(text, Channels):
            return text
        space, colon, names = text.partition(":")
        if colon and not names:
            raise ArgumentError(f"channels are written 'space' or 'space:names', got {text!r}")
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
        """How many channels are selected."""
        return len(self.names)

    def extract(self, images: Tensor) -> Tensor:
        """Selects and normalizes the channels.

        Args:
            images: `(B, C, H, W)`: sRGB in `[0, 1]` or `uint8` for a color space, else the bands.

        Returns:
            About `[-1, 1]`, `(B, num_channels, H, W)`.

        Raises:
            ArgumentError: The shape, dtype or range of `images` is wrong.
        """
        return self.select(self.space.extract(as_images(images, self.space)))

    def inputs(self, images: Tensor) -> Tensor:
        """What an encoder is shown of images: `extract`, with missing values at the center of their band."""
        return self.space.fill_missing(self.extract(images))

    def select(self, values: Tensor) -> Tensor:
        """These channels of all of the space: `(B, len(space.channels), H, W)` to `(B, num_channels, H, W)`."""
        return values[:, _constant(self._indices, values.device, torch.int64)]

    def denormalize(self, values: Tensor) -> Tensor:
        """Normalized values `(..., num_channels, H, W)` in the units of the space, such as `L` in `[0, 100]`."""
        center, scale = self._range(values)
        return values * scale + center

    def normalize(self, values: Tensor) -> Tensor:
        """The inverse of `denormalize`."""
        center, scale = self._range(values)
        return (values - center) / scale

    def complement(self) -> "Channels":
        """The other channels of the space (none, if these are all)."""
        return Channels(self.space, tuple(name for name in self.space.channels if name not in self.names))

    @property
    def _indices(self) -> list[int]:
        return [self.space.channels.index(name) for name in self.names]

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        center = [self.space.center[i] for i in self._indices]
        scale = [self.space.scale[i] for i in self._indices]
        return _column(center, like), _column(scale, like)


def join(groups: Mapping[Channels, Tensor]) -> Tensor:
    """Puts disjoint channel groups of one space together to an image, differentiably.

    Args:
        groups: Normalized values `(B, n, H, W)` for `Channels` that together are a whole space.

    Returns:
        Images `(B, C, H, W)`; sRGB for a color space, not clamped, so that colors outside the gamut keep
        their gradients.

    Raises:
        ArgumentError: The groups overlap, leave a channel out, or have other shapes than they should.

    Examples:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> light, color = Channels("lab", "L"), Channels("lab", "ab")
        >>> again = join({light: light.extract(images), color: color.extract(images)})
        >>> torch.allclose(again, images, atol=1e-4)
        True
    """
    spaces = {channels.space for channels in groups}
    if len(spaces) != 1:
        raise ArgumentError(f"join takes channels of one space, got {sorted(space.name for space in spaces)}")
    (space,) = spaces
    given = [name for channels in groups for name in channels.names]
    if sorted(given) != sorted(space.channels):
        raise ArgumentError(f"join needs each channel of {space.name} ({', '.join(space.channels)}) once, got {given}")
    for channels, values in groups.items():
        if values.dim() != 4 or values.shape[1] != channels.num_channels:
            raise ArgumentError(
                f"{channels!r} takes values (B, {channels.num_channels}, H, W), got {tuple(values.shape)}"
            )
    if len({(len(values), *values.shape[2:]) for values in groups.values()}) > 1:
        shapes = ", ".join(f"{channels} {tuple(values.shape)}" for channels, values in groups.items())
        raise ArgumentError(f"join takes groups of one batch size, height and width, got {shapes}")
    values = torch.cat(list(groups.values()), dim=1)
    order = _constant([given.index(name) for name in space.channels], values.device, torch.int64)
    return space.to_image(values[:, order])


def _remedy(images: object, channels: int) -> str:
    if isinstance(images, Tensor) and images.dim() == 4 and images.shape[-1] == channels:
        return "; channels come before height and width: images.permute(0, 3, 1, 2)"
    if isinstance(images, Tensor) and images.dim() == 3 and images.shape[0] == channels:
        return "; one image is a batch of one: image[None]"
    return ""


def as_images(images: Tensor, space: ChannelSpace) -> Tensor:
    """Checks a batch once, at the public boundary, and scales `uint8` to floats in `[0, 1]`.

    Raises:
        ArgumentError: `images` is not a `(B, C, H, W)` tensor with the channels of the space, or RGB on the CPU
            lies outside `[0, 1]`.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != space.image_channels:
        what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentError(
            f"space {space.name!r} reads image tensors of shape (B, {space.image_channels}, H, W), got {what}"
            f"{_remedy(images, space.image_channels)}"
        )
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255
    if not torch.is_floating_point(images):
        raise ArgumentError(f"images are uint8 or floating, got {images.dtype}")
    if space.is_color:
        check_unit_range(f"space {space.name!r}", images)
    return images


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return _constant(numbers, like.device, like.dtype).view(-1, 1, 1)


def _constant(numbers: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers on a device; made there, or indexing with a list, each would wait for all that a GPU has yet to do."""
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
            "ChannelSpace.bands(name, channels) makes one for other images."
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


# `L` as in (L - 50) / 50 and `ab` over 110, the ranges of Zhang et al. 2017.
_YCBCR = ("Y", "Cb", "Cr")
for _space in (
    ChannelSpace("rgb", ("R", "G", "B"), (0.5,) * 3, (0.5,) * 3, True),
    ChannelSpace("lab", ("L", "a", "b"), (50.0, 0.0, 0.0), (50.0, 110.0, 110.0), True, _rgb_to_lab, _lab_to_rgb),
    ChannelSpace("ycbcr", _YCBCR, (0.5, 0.0, 0.0), (0.5,) * 3, True, rgb_to_ycbcr, ycbcr_to_rgb),
    ChannelSpace("gray", ("Y",), (0.5,), (0.5,), True, luma, _rgb_from_gray),
):
    _space._remember()
