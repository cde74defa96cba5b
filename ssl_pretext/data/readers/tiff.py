"""TIFF files as arrays: bands or pages are channels, and the slices of a stack are images; read with tifffile.

Windows of files with one page are read with rasterio if it is installed, which decodes only the strips and tiles that
they need. The values are those of tifffile.
"""

import io
import json
import math
import re
import struct
from contextlib import ExitStack, suppress
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import ORIENTATION, Content, upright
from ssl_pretext.data.readers.base import (
    MAX_BYTES,
    Array,
    ImageFile,
    Slices,
    StackReader,
    check_bytes,
    needed,
    project,
)
from ssl_pretext.data.readers.raster import RasterFile
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window
from ssl_pretext.data.tags import DESCRIPTION, HEADER, tiff_pages
from ssl_pretext.errors import MissingDependencyError

__all__ = ["OmeTiffReader", "TiffReader"]

GDAL_METADATA, GDAL_NODATA = 42112, 42113  # tags
MASK = 4  # bit of NewSubfileType
# Tags that say where the strips and tiles of a page begin, and the codes of `struct` for their types.
STARTS, INTEGERS = (273, 324), {3: "H", 4: "L", 16: "Q"}
UNIMPORTANT = {306, 33922, 34264}  # tags that say nothing of the pixels: the date, and two for the place on Earth
# Parts of descriptions that say nothing of the pixels, as Bio-Formats and ImageJ write them.
UNIMPORTANT_TEXT = re.compile(
    rb'urn:uuid:[0-9a-fA-F-]{36}|<AcquisitionDate>[^<]*|<Image\s[^>]*\bName="[^"]*"'
    rb'|\s(?:DeltaT|ExposureTime|Position[XYZ])="[^"]*"|^(?:min|max)=.*$',
    re.MULTILINE,
)
MOST_ALIKE = 2**24  # bytes of a file of which reading the tags takes any time that matters
MOST_OTHERS = 16  # after so many files in a row that were not alike, no layout is kept
CHANNEL_NAME = re.compile(r"<(?:\w+:)?Channel\s[^>]*\bName=")


class TiffReader(StackReader):
    """TIFF files.

    Args:
        z: What is made of a stack of slices (the axis Z of OME-TIFF and ImageJ): `"all"` makes each slice an image,
            `"max"` and `"mean"` project all of them, and a number chooses one, counted from 0. By default a stack is an
            error, unless it has no other axis; then its slices are the channels, as other pages are.

    Raises:
        ArgumentError: `z` is something else.
    """

    name = "tif"

    def __init__(self, z: Slices | None = None) -> None:
        super().__init__(z)
        self._layout: _Layout | None = None  # that of the last file
        self._others = 0  # files in a row that were not like the one before

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its tags."""
        return _TiffFile(file, self.z)

    def open_array(self, file: Path | Content, channels: int | None) -> ImageFile:
        """Opens a file that is an array, and keeps its layout for `open_alike`.

        Args:
            file: The file.
            channels: Number of channels, with which 8-bit files are arrays; see `Reading`.
        """
        opened = _TiffFile(file, self.z)
        self._layout = None
        if isinstance(file, Path) and self._others < MOST_OTHERS:
            self._layout = opened.layout(file, channels)
        self._others += 1
        return opened

    def open_alike(self, path: Path, size: int, channels: int | None) -> ImageFile | None:
        """Opens a file as an earlier one was opened, if all tags that matter are the same.

        So are those of many files of one program. tifffile takes longer for the tags of a small file than for all else.

        Args:
            path: The file.
            size: Its size in bytes.
            channels: As that of `open_array`.

        Returns:
            None if the file is different, or no file was opened by `open_array`.
        """
        layout = self._layout
        if layout is None or channels != layout.channels or size > MOST_ALIKE:
            return None
        data = path.read_bytes()
        start = layout.find_pixels(data)
        if start is None:
            return None
        self._others = 0
        pixels = np.frombuffer(data, layout.dtype, math.prod(layout.shape), start)
        return layout.file.with_pixels(path, pixels.reshape(layout.shape))


class OmeTiffReader(TiffReader):
    """OME-TIFF files.

    Args:
        z: As that of `TiffReader`; by default each slice is an image.
    """

    def __init__(self, z: Slices = "all") -> None:
        super().__init__(z)


class _Layout(NamedTuple):
    """How the pixels of a TIFF file are stored.

    Attributes:
        file: The closed file, with what its tags say.
        channels: Number of channels that was stated, with which it was opened.
        dtype: Type of the pixels, with their order of bytes.
        shape: Shape of the pixels.
        tags: What its tags say of the pixels; see `_tags_of_pixels`.
    """

    file: "_TiffFile"
    channels: int | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    tags: list[dict[int, Any]]

    def find_pixels(self, data: bytes) -> int | None:
        """The position of the first pixel in a file, if its pixels are stored in the same way; None otherwise."""
        try:
            tags, start = _tags_of_pixels(data)
        except Exception:  # damaged tags raise almost any error; tifffile then gives the reason
            return None
        end = start + math.prod(self.shape) * self.dtype.itemsize
        return start if tags == self.tags and end <= len(data) else None


def _tags_of_pixels(data: bytes) -> tuple[list[dict[int, Any]], int]:
    """What the tags of the pages of a file say of the pixels, and the position of the first pixel.

    Positions of pixels count from the first one. What says nothing of the pixels, such as a date or a place on Earth,
    is left out.
    """
    header = data[:HEADER]
    order = "<" if header.startswith(b"I") else ">"
    pages: list[dict[int, Any]] = []
    start = None
    for page in tiff_pages(io.BytesIO(data), header):
        said: dict[int, Any] = {tag: entry for tag, entry in page.items() if tag not in UNIMPORTANT}
        if DESCRIPTION in said:
            said[DESCRIPTION] = _description_of_pixels(page[DESCRIPTION][2])
        for tag in STARTS:
            if tag not in page:
                continue
            kind, length, value = page[tag]
            starts = struct.unpack(f"{order}{length}{INTEGERS[kind]}", value)
            start = starts[0] if start is None else start
            said[tag] = [position - start for position in starts]
        pages.append(said)
    if start is None:
        raise ValueError("the file has no pixels")
    return [{-1: header[:4]}, *pages], start


def _description_of_pixels(text: bytes) -> Any:
    """What the description of a page says of the pixels."""
    if not (text.startswith(b"{") and b'"shape":' in text):
        return UNIMPORTANT_TEXT.sub(b"", text)
    described = json.loads(text.rstrip(b"\0"))  # written by tifffile
    return {name: described.get(name) for name in ("shape", "axes", "truncated")}


class _TiffFile(ImageFile):
    def __init__(self, file: Path | Content, z: Slices | None) -> None:
        tifffile = needed("tifffile", file, "microscopy")
        self._file, self._z = file, z
        self._loaded: npt.NDArray[Any] | None = None
        self._pixels: npt.NDArray[Any] | None = None  # of a file that is like an earlier one
        self._raster: RasterFile | None = None
        self._scale: list[float] | None
        self._offset: list[float] | None
        with ExitStack() as opened:
            tiff = opened.enter_context(tifffile.TiffFile(opened.enter_context(file.open("rb"))))
            self._series = series = tiff.series[0]  # the first level of a pyramid
            self._byteorder = tiff.byteorder
            self._axes = _channels_and_slices(series.axes, z)
            tags = series.keyframe.tags
            nodata = tags.valueof(GDAL_NODATA)
            self._missing = None
            with suppress(TypeError, ValueError):  # the tag is a text, and there are files in which it is no number
                self._missing = float(nodata)
            self._turned = tags.valueof(ORIENTATION, default=1)
            alone = len(series.pages) == 1 and series.keyframe.index == 0
            after = tiff.pages[1:2] if alone else []
            self._mask = next((page for page in after if _is_mask(page, series.keyframe)), None)
            sizes = dict(zip(series.axes, series.shape, strict=True))
            self.height, self.width = sizes["Y"], sizes["X"]
            if self._turned in (5, 6, 7, 8):
                self.height, self.width = self.width, self.height
            self.count = sizes["Z"] if "Z" in self._axes and z == "all" else None
            channels = math.prod(size for axis, size in sizes.items() if axis not in "XY" and axis not in self._axes)
            (self._scale, self._offset), names = _gdal_metadata(tags.valueof(GDAL_METADATA), channels)
            if series.kind.lower() == "ome" and not any(names):
                names = _ome_names(tiff.ome_metadata)
            self.channel_names = tuple(names) if len(names) == channels and all(names) else None
            self._single = alone and self._turned == 1
            self._opened = opened.pop_all()

    def layout(self, file: Path, channels: int | None) -> _Layout | None:
        """How the pixels are stored, if they are one after another as they are, and only in this file."""
        series, size = self._series, file.stat().st_size
        page = series.keyframe
        if series.dataoffset is None or not page.is_contiguous or self._mask is not None or size > MOST_ALIKE:
            return None
        if b"FileName=" in page.description.encode():  # OME-TIFF of several files
            return None
        try:
            tags, start = _tags_of_pixels(file.read_bytes())
        except Exception:  # tags that tifffile did not need
            return None
        if start != series.dataoffset or start + series.nbytes > size:
            return None
        closed = copy(self)
        closed._opened = ExitStack()
        return _Layout(closed, channels, series.dtype.newbyteorder(self._byteorder), series.shape, tags)

    def with_pixels(self, path: Path, pixels: npt.NDArray[Any]) -> "_TiffFile":
        """Returns another file with the same tags and other pixels."""
        file = copy(self)
        file._file, file._pixels, file._opened = path, pixels, ExitStack()
        return file

    def read(self, member: int | None, window: Window | None) -> Array:
        if window and self._loaded is None and self._single:
            if find_spec("rasterio"):
                return self._read_in_parts(window)
            if (size := self._series.nbytes) > MAX_BYTES:
                raise MissingDependencyError(
                    f"{self._file} has {size:,} bytes and is read in parts, which needs rasterio: pip install "
                    "'ssl-pretext[geo]'"
                )
        try:
            stack = self._stack()
        except MissingDependencyError:
            if self._single and find_spec("rasterio"):
                return self._read_in_parts(window)  # it has all compressions
            raise
        values = stack[member] if self.count is not None and member is not None else stack
        valid = None
        if self._mask is not None:
            valid = upright((self._mask.asarray() > 0)[None], self._turned)[0]
        return Array(upright(values, self._turned), self._missing, self._scale, self._offset, valid).cut(window)

    def _read_in_parts(self, window: Window | None) -> Array:
        if self._raster is None:
            self._raster = RasterFile(self._file, "GTiff")
        return self._raster.read(None, window)

    def _stack(self) -> npt.NDArray[Any]:
        """The values `(C, H, W)`, or `(Z, C, H, W)` if each slice is an image."""
        if self._loaded is None:
            check_bytes(self._series.nbytes)
            values, axes = self._values(), self._series.axes
            channels = next((axis for axis in axes if axis not in "XY" and axis not in self._axes), None)
            order = [axis for axis in ("Z" if "Z" in self._axes else "", channels, "Y", "X") if axis]
            values = values.transpose([axes.index(axis) for axis in order])
            if channels is None:
                values = np.expand_dims(values, -3)
            self._loaded = values if self._z in (None, "all") or "Z" not in self._axes else project(values, self._z, 0)
        return self._loaded

    def _values(self) -> npt.NDArray[Any]:
        if self._pixels is not None:
            return self._pixels
        try:
            return np.asarray(self._series.asarray())
        except ValueError as error:
            if "'imagecodecs'" in str(error):
                raise MissingDependencyError(
                    f"{self._file} is compressed ({error}): pip install imagecodecs"
                ) from error
            raise

    def close(self) -> None:
        self._loaded = self._pixels = None
        if self._raster is not None:
            self._raster.close()
        self._opened.close()


def _channels_and_slices(axes: str, z: Slices | None) -> str:
    """The axes that are slices of a stack: `Z` or none.

    Raises:
        ValueError: There are axes besides X, Y, one for the channels and the slices.
    """
    others = axes.replace("Y", "", 1).replace("X", "", 1)
    slices = "Z" if "Z" in others and z is not None else ""
    if len(axes) != len(others) + 2 or len(others) - len(slices) > 1:
        choose = "; choose a slice, or make each slice an image, with reader='tif[z=max]', 'tif[z=0]' or 'tif[z=all]'"
        raise ValueError(
            f"the TIFF axes are {axes}; they must be Y, X and at most one more for the channels"
            + choose * ("Z" in others and len(others) == 2)
        )
    return slices


def _is_mask(page: Any, first: Any) -> bool:
    return bool(page.subfiletype & MASK) and page.shape == (first.imagelength, first.imagewidth)


def _gdal_metadata(
    text: str | None, channels: int
) -> tuple[tuple[list[float], list[float]] | tuple[None, None], list[str]]:
    """The scales and offsets of the channels, if there are any, and their descriptions, as GDAL writes them."""
    if not text:
        return (None, None), []
    found: dict[str, dict[int, str]] = {"scale": {}, "offset": {}, "description": {}}
    for item in ElementTree.fromstring(text):
        if item.get("role") in found and item.get("sample"):
            found[item.attrib["role"]][int(item.attrib["sample"])] = item.text or ""
    scales = [float(found["scale"].get(i, 1)) for i in range(channels)]
    offsets = [float(found["offset"].get(i, 0)) for i in range(channels)]
    descriptions = [found["description"].get(i, "") for i in range(channels)]
    scaled = {*scales} != {1.0} or {*offsets} != {0.0}
    return (scales, offsets) if scaled else (None, None), descriptions


def _ome_names(text: str | None) -> list[str]:
    """The names of the channels of the first image in the metadata of OME-TIFF."""
    if not text or not CHANNEL_NAME.search(text):  # parsing takes longer than the search
        return []
    pixels = next((item for item in ElementTree.fromstring(text).iter() if item.tag.endswith("}Pixels")), ())
    return [item.get("Name", "") for item in pixels if item.tag.endswith("}Channel")]


register_reader([".tif", ".tiff"], TiffReader)
register_reader([".ome.tif", ".ome.tiff"], OmeTiffReader)
