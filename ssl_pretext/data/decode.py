"""Decoding of one image file: photographs by Pillow; `.npy` files and what has more bits or bands as arrays."""

import io
import math
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.data.photo import (
    MAX_PIXELS,
    ORIENTATION,
    Content,
    apply_orientation,
    as_rgb,
    draft,
    open_photo,
    orientation,
)
from ssl_pretext.data.sources import Reading, Source
from ssl_pretext.data.tags import is_photo, is_tiff
from ssl_pretext.data.temporary import is_readable, temporary_error
from ssl_pretext.errors import DataError, MissingDependencyError, PretextError

__all__ = ["Decoded", "decode_in_memory", "decoder", "stored_dtype"]

GDAL_NODATA = 42113  # TIFF tag
NPY_HEADERS = threading.Lock()  # CPython 3.11 sometimes raises SystemError when several threads parse literals
MAX_NPY_HEADER = 2**16  # bytes; NumPy refuses headers that are longer than 10,000 characters
MAX_BYTES = 3 * MAX_PIXELS  # of an array; the largest photograph has as many
MAX_MISSING = 0.5  # a resized pixel is missing if more than this weight of the pixels averaged in it is missing


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: Pixels `(C, H, W)` with the dtype of the store.
        kind: Dtype of the file; `"float"` for every floating dtype.
    """

    pixels: npt.NDArray[Any]
    kind: str

    @property
    def description(self) -> str:
        """The format in words, such as `3 channels of uint8, 8×8 pixels`."""
        channels, height, width = self.pixels.shape
        return f"{channels} channel{'s' * (channels != 1)} of {self.kind}, {height}×{width} pixels"


class Array(NamedTuple):
    """An array as it is in a file.

    Attributes:
        values: Values `(C, H, W)`.
        missing: The value that the file declares as no data, if it does.
    """

    values: npt.NDArray[Any]
    missing: float | None = None


def decoder(reading: Reading) -> Callable[[Source | Path | Content], Decoded | str]:
    """Returns a function that decodes an image, or returns the reason why it cannot; it never blocks.

    The reason is always one of the file: it is damaged, or this process has no right to read it. The function raises a
    `MissingDependencyError` or a `ReadError` if it fails for another reason, such as a lack of memory.

    Args:
        reading: How the image is read.
    """

    def decode(image: Source | Path | Content) -> Decoded | str:
        source = image if isinstance(image, Source) else Source((image,))  # type: ignore[arg-type]
        path = source.files[0]  # in turn each file, for the message
        try:
            arrays = []
            for path in source.files:
                found = _read_file(path, reading, whole=source[1:] == (None, None) and len(source.files) == 1)
                if isinstance(found, Decoded):
                    return found
                arrays.append(found)
            return _decode_array(_part(_stacked(arrays), source), reading.image_size)
        except Exception as error:  # the decoding libraries raise almost any error on a damaged file
            forbidden = isinstance(error, PermissionError) and isinstance(path, Path) and not is_readable(path)
            if (failure := temporary_error(error, path)) and not forbidden:
                raise failure from error
            return str(error) if isinstance(error, PretextError) else f"{type(error).__name__}: {error}"

    return decode


def _read_file(path: Path | Content, reading: Reading, *, whole: bool) -> Array | Decoded:
    """Reads the values of a file; if it is a whole photograph, decodes it at the size that is asked for."""
    from PIL import UnidentifiedImageError

    if isinstance(path, Path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block until something writes to it
            raise DataError("the path is not a regular file")
        _check_bytes(status.st_size)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    try:
        with open_photo(path) as image:
            if is_photo(image, path) and (reading.channels is None or image.format != "TIFF"):
                pixels = _read_photo(image, reading.image_size if whole else None)
                return Decoded(pixels, "uint8") if whole else Array(pixels)
            file_format = image.format
    except UnidentifiedImageError:
        if not is_tiff(path):
            raise
        file_format = "TIFF"  # with bands that Pillow has no mode for
    if file_format not in ARRAY_READERS:
        raise ValueError(
            f"the {file_format} file has more than 8 bits per sample, or a band that is not declared as alpha, "
            "which Pillow does not read; save it as .tif or .npy, which are read as arrays"
        )
    return ARRAY_READERS[file_format](path)


def _stacked(arrays: Sequence[Array]) -> Array:
    """Joins the channels of several arrays of the same height and width."""
    if len(arrays) == 1:
        return arrays[0]
    sizes = {array.values.shape[1:] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"the files of the image have different sizes: {sorted(sizes)}")
    if {array.missing for array in arrays} == {None}:
        return Array(np.concatenate([array.values for array in arrays]))
    return Array(np.concatenate([np.where(a.values == a.missing, np.nan, a.values) for a in arrays]))


def _part(array: Array, source: Source) -> Array:
    """The part of an array that is the image."""
    if source.window is None:
        return array
    top, left, height, width = source.window
    return array._replace(values=array.values[:, top : top + height, left : left + width])


def stored_dtype(dtype: np.dtype[Any]) -> type[np.uint8] | type[np.float32] | None:
    """The dtype in which a store holds values exactly: `uint8` or `float32`; None for unsupported dtypes."""
    dtype = dtype.newbyteorder("=")
    if dtype == np.uint8:
        return np.uint8
    # These integer dtypes have fewer bits than the significand of float32, so no value is rounded.
    return np.float32 if dtype in (np.int8, np.int16, np.uint16) or np.issubdtype(dtype, np.floating) else None


def decode_in_memory(image: Any, image_size: int | None = None) -> Decoded:
    """Converts an image in memory as `decoder` converts one in a file.

    Args:
        image: A Pillow image, which becomes upright sRGB, or its own values if they are floating or have 16 bits; or a
            tensor or an array `(C, H, W)` or `(H, W)`.
        image_size: The shortest side is resized to this number of pixels and the center is cropped. None keeps the
            size.

    Raises:
        ValueError: The image has another shape or dtype, or its size or number of bits is not supported.
        TypeError: The image is of another type.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        if not image.mode.startswith("I;16") and image.mode != "F":
            return Decoded(_read_photo(image, image_size), "uint8")
        values = np.array(image, dtype=np.float32 if image.mode == "F" else np.uint16)
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu().as_subclass(Tensor)
        values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16
    elif isinstance(image, np.ndarray):
        values = image
    else:
        raise TypeError(f"an image must be a Pillow image, a tensor or an array, got {type(image).__name__}")
    return _decode_array(Array(values[None] if values.ndim == 2 else values), image_size)


def _chw(image: Any) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _read_photo(opened: Any, image_size: int | None) -> npt.NDArray[np.uint8]:
    width, height = opened.size
    part = None if image_size is None else draft(opened, image_size)
    image = as_rgb(opened)
    if part is not None and image_size is not None:
        from PIL.Image import Resampling

        # Resized before it is rotated, so that `part` need not be rotated.
        image = image.resize(_resized_shape(width, height, image_size), Resampling.BILINEAR, part)
    image = apply_orientation(image, orientation(opened))
    if image_size is not None and image.size != (image_size, image_size):
        image = _resize_and_crop(image, image_size)
    return _chw(image)


def _upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Rotates or flips an array `(C, H, W)` upright, given its EXIF orientation; see `apply_orientation`."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels[:, ::-1] if orientation in (3, 4, 7, 8) else pixels


def _read_png(path: Path | Content) -> Array:
    """Reads the 16-bit samples of a PNG file as they are."""
    with open_photo(path) as opened:
        turned = orientation(opened)
        if opened.mode.startswith("I"):
            return Array(_upright(np.asarray(opened).astype(np.uint16)[None], turned))
    try:
        from torchvision.io import ImageReadMode, decode_png  # Pillow reduces all but gray samples to 8 bits
    except ImportError as error:
        raise MissingDependencyError(
            f"reading the 16-bit samples of {path} needs torchvision.io.decode_png, which this version of torchvision "
            "does not have; install an earlier one, or save the image as .tif or .npy"
        ) from error
    with path.open("rb") as file:
        content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    return Array(_upright(decode_png(content, ImageReadMode.UNCHANGED).numpy(), turned))


def _read_npy(path: Path | Content) -> Array:
    with NPY_HEADERS, path.open("rb") as file:
        _check_npy_header(file)
        # Not `np.load`, which also opens archives.
        pixels = np.lib.format.read_array(file, allow_pickle=False)
    return Array(pixels[None] if pixels.ndim == 2 else pixels)


def _check_npy_header(file: IO[bytes]) -> None:
    """Rejects a header that states more than the file has, or a negative length, which older versions of NumPy replace.

    The header is read from memory, where no more is allocated than the file has, whatever length it states.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = io.BytesIO(file.read(MAX_NPY_HEADER))
    file.seek(0)
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the .npy file has version {version}, which is for named fields; an image has none")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read_header(header)
    except MemoryError as error:  # raised by Python's parser for a text that is nested too deeply
        raise ValueError("the header cannot be parsed") from error
    if min(shape, default=0) < 0 or (not dtype.hasobject and math.prod(shape) * dtype.itemsize > size):
        raise ValueError(f"the header states the shape {shape}, but the file has {size:,} bytes")


def _read_tiff(path: Path | Content) -> Array:
    """Reads bands or pages as channels; also returns the value that the file declares as no data."""
    try:
        import tifffile
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} as an array needs tifffile: pip install tifffile") from error
    try:
        with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
            _check_bytes(file.series[0].nbytes)
            pixels, axes = np.asarray(file.series[0].asarray()), file.series[0].axes
            tags = file.series[0].keyframe.tags
            missing, turned = tags.valueof(GDAL_NODATA), tags.valueof(ORIENTATION, default=1)
    except ValueError as error:
        if "'imagecodecs'" in str(error):
            raise MissingDependencyError(f"{path} is compressed ({error}): pip install imagecodecs") from error
        raise
    bands = axes.replace("Y", "").replace("X", "")
    if len(bands) > 1 or len(axes) != len(bands) + 2:
        raise ValueError(f"the TIFF axes are {axes}; they must be Y, X and at most one more for the channels")
    pixels = _upright(np.moveaxis(pixels, axes.index(bands), 0) if bands else pixels[None], turned)
    return Array(pixels, None if missing is None else float(missing))


def _decode_array(array: Array, image_size: int | None) -> Decoded:
    """Converts an array to the dtype of the store; its missing values become NaN, except in `uint8`."""
    read, missing = array
    dtype = stored_dtype(read.dtype)
    if read.ndim != 3 or 0 in read.shape or dtype is None:
        raise ValueError(
            "an array must have shape (C, H, W), or (H, W) for one channel, and dtype uint8, int8, int16, uint16 or "
            f"float; got shape {read.shape} and dtype {read.dtype}"
        )
    with np.errstate(over="ignore"):  # the lowest float64 overflows; it often marks missing values
        pixels = np.array(read, dtype=dtype, order="C")
    if dtype is np.float32:
        if missing is not None:
            pixels[read == missing] = np.nan
        pixels[~np.isfinite(pixels)] = np.nan
        if np.isnan(pixels).all():
            raise ValueError("every value is missing")
    kind = "float" if np.issubdtype(read.dtype, np.floating) else read.dtype.name
    return Decoded(pixels if image_size is None else _resize_array(pixels, image_size), kind)


def _resize_array(pixels: npt.NDArray[Any], image_size: int) -> npt.NDArray[Any]:
    """Resizes like a photograph, excluding missing values from every mean: `resize(v · valid) / resize(valid)`."""
    values = torch.from_numpy(pixels).float()
    valid = ~values.isnan()
    resized = _resize_and_crop(values.where(valid, 0), image_size)
    if not valid.all():
        weight = _resize_and_crop(valid.float(), image_size)
        resized = (resized / weight).where(weight >= 1 - MAX_MISSING, torch.nan)
    if pixels.dtype == np.uint8:
        resized = resized.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(resized.numpy())


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise ValueError(f"the image has {count:,} bytes, above the limit of {MAX_BYTES:,}; split it into smaller ones")


def _resize_and_crop(image: Any, image_size: int) -> Any:
    from torchvision.transforms import functional as F

    width, height = image.shape[:0:-1] if isinstance(image, Tensor) else image.size
    width, height = _resized_shape(width, height, image_size)
    # Tensors are antialiased only on request; Pillow images always are.
    return F.center_crop(F.resize(image, [height, width], antialias=True), [image_size])


def _resized_shape(width: int, height: int, image_size: int) -> tuple[int, int]:
    """The width and height of an image whose shortest side is resized to `image_size`, as in torchvision."""
    shortest = min(width, height)
    if image_size**2 * max(width, height) > MAX_PIXELS * shortest:
        raise ValueError(f"the aspect ratio of {width}×{height} pixels is too extreme to resize to {image_size} pixels")
    return int(image_size * width / shortest), int(image_size * height / shortest)


ARRAY_READERS = {"PNG": _read_png, "TIFF": _read_tiff}  # by the names that Pillow gives to the formats
