"""Where the pixels of one image come from, and how they are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["RESAMPLING", "Reading", "Source", "Window"]

RESAMPLING = ("bilinear", "nearest")


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
class Reading:
    """How files become images of a store.

    Attributes:
        image_size: The shortest side is resized to this number of pixels and the center is cropped. None keeps the
            size.
        channels: Number of channels if it is stated; 8-bit TIFF files are then read as arrays instead of photographs.
        resample: Rule by which each file of an image is brought to the size of the largest one; empty if there is none.
    """

    image_size: int | None = None
    channels: int | None = None
    resample: tuple[str | None, ...] = ()
