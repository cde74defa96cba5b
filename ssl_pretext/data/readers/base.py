"""What a reader of a file format is: it opens a file, says from its header what it holds, and reads parts of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from ssl_pretext.data.photo import MAX_PIXELS, Content
from ssl_pretext.data.sources import Window
from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = [
    "MAX_BYTES",
    "Array",
    "ImageFile",
    "LoadedFile",
    "Reader",
    "Slices",
    "StackReader",
    "are_channels_last",
    "check_bytes",
    "check_slices",
    "needed",
    "project",
]

MAX_BYTES = 3 * MAX_PIXELS  # of an image that is read at once; the largest photograph has as many
PHOTO_CHANNELS = (3, 4)
LEAST_SIDE = 8  # arrays with fewer rows may be small images
Slices = Literal["all", "max", "mean"] | int


class Array(NamedTuple):
    """An image as it is in a file.

    Attributes:
        values: Values `(C, H, W)`.
        missing: The value that the file declares as no data, if it does.
        scale: Factor of each channel, `(C,)`, by which the file says that its values are to be multiplied.
        offset: What is then added to each channel, `(C,)`.
        valid: Which pixels the file says are valid, `(H, W)`.
    """

    values: npt.NDArray[Any]
    missing: float | None = None
    scale: Sequence[float] | None = None
    offset: Sequence[float] | None = None
    valid: npt.NDArray[np.bool_] | None = None

    def cut(self, window: Window | None) -> "Array":
        """Returns a part of the image; all of it for None."""
        if window is None:
            return self
        top, left, height, width = window
        rows, columns = slice(top, top + height), slice(left, left + width)
        valid = None if self.valid is None else self.valid[rows, columns]
        return self._replace(values=self.values[:, rows, columns], valid=valid)


class ImageFile(ABC):
    """An open file of one image, or of several with the same height and width. It is a context manager.

    Attributes:
        count: Number of images; None if the file is one image.
        height: Height of each image in pixels.
        width: Width of each image in pixels.
        channel_names: Names of the channels, if the file has them.
        affine: Matrix `(4, 4)` from positions in the file to positions in space, in millimeters, if the file has one.
            It must be the same for all files of an image.
    """

    count: int | None = None
    height: int
    width: int
    channel_names: tuple[str, ...] | None = None
    affine: npt.NDArray[np.float64] | None = None

    @abstractmethod
    def read(self, member: int | None, window: Window | None) -> Array:
        """Reads an image.

        Args:
            member: Position of the image in the file; None if the file is one image.
            window: The part of the image to read; None for all of it.

        Raises:
            Exception: Any error if the file is damaged. Its text is the reason for which the image is skipped.
        """

    def close(self) -> None:  # noqa: B027 (most files have nothing to close)
        """Closes the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LoadedFile(ImageFile):
    """A file of one image, all of whose values are in memory.

    Args:
        array: The image.
        channel_names: Names of the channels, if the file has them.

    Examples:
        >>> file = LoadedFile(Array(np.zeros((2, 6, 8))))
        >>> file.height, file.read(None, Window(0, 4, 3, 4)).values.shape
        (6, (2, 3, 4))
    """

    def __init__(self, array: Array, channel_names: Sequence[str] | None = None) -> None:
        self._array = array
        self.height, self.width = array.values.shape[-2:]
        self.channel_names = None if channel_names is None else tuple(channel_names)

    def read(self, member: int | None, window: Window | None) -> Array:
        """Returns the image or a part of it."""
        return self._array.cut(window)


class Reader(ABC):
    """A reader of a file format. The options of its constructor are those of its spec, such as `h5[key=images]`.

    Attributes:
        folders: Whether what looks like a file is a folder.
    """

    folders: ClassVar[bool] = False

    @abstractmethod
    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header.

        Args:
            file: Path of the file, or the file in memory.

        Raises:
            MissingDependencyError: The package that reads the format is missing.
            Exception: Any other error if the file is damaged. Its text is the reason for which the file is skipped.
        """

    def may_hold_several(self, file: Path) -> bool:
        """Whether a file may hold several images, so that it is opened before its images are listed."""
        return False


class StackReader(Reader):
    """A reader of stacks, whose slices or frames become images.

    Args:
        z: What is made of a stack: `"all"` makes each slice an image, `"max"` and `"mean"` project all of them, and a
            number chooses one, counted from 0.

    Attributes:
        name: Name of the reader in messages.

    Raises:
        ArgumentError: `z` is something else.
    """

    name: ClassVar[str]

    def __init__(self, z: Slices | None = None) -> None:
        check_slices(self.name, z)
        self.z = z

    def may_hold_several(self, file: Path) -> bool:
        """Whether a file may hold several images: if each slice is one."""
        return self.z == "all"


def needed(package: str, file: object, extra: str) -> Any:
    """Imports the package that reads a format.

    Args:
        package: Name of the package.
        file: The file that is read, for the message.
        extra: The extra of this library that installs the package.

    Raises:
        MissingDependencyError: The package is missing.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {file} needs {package.partition('.')[0]}: pip install 'ssl-pretext[{extra}]'"
        ) from error


def check_bytes(count: int) -> None:
    """Raises unless an image that is read at once has at most as many bytes as the largest photograph."""
    if count > MAX_BYTES:
        raise ValueError(
            f"the image has {count:,} bytes, above the limit of {MAX_BYTES:,}; split it into smaller ones, or read it "
            "in parts with tile="
        )


def are_channels_last(shape: Sequence[int]) -> bool:
    """Whether the last of the axes `(C, H, W)` looks like the channels of a photo, and not like a width.

    Examples:
        >>> are_channels_last((64, 64, 3)), are_channels_last((3, 64, 64))
        (True, False)
    """
    return len(shape) == 3 and shape[2] in PHOTO_CHANNELS and min(shape[:2]) >= LEAST_SIDE


def check_slices(reader: str, z: Slices | None) -> None:
    """Checks what a reader makes of the slices of a stack.

    Raises:
        ArgumentError: `z` is none of `"all"`, `"max"`, `"mean"` and the whole numbers from 0.
    """
    if z not in (None, "all", "max", "mean") and (isinstance(z, bool | str | float) or z < 0):
        raise ArgumentError(
            f"z of the reader {reader!r} must be all (each slice is an image), max, mean or the position of a slice, "
            f"counted from 0, got {z!r}"
        )


def project(stack: npt.NDArray[Any], z: Slices, axis: int) -> npt.NDArray[Any]:
    """Chooses a slice of a stack along an axis, or computes the maximum or the mean of all of them.

    Raises:
        ValueError: There is no such slice.
    """
    if isinstance(z, int):
        if z >= stack.shape[axis]:
            raise ValueError(f"there is no slice z={z}; the file has {stack.shape[axis]}, counted from 0")
        return np.asarray(np.take(stack, z, axis))
    return np.asarray(stack.max(axis) if z == "max" else stack.mean(axis, dtype=np.float32))
