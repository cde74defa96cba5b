"""Arrays in files: `.npy`, HDF5 and zarr, whose axes are images, channels, rows and columns in a stated order."""

import io
import math
import re
import threading
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import Array, ImageFile, Reader, are_channels_last, check_bytes, needed
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window
from ssl_pretext.data.temporary import is_readable
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import joined

__all__ = ["AxesFile", "Hdf5Reader", "NpyReader", "ZarrReader"]

OME_AXES = {"t": "T", "c": "C", "z": "N", "y": "H", "x": "W"}  # slices along Z are images
USUAL_AXES = {2: "HW", 3: "CHW", 4: "NCHW"}  # by the number of dimensions
NPY_HEADERS = threading.Lock()  # CPython 3.11 sometimes raises SystemError when several threads parse literals
NPY_START = 2**8  # bytes, which nearly always contain the shape
NPY_SHAPE = re.compile(rb"'shape': \(([\d, ]*)\)")
MAX_NPY_HEADER = 2**16  # bytes; NumPy refuses headers that are longer than 10,000 characters
READ_AHEAD = 2**20  # bytes of whole chunks that are read at once: zarr takes longer for a call than for a small chunk
MAX_BLOCK = 2**27  # bytes of whole chunks that are kept; larger ones are read anew for each image or window


class AxesFile(ImageFile):
    """An array in a file.

    Args:
        data: What has the shape, the dtype and the values of the array: an array, or a data set of HDF5 or zarr.
        axes: Its axes, such as `NHWC`; None for the usual ones. An axis `T` has the length 1 and is left out.
        opened: The open file, which is closed with this one.

    Raises:
        ValueError: The array does not have these axes, or its number of dimensions is not 2, 3 or 4.
    """

    def __init__(self, data: Any, axes: str | None, opened: Any = None) -> None:
        self._data, self._opened = data, opened
        self._axes = axes or USUAL_AXES.get(len(data.shape), "")
        if len(self._axes) != len(data.shape) or not self._axes:
            wanted = f"the axes {axes}" if axes else "shape (C, H, W), (H, W) for one channel, or (N, C, H, W)"
            raise ValueError(f"an array must have {wanted}; got shape {tuple(data.shape)} and dtype {data.dtype}")
        if axes is None and are_channels_last(data.shape[-3:]):
            raise ValueError(
                f"the array has shape {tuple(data.shape)}, whose channels seem to be last; name its axes, such as "
                f"reader='npy[axes={'N' * (len(data.shape) == 4)}HWC]' for .npy files, or move the channels in front"
            )
        self._sizes = dict(zip(self._axes, data.shape, strict=True))
        self.count, self.height, self.width = self._sizes.get("N"), self._sizes["H"], self._sizes["W"]
        chunks = getattr(data, "chunks", None)
        self._chunks = dict(zip(self._axes, chunks, strict=True)) if chunks else {}
        self._blocks: dict[tuple[int, int, int, int], npt.NDArray[Any]] = {}  # the last used one is at the end

    def read(self, member: int | None, window: Window | None) -> Array:
        """Reads an image or a part of it; neighboring ones that share chunks decode them once."""
        top, left, height, width = window or Window(0, 0, self.height, self.width)
        rows, images = slice(top, top + height), slice(member or 0, (member or 0) + 1)
        aligned_rows = self._aligned("H", rows)
        block = max(1, self._bytes(slice(0, self._chunks.get("N", 1)), aligned_rows))
        aligned = (self._aligned("N", images, chunks=max(1, READ_AHEAD // block)), aligned_rows)
        if not self._chunks or self._bytes(*aligned) > MAX_BLOCK:
            check_bytes(self._bytes(images, rows) * width // self.width)
            return Array(self._read(images, rows, slice(left, left + width))[0])
        start, first = aligned[0].start, aligned[1].start
        image = self._block(*aligned)[images.start - start]
        return Array(image[:, top - first : top - first + height, left : left + width])

    def close(self) -> None:
        """Closes the file."""
        self._blocks.clear()
        if self._opened is not None:
            self._opened.close()

    def _block(self, images: slice, rows: slice) -> npt.NDArray[Any]:
        """Whole chunks `(N, C, H, W)`, of which the last ones are kept; several, because threads take turns."""
        key = (images.start, images.stop, rows.start, rows.stop)
        self._blocks[key] = self._blocks.pop(key) if key in self._blocks else self._read(images, rows, slice(None))
        while sum(block.nbytes for block in self._blocks.values()) > MAX_BLOCK:
            del self._blocks[next(iter(self._blocks))]
        return self._blocks[key]

    def _aligned(self, axis: str, part: slice, chunks: int = 1) -> slice:
        """Extends a range to whole chunks, or to a multiple of some chunks."""
        chunk = self._chunks.get(axis, 1) * chunks
        stop = min(self._sizes.get(axis, 1), -(-part.stop // chunk) * chunk)
        return slice(part.start // chunk * chunk, stop)

    def _bytes(self, images: slice, rows: slice) -> int:
        pixels = (images.stop - images.start) * (rows.stop - rows.start) * self.width
        return int(pixels * self._sizes.get("C", 1) * self._data.dtype.itemsize)

    def _read(self, images: slice, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """Reads values `(N, C, H, W)`."""
        parts = {"T": 0, "N": images, "C": slice(None), "H": rows, "W": columns}
        values = np.asarray(self._data[tuple(parts[axis] for axis in self._axes)])
        axes, present = self._axes.replace("T", ""), [axis for axis in "NCHW" if axis in self._axes]
        values = values.transpose([axes.index(axis) for axis in present])
        return np.reshape(values, [values.shape[present.index(axis)] if axis in present else 1 for axis in "NCHW"])


class _AxesReader(Reader):
    """Arrays whose axes can be stated.

    Args:
        axes: Axes of the array in their order: H (rows), W (columns), C (channels, if there are any) and N (images, if
            there are several), such as `NHWC`. By default `HW`, `CHW` or `NCHW`.

    Raises:
        ArgumentError: The axes are others, or one occurs twice.
    """

    def __init__(self, axes: str | None = None) -> None:
        if axes is not None and (not {"H", "W"} <= {*axes} <= {*"NCHW"} or len({*axes}) < len(axes)):
            raise ArgumentError(
                f"axes must be the letters H and W, and C and N if there are channels and several images, in the order "
                f"of the array, such as NHWC, got {axes!r}"
            )
        self.axes = axes

    def may_hold_several(self, file: Path) -> bool:
        """Whether a file may hold several images."""
        return self.axes is None or "N" in self.axes


class NpyReader(_AxesReader):
    """Files in NumPy's format `.npy`."""

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header."""
        return _NpyFile(file, self.axes)

    def may_hold_several(self, file: Path) -> bool:
        """Whether a file may hold several images; its first bytes are searched, because there may be many files."""
        if self.axes is not None or not file.is_file() or not is_readable(file):
            return super().may_hold_several(file)
        with file.open("rb") as opened:
            shape = NPY_SHAPE.search(opened.read(NPY_START))
        return shape is None or len(shape[1].replace(b",", b" ").split()) == len(USUAL_AXES[4])


class _NpyHeader(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    offset: int  # of the values in the file, in bytes


class _NpyFile(ImageFile):
    def __init__(self, file: Path | Content, axes: str | None) -> None:
        self._file, self._axes = file, axes
        self._array: AxesFile | None = None
        self._opened = file.open("rb")
        try:
            self._header = _read_npy_header(self._opened)
            described = AxesFile(self._header, axes)
        except BaseException:
            self._opened.close()
            raise
        self.count, self.height, self.width = described.count, described.height, described.width

    def read(self, member: int | None, window: Window | None) -> Array:
        if self._array is None:
            shape, dtype, order, offset = self._header
            data: npt.NDArray[Any]
            if isinstance(self._file, Path) and (window or member is not None):
                data = np.memmap(self._file, dtype, "r", offset, shape, order)
            else:
                self._opened.seek(offset)
                data = np.ndarray(shape, dtype, self._opened.read(math.prod(shape) * dtype.itemsize), order=order)
            self._array = AxesFile(data, self._axes)
        return self._array.read(member, window)

    def close(self) -> None:
        self._array = None
        self._opened.close()


def _read_npy_header(file: IO[bytes]) -> _NpyHeader:
    """Rejects a header that states more than the file has, or a negative length, which older versions of NumPy replace.

    The header is read from memory, where no more is allocated than the file has, whatever length it states.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = io.BytesIO(file.read(MAX_NPY_HEADER))
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the .npy file has version {version}, which is for named fields; an image has none")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with NPY_HEADERS:
            shape, by_columns, dtype = read_header(header)
    except MemoryError as error:  # raised by Python's parser for a text that is nested too deeply
        raise ValueError("the header cannot be parsed") from error
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, because they may contain code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - header.tell():
        raise ValueError(f"the header states the shape {shape}, but the file has {size:,} bytes")
    return _NpyHeader(shape, dtype, "F" if by_columns else "C", header.tell())


class _KeyedReader(_AxesReader):
    """Arrays in a file with several data sets.

    Args:
        key: Name of the data set, such as `train/images`; it can be left out if the file has one.
        axes: Axes of the data set; see `NpyReader`.
    """

    def __init__(self, key: str | None = None, axes: str | None = None) -> None:
        super().__init__(axes)
        self.key = key

    def _find(self, data_sets: dict[str, Any], suffix: str) -> Any:
        if self.key is None and len(data_sets) == 1:
            return next(iter(data_sets.values()))
        if self.key not in data_sets:
            listed = joined(sorted(data_sets)) if data_sets else "none"
            raise ValueError(
                f"there is no data set {self.key!r}; the file has {listed}"
                if self.key
                else f"the file has the data sets {listed}; name one, such as reader='{suffix}[key=images]'"
            )
        return data_sets[self.key]


class Hdf5Reader(_KeyedReader):
    """Files in the format HDF5."""

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header."""
        h5py = needed("h5py", file, "arrays")
        opened = h5py.File(file if isinstance(file, Path) else file.open("rb"), "r")
        try:
            found: dict[str, Any] = {}
            opened.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
            return AxesFile(self._find(found, "h5"), self.axes, opened)
        except BaseException:
            opened.close()
            raise


class ZarrReader(_KeyedReader):
    """Folders in the format zarr.

    Of OME-Zarr, the finest level is read. Its metadata name the axes and the channels; each slice along Z is an image,
    and there must be one point in time.
    """

    folders: ClassVar[bool] = True

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a folder and reads its header."""
        zarr = needed("zarr", file, "arrays")
        if not isinstance(file, Path):
            raise ValueError("a .zarr is a folder; files with this suffix are not read")
        opened = zarr.open(str(file), mode="r")
        if self.key is None and self.axes is None and (described := _multiscale(opened)):
            return _open_ome(opened, described)
        found = dict(_arrays(opened)) if isinstance(opened, zarr.Group) else {"": opened}
        return AxesFile(self._find(found, "zarr"), self.axes)


def _multiscale(opened: Any) -> dict[str, Any] | None:
    """The metadata of OME-Zarr: of version 0.5, or of 0.4 and earlier ones, which had no key of their own."""
    attributes = dict(opened.attrs)
    ome = attributes.get("ome", attributes)
    return ome if ome.get("multiscales") else None


def _open_ome(group: Any, described: dict[str, Any]) -> AxesFile:
    first = described["multiscales"][0]
    data = group[first["datasets"][0]["path"]]
    names = [axis if isinstance(axis, str) else axis["name"] for axis in first.get("axes", "tczyx")]
    if unknown := {*names} - OME_AXES.keys():
        raise ValueError(f"the OME-Zarr axes are {joined(names)}; {joined(sorted(unknown))} cannot be read")
    if "t" in names and (count := data.shape[names.index("t")]) > 1:
        raise ValueError(
            f"the file has {count} points in time, where one is needed; save each of them as its own image"
        )
    file = AxesFile(data, "".join(OME_AXES[name] for name in names))
    labels = [channel.get("label", "") for channel in described.get("omero", {}).get("channels", [])]
    if labels and all(labels) and "c" in names and len(labels) == data.shape[names.index("c")]:
        file.channel_names = tuple(labels)
    return file


def _arrays(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found = [(f"{prefix}{name}", array) for name, array in group.arrays()]
    for name, inner in group.groups():
        found += _arrays(inner, f"{prefix}{name}/")
    return found


register_reader([".npy"], NpyReader)
register_reader([".h5", ".hdf5"], Hdf5Reader)
register_reader([".zarr"], ZarrReader)
