"""Named channels: conversion of images to the channel groups that tasks predict from each other, and back."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ssl_pretext.channel_specs import join_spec, quoted, split_names, split_spec
from ssl_pretext.color import (
    _lab_to_rgb,
    _rgb_to_lab,
    check_unit_range,
    hed_to_rgb,
    luma,
    rgb_to_hed,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from ssl_pretext.errors import ArgumentError, UnknownChannelsError
from ssl_pretext.registry import duplicates

__all__ = ["ChannelSpace", "Channels", "as_images", "join", "known_spaces"]

_BUILT_IN: dict[str, "ChannelSpace"] = {}
_KNOWN: ContextVar[tuple["ChannelSpace", ...]] = ContextVar("known_spaces", default=())


# Named functions instead of lambdas, because spaces are pickled for other processes.
def _unchanged(images: Tensor) -> Tensor:
    return images


def _rgb_from_gray(gray: Tensor) -> Tensor:
    return gray.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class ChannelSpace:
    """The names and value ranges of the channels of a space, and the conversion of images to them and back.

    The normalized value of a channel is `(value - center) / scale`, about `[-1, 1]`. The spaces `rgb`, `lab`, `ycbcr`,
    `gray` and `hed` (the stains hematoxylin, eosin and DAB) are built in. `ChannelSpace.bands` creates one for any
    other multi-channel images. The constructor creates one that converts images with functions of your own; load a task
    that was saved with such a space with `PretextTask.from_pretrained(folder, spaces=[space])`.

    `space["B02", "B03"]` selects channels by their names.

    Attributes:
        name: Name of the space, which is used in `"name:channels"`.
        channels: Names of the channels, in order.
        center: Value of each channel that is normalized to 0; None until it has been measured.
        scale: Distance from `center` that is normalized to 1, for each channel; None until it has been measured.
        is_color: Whether the images are sRGB in `[0, 1]`; otherwise they have as many channels as the space.
        is_bounded: Whether all normalized values are in `[-1, 1]`. Predictions then pass through a tanh.
        convert: Function from floating images `(B, C, H, W)` to the channels in their units.
        convert_back: The inverse of `convert`.

    Raises:
        ArgumentError: A name is empty, repeats, or is that of a built-in space, the number of centers or scales differs
            from that of the channels, a number is not finite, or a scale is not positive.

    Examples:
        >>> functions = {"convert": torch.log1p, "convert_back": torch.expm1}
        >>> space = ChannelSpace("log", ("near", "far"), (-1.0, -1.0), (1.0, 1.0), **functions)
        >>> space["near", "far"].extract(torch.zeros(1, 2, 1, 1)).flatten()
        tensor([1., 1.])
    """

    name: str
    channels: tuple[str, ...]
    center: tuple[float, ...] | None
    scale: tuple[float, ...] | None
    is_color: bool = False
    is_bounded: bool = False
    convert: Callable[[Tensor], Tensor] = field(default=_unchanged, repr=False)
    convert_back: Callable[[Tensor], Tensor] = field(default=_unchanged, repr=False)

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) and name for name in (self.name, *self.channels)):
            raise ArgumentError(
                f"names of spaces and channels must be text and not empty, got {self.name!r} and {self.channels}"
            )
        if self.name in _BUILT_IN:
            raise ArgumentError(f"the channel space {self.name!r} is built in; choose another name for yours")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ArgumentError(f"the channels of space {self.name!r} must have distinct names, got {self.channels}")
        if self.center is None and self.scale is None:
            return
        center, scale = self.center or (), self.scale or ()
        if not len(self.channels) == len(center) == len(scale) or not (
            all(map(math.isfinite, (*center, *scale))) and min(scale) > 0
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
        center: Sequence[float] | float | None = None,
        scale: Sequence[float] | float | None = None,
    ) -> Self:
        """Creates a space whose images are its channels, such as satellite bands, RGB and depth, or microscopy stains.

        Without `center` and `scale`, both are measured: `fit` measures them on the training images before it starts,
        and they are saved with the task. `measure_space` measures them at once.

        As everywhere, `uint8` images are first divided by 255; center and scale apply to the result. NaN marks missing
        values in floating images: no loss is computed on them, and encoders see the center of the band instead.

        Args:
            name: Name of the space.
            channels: Names of the bands, in the order in which images contain them.
            center: Value that is normalized to 0, for each band or for all bands; 0 if only `scale` is given.
            scale: Distance from the center that is normalized to 1, for each band or for all bands; 1 if only `center`
                is given.

        Raises:
            ArgumentError: As for the constructor.

        Examples:
            >>> space = ChannelSpace.bands("rgbd", ["R", "G", "B", "D"], scale=[1, 1, 1, 50])
            >>> space["D"].complement().names
            ('R', 'G', 'B')
        """
        if center is None and scale is None:
            return cls(name, tuple(channels), None, None)
        center, scale = 0.0 if center is None else center, 1.0 if scale is None else scale
        return cls(name, tuple(channels), _per_channel(center, channels), _per_channel(scale, channels))

    def __getitem__(self, names: str | tuple[str, ...]) -> "Channels":
        if not isinstance(names, str | tuple | list):
            raise ArgumentError(
                f"channels are selected by name, such as {self.name}[{self.channels[0]!r}], got {names!r}"
            )
        return Channels(self, (names,) if isinstance(names, str) else names)

    __iter__ = None  # otherwise `list(space)` would ask for the channels 0, 1, ...

    @property
    def is_built_in(self) -> bool:
        """Whether the space is one of the library's own, which every process knows by name."""
        return _BUILT_IN.get(self.name) == self

    @property
    def converts(self) -> bool:
        """Whether the space converts images with functions, which a file cannot store."""
        return self.convert is not _unchanged or self.convert_back is not _unchanged

    @property
    def is_measured(self) -> bool:
        """Whether the space has a center and a scale for each channel."""
        return self.center is not None

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The center and the scale of each channel.

        Raises:
            ArgumentError: They have not been measured yet.
        """
        if self.center is None or self.scale is None:
            raise ArgumentError(
                f"the channel space {self.name!r} has no center and scale yet: fit() measures them on the training "
                "images; call measure(images) of the task or measure_space() to measure them now, or give them to "
                "ChannelSpace.bands()"
            )
        return self.center, self.scale

    def describe(self) -> dict[str, Any]:
        """Returns the space as JSON-serializable values, from which `restore` creates it again."""
        described = {"name": self.name, "channels": list(self.channels), "center": self.center, "scale": self.scale}
        return described | ({"converts": True} if self.converts else {})

    @classmethod
    def restore(cls, described: Mapping[str, Any], given: "Sequence[ChannelSpace]" = ()) -> "ChannelSpace":
        """Creates the space that `describe` returned.

        Args:
            described: The values that `describe` returned.
            given: Spaces that convert images with functions. One that has not been measured gets the saved center and
                scale.

        Raises:
            ArgumentError: The space converts images and is not among those that are given, or differs from it.
        """
        converts = "converts" in described
        saved = cls.bands(**{key: value for key, value in described.items() if key != "converts"})
        if not converts:
            return saved
        same = next((space for space in given if space.name == saved.name), None)
        if same is None:
            raise ArgumentError(
                f"the channel space {saved.name!r} converts images with functions, which a file cannot store; in "
                "Python, pass spaces=[<the same ChannelSpace>]"
            )
        found = same if same.is_measured else replace(same, center=saved.center, scale=saved.scale)
        if found.describe() != saved.describe() | {"converts": True}:
            raise ArgumentError(
                f"the given channel space {same!r} is not the one that was saved, {saved!r}; pass the space that the "
                "task was created with"
            )
        return found

    @property
    def image_channels(self) -> int:
        """The number of channels of the images that the space converts."""
        return 3 if self.is_color else len(self.channels)

    def extract(self, images: Tensor) -> Tensor:
        """Computes all normalized channels `(B, len(channels), H, W)` of floating images `(B, C, H, W)`, unchecked."""
        center, scale = self.statistics
        return (self.convert(images) - _column(center, images)) / _column(scale, images)

    def fill_missing(self, values: Tensor) -> Tensor:
        """Replaces NaN by 0, the normalized center of the band; color spaces have no missing values."""
        return values if self.is_color else values.nan_to_num(nan=0.0)

    def to_image(self, values: Tensor) -> Tensor:
        """Converts normalized values back to images, as the inverse of `extract`.

        sRGB is not clamped, so colors outside the gamut are outside `[0, 1]`.
        """
        center, scale = self.statistics
        return self.convert_back(values * _column(scale, values) + _column(center, values))


@contextmanager
def known_spaces(spaces: Sequence[ChannelSpace]) -> Iterator[None]:
    """Makes spaces known by name to `Channels.parse` for the block, in this thread; used while a task is created.

    The names of channels alone are then enough, as in `"B02,B03"`.

    Args:
        spaces: Spaces that are not built in, with different names.

    Raises:
        ArgumentError: Two spaces have the same name.

    Examples:
        >>> with known_spaces([ChannelSpace.bands("chips", ["B02", "B03", "B08"])]):
        ...     Channels.parse("chips:B08"), Channels.parse("B02+B03")
        (Channels('chips:B08'), Channels('chips:B02,B03'))
    """
    check_names_differ(spaces)
    token = _KNOWN.set(tuple(spaces))
    try:
        yield
    finally:
        _KNOWN.reset(token)


def check_names_differ(spaces: Sequence[ChannelSpace]) -> None:
    """Raises an error if two spaces have the same name, because text could not tell them apart."""
    if twice := duplicates(space.name for space in spaces):
        raise ArgumentError(f"two different channel spaces have the name {twice[0]!r}; give them different names")


@dataclass(frozen=True, init=False)
class Channels:
    """A selection of channels of a space, such as `Channels("lab", "L")` or `Channels.parse("lab:ab")`.

    Args:
        space: The `ChannelSpace`, or the name of one that is built in.
        names: Names of the selected channels, as a sequence or one string; by default all channels.

    Raises:
        UnknownChannelsError: The space or one of the channels does not exist.
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
            names = split_names(names, space.channels, short=_has_short_names(space))
        chosen = tuple(space.channels if names is None else names)
        for name in chosen:
            if name not in space.channels:
                raise UnknownChannelsError(
                    f"space {space.name!r} has no channel {name!r}; its channels are {', '.join(space.channels)}"
                )
        if len(set(chosen)) != len(chosen):
            raise ArgumentError(f"each channel may be selected only once, got {chosen}")
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "names", chosen)

    @classmethod
    def parse(cls, text: "str | Channels") -> "Channels":
        """Parses `"lab:ab"`, `"rgb"` (all channels) or `"sentinel2:B02,B03"`; a `Channels` is returned unchanged.

        The built-in spaces are always known by name. Others are known while a task is created with
        `create_task(..., spaces=[space])` or loaded; elsewhere, select their channels with `space["B02", "B03"]`.
        Channels are separated by `,` or `+`. Names that contain `:`, `,` or `"` are quoted as in CSV files.

        Raises:
            UnknownChannelsError: The space or one of the channels does not exist.
            ArgumentError: The text is malformed, or a channel is selected twice.
        """
        if isinstance(text, Channels):
            return text
        if not isinstance(text, str):
            raise ArgumentError(f"channels must be given as text, such as 'lab:ab', or as Channels, got {text!r}")
        space, names = split_spec(text)
        if names is not None and not names.strip():
            raise ArgumentError(f"channels must be written 'space' or 'space:names', got {text!r}")
        if names is None and space not in _by_name():
            for known in _KNOWN.get():  # the names of channels alone
                chosen = split_names(text, known.channels, short=_has_short_names(known))
                if {*chosen} <= {*known.channels}:
                    return cls(known, chosen)
        return cls(space, names)

    def __str__(self) -> str:
        if self.names == self.space.channels:
            return quoted(self.space.name)
        return join_spec(self.space.name, self.names, short=_has_short_names(self.space))

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
        return values[:, _constant(self.indices, values.device, torch.int64)]

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
    def indices(self) -> list[int]:
        """The positions of the selected channels among those of the space."""
        return [self.space.channels.index(name) for name in self.names]

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """The center and the scale of each selected channel; see `ChannelSpace.statistics`."""
        center, scale = self.space.statistics
        return [center[i] for i in self.indices], [scale[i] for i in self.indices]

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        center, scale = self.statistics
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


def _by_name() -> dict[str, ChannelSpace]:
    """The spaces that are known by name here."""
    return {space.name: space for space in _KNOWN.get()} | _BUILT_IN


def _find_space(space: ChannelSpace | str) -> ChannelSpace:
    if isinstance(space, ChannelSpace):
        return space
    known = _by_name()
    if space in known:
        return known[space]
    if not _KNOWN.get():
        raise UnknownChannelsError(
            f"there is no channel space {space!r}; known: {', '.join(known)}. Create one for other images with "
            "space = ChannelSpace.bands(name, channels), and select its channels with space['B02', 'B03'] or pass "
            "spaces=[space] to create_task()"
        )
    names = "; ".join(f"{one.name} has the channels {', '.join(one.channels)}" for one in _KNOWN.get())
    raise UnknownChannelsError(
        f"there is no channel space and no channel {space!r}; the channel spaces are {', '.join(known)}; {names}"
    )


def _has_short_names(space: ChannelSpace) -> bool:
    """Whether names need no separator, as in "ab" or "CbCr"."""
    return space.is_built_in or all(len(name) == 1 and name.isalnum() for name in space.channels)


# The ranges of Lab are those of Zhang et al. 2017: (L - 50) / 50, a / 110 and b / 110. Those of the stains were
# measured on scikit-image's photo `immunohistochemistry`, as `measure_space` does: the median, and half of the distance
# between the percentiles 1 and 99. That photo has no eosin, which is therefore given the range of hematoxylin.
_BUILT_IN.update(
    (space.name, space)
    for space in [
        ChannelSpace("rgb", ("R", "G", "B"), (0.5,) * 3, (0.5,) * 3, True, True),
        ChannelSpace(
            "lab", ("L", "a", "b"), (50.0, 0.0, 0.0), (50.0, 110.0, 110.0), True, True, _rgb_to_lab, _lab_to_rgb
        ),
        ChannelSpace("ycbcr", ("Y", "Cb", "Cr"), (0.5, 0.0, 0.0), (0.5,) * 3, True, True, rgb_to_ycbcr, ycbcr_to_rgb),
        ChannelSpace("gray", ("Y",), (0.5,), (0.5,), True, True, luma, _rgb_from_gray),
        ChannelSpace(
            "hed", ("H", "E", "D"), (0.017, 0.017, 0.054), (0.03, 0.03, 0.095), True, False, rgb_to_hed, hed_to_rgb
        ),
    ]
)
