"""Opening of image files: with the reader of their suffix, or as photographs, which Pillow reads whole."""

import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssl_pretext.data.photo import (
    Content,
    apply_orientation,
    as_rgb,
    draft,
    format_by_suffix,
    open_photo,
    orientation,
    upright,
    upright_size,
)
from ssl_pretext.data.readers import NpyReader, TiffReader
from ssl_pretext.data.readers.base import Array, ImageFile, LoadedFile, check_bytes
from ssl_pretext.data.readers.raster import JpegTwoThousandReader, RasterFile
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.resizing import resize_and_crop, resized_shape
from ssl_pretext.data.sources import Reading, Window
from ssl_pretext.data.tags import is_photo, is_plain_rgb, tiff_content
from ssl_pretext.errors import DataError, MissingDependencyError

__all__ = ["OpenFiles", "PhotoFile", "chw", "open_image", "open_mask"]

GRAY_MODES = ("1", "L", "LA")
MASK_MODES = ("1", "L", "P", "I", "I;16")  # one whole number for each pixel
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "AVIF")
GEOREFERENCES = {33550, 33922, 34264, 34735}  # tags of GeoTIFF


class PhotoFile(ImageFile):
    """A photograph, which is decoded as a whole.

    Args:
        image: The file as opened by Pillow.
        opened: What is closed with it.

    Attributes:
        is_gray: Whether the file has only gray values, so that the three channels are equal.
    """

    def __init__(self, image: Any, opened: ExitStack) -> None:
        self._image, self._opened = image, opened
        self._pixels: npt.NDArray[np.uint8] | None = None
        self.width, self.height = upright_size(image)
        self.is_gray = image.mode in GRAY_MODES

    def read(self, member: int | None, window: Window | None) -> Array:
        """Reads the photograph or a part of it."""
        if self._pixels is None:
            self._pixels = self.resized(None)
        return Array(self._pixels).cut(window)

    def resized(self, image_size: int | None) -> npt.NDArray[np.uint8]:
        """Reads the photograph, whose shortest side is resized to a number of pixels and whose center is cropped.

        Args:
            image_size: The number of pixels; None keeps the size.
        """
        opened = self._image
        width, height = opened.size
        part = None if image_size is None else draft(opened, image_size)
        image = as_rgb(opened)
        if part is not None and image_size is not None:
            from PIL.Image import Resampling

            # Resized before it is rotated, so that `part` need not be rotated.
            image = image.resize(resized_shape(width, height, image_size), Resampling.BILINEAR, part)
        image = apply_orientation(image, orientation(opened))
        if image_size is not None and image.size != (image_size, image_size):
            image = resize_and_crop(image, image_size)
        return chw(image)

    def close(self) -> None:
        """Closes the file."""
        self._pixels = None
        self._opened.close()


def chw(image: Any) -> npt.NDArray[np.uint8]:
    """Converts a Pillow image in RGB to pixels `(3, H, W)`."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def open_image(path: Path | Content, reading: Reading, readers: ReaderTable, *, whole: bool = False) -> ImageFile:
    """Opens an image file; its content decides how it is read if its suffix is one that Pillow knows.

    Args:
        path: Path of the file, or the file in memory.
        reading: How the image is read.
        readers: The readers by suffix.
        whole: Whether all of the file will be read, so that it must not be too large.

    Raises:
        MissingDependencyError: The package that reads the file is missing.
        Exception: Any error if the file is damaged.
    """
    reader, size = readers.find(path.name), 0
    if isinstance(path, Path):
        status = path.stat()
        size = status.st_size
        is_right = stat.S_ISDIR if reader is not None and reader.folders else stat.S_ISREG
        if not is_right(status.st_mode):  # opening a pipe would block until something writes to it
            raise DataError("the path is not a regular file")
    reader = reader or readers.find_by_content(path)
    is_pillows = reader is None or (_is_suffix_of_pillow(path) and not readers.is_chosen(reader))
    if whole and (is_pillows or isinstance(reader, NpyReader)):  # the others know what the image takes of the file
        check_bytes(size)
    tiff = reader if isinstance(reader, TiffReader) else None
    if tiff and whole and isinstance(path, Path) and (alike := tiff.open_alike(path, size, reading.channels)):
        return alike
    if reader is not None and not is_pillows:
        return tiff.open_array(path, reading.channels) if tiff else reader.open(path)
    if _is_tiff_array(path, reading):
        return (tiff or TiffReader()).open_array(path, reading.channels)
    with ExitStack() as opened:
        image = opened.enter_context(open_photo(path))
        if image.format == "TIFF" and _alpha_is_a_band(image):
            return TiffReader().open(path)
        if image.format == "TIFF" or is_photo(image, path):
            if reading.tiles is None or not is_plain_rgb(image) or not find_spec("rasterio"):
                return PhotoFile(image, opened.pop_all())
            return RasterFile(path, "GTiff")  # decodes parts, and has the same pixels
        file_format = image.format
    if file_format == "PNG":
        return LoadedFile(Array(_read_png(path)))
    if file_format == "JPEG2000":
        return JpegTwoThousandReader().open(path)
    raise ValueError(
        f"the {file_format} file has more than 8 bits per sample, which Pillow does not read; save it as .tif or .npy, "
        "which are read as arrays"
    )


def open_mask(path: Path, reading: Reading, readers: ReaderTable) -> ImageFile:
    """Opens a file whose values are classes, which a palette does not turn into colors.

    Args:
        path: Path of the file.
        reading: How the file is read.
        readers: The readers by suffix.

    Raises:
        ValueError: The format is lossy, so that the values are not those that were written.
        Exception: As `open_image`.
    """
    if _is_suffix_of_pillow(path) and not readers.is_chosen(readers.find(path.name)):
        with open_photo(path) as image:
            if image.format in LOSSY_FORMATS:
                raise ValueError(f"a mask is not read from the lossy format {image.format}; save it as .png or .tif")
            if image.mode in MASK_MODES and image.format != "TIFF":
                values = np.asarray(image)
                return LoadedFile(Array(values.astype(np.uint8 if values.dtype == bool else values.dtype)[None]))
    return open_image(path, replace(reading, channels=1), readers)  # so that 8-bit TIFF files are arrays


def _alpha_is_a_band(image: Any) -> bool:
    """Whether the fourth band of a georeferenced TIFF file is no alpha, although GDAL has declared it as alpha.

    GDAL does so for all files of four bands of 8 bits, whose fourth band is often infrared.
    """
    if image.mode != "RGBA" or not GEOREFERENCES & {*image.tag_v2}:
        return False
    return any(value not in (0, 255) for _, value in image.getchannel("A").getcolors())


def _is_tiff_array(path: Path | Content, reading: Reading) -> bool:
    """Whether a file is a TIFF file by its content, and no photograph."""
    content = tiff_content(path)
    return content == "array" or (content == "photo" and reading.channels is not None)


def _is_suffix_of_pillow(path: Path | Content) -> bool:
    """Whether the suffix of a file is one that photographs have, too."""
    return path.suffix.lower() in format_by_suffix() and not path.name.lower().endswith((".ome.tif", ".ome.tiff"))


def _read_png(path: Path | Content) -> npt.NDArray[np.uint16]:
    """Reads the 16-bit samples of a PNG file as they are, `(C, H, W)`."""
    with open_photo(path) as opened:
        turned = orientation(opened)
        if opened.mode.startswith("I"):
            return upright(np.asarray(opened).astype(np.uint16)[None], turned)
    try:
        from torchvision.io import ImageReadMode, decode_png  # Pillow reduces all but gray samples to 8 bits
    except ImportError as error:
        raise MissingDependencyError(
            f"reading the 16-bit samples of {path} needs torchvision.io.decode_png, which this version of torchvision "
            "does not have; install an earlier one, or save the image as .tif or .npy"
        ) from error
    with path.open("rb") as file:
        content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    return upright(decode_png(content, ImageReadMode.UNCHANGED).numpy(), turned)


class OpenFiles:
    """Files that are kept open, because neighboring images are often parts of one file.

    What a file decodes for one image, such as a whole photograph, is there for the next one. A file is used by one
    thread at a time.

    Args:
        reading: How the images are read.
        readers: The readers by suffix.
        kept: Number of files that are kept open in addition to those in use.
    """

    def __init__(self, reading: Reading, readers: ReaderTable, kept: int) -> None:
        self._reading, self._readers, self._kept = reading, readers, kept
        self._lock = threading.Lock()
        self._entries: dict[Path, _Entry] = {}  # the one used last is at the end

    @contextmanager
    def borrow(self, path: Path) -> Iterator[ImageFile]:
        """Yields an open file, which no other thread uses in the meantime.

        Args:
            path: Path of the file.

        Raises:
            Exception: Any error of `open_image`.
        """
        with self._lock:
            entry = self._entries[path] = self._entries.pop(path) if path in self._entries else _Entry()
            entry.users += 1
        try:
            with entry.lock:
                if entry.file is None:
                    entry.file = open_image(path, self._reading, self._readers)
                yield entry.file
        finally:
            with self._lock:
                entry.users -= 1
                self._close_all_but(self._kept)

    def close(self) -> None:
        """Closes the files that are not in use."""
        with self._lock:
            self._close_all_but(0)

    def _close_all_but(self, kept: int) -> None:
        if len(self._entries) <= kept:
            return
        idle = [path for path, entry in self._entries.items() if not entry.users]
        for path in idle[: len(idle) - kept]:
            if (file := self._entries.pop(path).file) is not None:
                file.close()


class _Entry:
    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.file: ImageFile | None = None
