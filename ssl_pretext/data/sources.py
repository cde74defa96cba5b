"""Where the pixels of one image come from, and how they are read."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError

__all__ = ["RESAMPLING", "Reading", "Source", "Tiles", "Window", "numbered_channels"]

RESIZE_RULE = "shortest side to {} px (bilinear, antialiased), center crop"
RESAMPLING = ("bilinear", "nearest")
CROP_RULE = "center crop of {} px"


class Window(NamedTuple):
    """A part of an image, in pixels from its upper left corner.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """

    top: int
    left: int
    height: int
    width: int


class Source(NamedTuple):
    """What one image is read from.

    Attributes:
        files: Files whose channels together are those of the image, in this order.
        window: The part of the files that is the image, in pixels of the first file; None if it is all of them.
        member: Position of the image in a file that contains several; None if a file is one image.
    """

    files: tuple[Path, ...]
    window: Window | None = None
    member: int | None = None


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How images are cut into square tiles.

    Attributes:
        size: Height and width of a tile in pixels.
        stride: Number of pixels from one tile to the next.
        min_valid: Fraction of the pixels of a tile that must be valid in all channels; other tiles are left out.

    Raises:
        ArgumentError: A number of pixels is not positive, or the fraction is not between 0 and 1.
    """

    size: int
    stride: int
    min_valid: float

    def __post_init__(self) -> None:
        whole_number("tile", self.size)
        whole_number("stride", self.stride)
        if not 0 <= self.min_valid <= 1:
            raise ArgumentError(f"min_valid must be a fraction between 0 and 1, got {self.min_valid}")

    def windows(self, area: Window) -> Iterator[Window]:
        """Yields the tiles of an area row by row; what is left at its right and lower edges is in no tile."""
        for top in range(0, area.height - self.size + 1, self.stride):
            for left in range(0, area.width - self.size + 1, self.stride):
                yield Window(area.top + top, area.left + left, self.size, self.size)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become images of a store.

    Attributes:
        image_size: The shortest side is resized to this number of pixels and the center is cropped. None keeps the
            size.
        crop: Whether the center of `image_size` pixels is cropped without resizing.
        channels: Number of channels if it is stated; 8-bit TIFF files are then read as arrays instead of photographs.
        files: Names of the channels that each file of an image adds; empty if an image is one file.
        resample: Rule by which each file of an image is brought to the size of the largest one; empty if there is none.
        missing: Value of the files that means missing, or that of each channel that has one by the name of the channel
            or its number, such as `band1`; images are then floating. None if there is none.
        tiles: How the images are cut into tiles before they are resized; None if they are not.
        reader: Reader with options for the files of its suffixes, such as `h5[key=images]`; None if all readers have
            their defaults.
        masks: Whether the first file of each image is a mask, whose pixels are classes, of what the other files show.

    Raises:
        ArgumentError: A number is not positive, a missing value is no finite number, `crop` has no `image_size`, or the
            reader does not take its options.
        UnknownNameError: There is no such reader.
    """

    image_size: int | None = None
    crop: bool = False
    channels: int | None = None
    files: tuple[str, ...] = ()
    resample: tuple[str | None, ...] = ()
    missing: float | Mapping[str, float] | None = None
    tiles: Tiles | None = None
    reader: str | None = None
    masks: bool = False

    def __post_init__(self) -> None:
        for name, number in (("image_size", self.image_size), ("channels", self.channels)):
            if number is not None:
                whole_number(name, number)
        given = self.missing.values() if isinstance(self.missing, Mapping) else [self.missing]
        if self.missing is not None and not all(map(_is_finite, given)):
            raise ArgumentError(
                "missing must be a finite number, the value of the files that means missing, or a number for each "
                f"channel that has one, such as {{'B02': 0}}; got {self.missing!r}"
            )
        if isinstance(self.missing, Mapping):  # in one form, because stores are named after it
            object.__setattr__(self, "missing", {name: float(self.missing[name]) for name in sorted(self.missing)})
        elif self.missing is not None:
            object.__setattr__(self, "missing", float(self.missing))
        if self.crop and self.image_size is None:
            raise ArgumentError("crop=True needs the size of the crop; pass image_size=")

    @property
    def description(self) -> str:
        """What is done to the size of the images."""
        parts = []
        if self.tiles is not None:
            parts.append(f"tiles of {self.tiles.size} px, stride {self.tiles.stride} px")
        if self.image_size is not None and not (self.tiles and self.tiles.size == self.image_size):
            parts.append((CROP_RULE if self.crop else RESIZE_RULE).format(self.image_size))
        return "; ".join(parts) or "none"


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def numbered_channels(count: int) -> list[str]:
    """Returns the names of channels that have no other names.

    Examples:
        >>> numbered_channels(2)
        ['band1', 'band2']
    """
    return [f"band{number}" for number in range(1, count + 1)]
