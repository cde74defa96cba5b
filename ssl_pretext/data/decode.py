"""Decoding of one image: photographs by Pillow at the size that is asked for, and everything else as arrays."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssl_pretext.data.opening import OpenFiles, PhotoFile, chw, open_image, open_mask
from ssl_pretext.data.photo import Content
from ssl_pretext.data.plain_jpeg import decode_plain_jpeg
from ssl_pretext.data.readers.base import Array, ImageFile, are_channels_last
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.resizing import crop_array, enlarge, resize_and_crop, resize_array, resize_mask
from ssl_pretext.data.sources import RESAMPLING, Reading, Source, Tiles, numbered_channels
from ssl_pretext.data.temporary import is_readable, temporary_error
from ssl_pretext.errors import PretextError
from ssl_pretext.registry import did_you_mean, joined

__all__ = ["Decoded", "LeftOut", "decode_in_memory", "decoder", "fitting_integers", "reason_of", "stored_dtype"]

SAME_PLACE = 1e-3  # millimeters by which the entries of affines may differ
EXACT = 2**24  # float32 holds integers up to this one


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: Pixels `(C, H, W)` with the dtype of the store.
        kind: Dtype of the file; `"float"` for every floating dtype.
        channel_names: Names of the channels, if the file has them.
    """

    pixels: npt.NDArray[Any]
    kind: str
    channel_names: tuple[str, ...] | None = None

    @property
    def description(self) -> str:
        """The format in words, such as `3 channels of uint8, 8×8 pixels`."""
        channels, height, width = self.pixels.shape
        return f"{channels} channel{'s' * (channels != 1)} of {self.kind}, {height}×{width} pixels"


class LeftOut(str):
    """The reason why a tile is left out although its file can be read."""


def decoder(reading: Reading, files: OpenFiles | None = None) -> Callable[[Source | Path | Content], Decoded | str]:
    """Returns a function that decodes an image, or returns the reason why it cannot; it never blocks.

    The reason is always one of the file: it is damaged, or this process has no right to read it. The function raises a
    `MissingDependencyError` or a `ReadError` if it fails for another reason, such as a lack of memory. For a tile with
    too few valid pixels the reason is a `LeftOut`.

    Args:
        reading: How the image is read.
        files: What keeps the files open that have several images; by default each is opened anew.

    Raises:
        UnknownNameError: There is no such reader.
        ArgumentError: The reader does not take its options.
    """
    readers = ReaderTable(reading.reader)
    import_module("torchvision")  # its parts import each other, which fails if threads import different ones first

    def opened(source: Source, path: Path | Content) -> AbstractContextManager[ImageFile]:
        if files is not None and isinstance(path, Path) and source[1:] != (None, None):
            return files.borrow(path)
        return open_image(path, reading, readers, whole=source[1:] == (None, None))

    def decode(image: Source | Path | Content) -> Decoded | str:
        source = image if isinstance(image, Source) else Source((image,))  # type: ignore[arg-type]
        path = source.files[0]  # in turn each file, for the message
        whole = source[1:] == (None, None) and len(source.files) == 1 and not reading.crop and reading.missing is None
        try:
            if reading.masks:
                return _decode_mask(source, reading, readers)
            if whole and readers.find(path.name) is None and (photo := decode_plain_jpeg(path)) is not None:
                return Decoded(_fitted(photo, reading.image_size), "uint8")
            arrays, names, affines = [], [], []
            for path in source.files:
                with opened(source, path) as file:
                    if whole and isinstance(file, PhotoFile):
                        return Decoded(file.resized(reading.image_size), "uint8")
                    array = file.read(_member(source, file), source.window)
                    if len(source.files) > 1 and isinstance(file, PhotoFile) and file.is_gray:
                        array = array._replace(values=array.values[:1])  # the channels are equal
                    arrays.append(array)
                    names.append(file.channel_names)
                    affines.append(file.affine)
            _check_one_grid(source, affines)
            return _decode_arrays(arrays, names, reading)
        except Exception as error:  # the decoding libraries raise almost any error on a damaged file
            return reason_of(error, path)

    return decode


def _fitted(photo: npt.NDArray[np.uint8], image_size: int | None) -> npt.NDArray[np.uint8]:
    """Resizes and crops a photograph `(H, W, 3)` as `PhotoFile.resized` does; returns `(3, h, w)`."""
    if image_size is None or photo.shape[:2] == (image_size, image_size):
        return np.ascontiguousarray(photo.transpose(2, 0, 1))
    from PIL import Image

    return chw(resize_and_crop(Image.fromarray(photo), image_size))


def reason_of(error: Exception, path: Path | Content) -> str:
    """Returns the reason why a file cannot be read, given the error that it raised.

    Raises:
        MissingDependencyError: The error is that a package is missing.
        ReadError: The error says nothing about the file, such as a lack of memory.
    """
    forbidden = isinstance(error, PermissionError) and isinstance(path, Path) and not is_readable(path)
    if (failure := temporary_error(error, path)) and not forbidden:
        raise failure from error
    return str(error) if isinstance(error, PretextError) else f"{type(error).__name__}: {error}"


def _member(source: Source, file: ImageFile) -> int | None:
    """The position of the image in a file that holds several."""
    if file.count is None:
        return None
    if source.member is None and file.count > 1:
        raise ValueError(f"the file holds {file.count} images, where one is expected")
    if (member := source.member or 0) >= file.count:
        raise ValueError(f"there is no image {member} in the file, which holds {file.count}, counted from 0")
    return member


def _check_one_grid(source: Source, affines: Sequence[npt.NDArray[np.float64] | None]) -> None:
    """Raises unless the pixels of all files of an image are at the same places in space, as far as the files say."""
    for path, affine in zip(source.files[1:], affines[1:], strict=True):
        if affine is None or affines[0] is None or (gap := np.abs(affine - affines[0])).max() <= SAME_PLACE:
            continue
        row, column = np.unravel_index(gap.argmax(), gap.shape)
        raise ValueError(
            f"{source.files[0].name} and {path.name} lie differently in space: entry ({row}, {column}) of their "
            f"affines is {affines[0][row, column]:g} and {affine[row, column]:g}; resample them to one grid, such "
            "as with nibabel.processing.resample_from_to"
        )


def _decode_arrays(
    arrays: Sequence[Array], names: Sequence[tuple[str, ...] | None], reading: Reading
) -> Decoded | LeftOut:
    """Joins the channels of the files of an image, unless it is a tile that is left out."""
    if reading.files:
        names = [_numbered(name, len(array.values)) for name, array in zip(reading.files, arrays, strict=True)]
    known = [name for some in names if some is not None for name in some]
    missing = _missing_by_file(reading.missing, [len(array.values) for array in arrays], known)
    decoded, lacking = zip(*map(_pixels, arrays, missing), strict=True)
    pixels = decoded[0]
    if len(decoded) > 1:
        decoded = _of_one_size(decoded, reading)
        pixels = np.concatenate(decoded)
    if any(lacking) and _is_left_out(pixels, reading.tiles):
        return LeftOut("too many pixels of the tile are missing")
    kinds = {_kind(array) for array in arrays}
    kind = joined(sorted(kinds)) if len(kinds) > 1 else kinds.pop()
    if reading.image_size is not None:
        pixels = (crop_array if reading.crop else resize_array)(pixels, reading.image_size)
    return Decoded(pixels, kind, tuple(known) if len(known) == len(pixels) else None)


def _decode_mask(source: Source, reading: Reading, readers: ReaderTable) -> Decoded:
    """Decodes a mask, in which NaN stands for unknown classes, and compares its size with that of its image."""
    mask, *others = source.files
    with open_mask(mask, reading, readers) as file:
        array, size = file.read(_member(source, file), source.window), (file.height, file.width)
    if len(array.values) != 1:
        raise ValueError(f"a mask has one channel, the class of each pixel, and {mask.name} has {len(array.values)}")
    sizes = []
    for path in others:
        with open_image(path, reading, readers) as file:
            sizes.append((file.height, file.width))
    if size != max(sizes):
        (height, width), (image_height, image_width) = size, max(sizes)
        raise ValueError(f"{mask.name} has {height}×{width} pixels, and its image has {image_height}×{image_width}")
    if array.values.dtype == np.uint8:  # of which images keep the value that means no data
        array = array._replace(values=array.values.astype(np.int16))
    pixels, _ = _pixels(array, None)
    if (fractions := pixels[(pixels != np.floor(pixels)) & ~np.isnan(pixels)]).size:
        raise ValueError(f"the values of a mask are classes, whole numbers, and {mask.name} has {fractions[0]:g}")
    if reading.image_size is not None:
        pixels = (crop_array if reading.crop else resize_mask)(pixels, reading.image_size)
    return Decoded(pixels, "class")


def _is_left_out(pixels: npt.NDArray[Any], tiles: Tiles | None) -> bool:
    """Whether an array with missing values is a tile with too few valid pixels.

    Raises:
        ValueError: Every value is missing.
    """
    absent = np.isnan(pixels)
    if tiles is not None and 1 - absent.any(axis=0).mean() < tiles.min_valid:
        return True
    if absent.all():
        raise ValueError("every value is missing")
    return False


def _of_one_size(parts: Sequence[npt.NDArray[Any]], reading: Reading) -> tuple[npt.NDArray[Any], ...]:
    """Enlarges the parts of an image to the height and width of the largest one."""
    size = max(part.shape[1:] for part in parts)
    rules = reading.resample or [None] * len(parts)
    pairs = zip(parts, rules, strict=True)
    return tuple(part if part.shape[1:] == size else _enlarged(part, size, rule) for part, rule in pairs)


def _enlarged(part: npt.NDArray[Any], size: tuple[int, int], rule: str | None) -> npt.NDArray[Any]:
    (height, width), (new_height, new_width) = part.shape[1:], size
    sizes = f"the files of the image have different sizes: {[(height, width), size]}"
    if rule is None:
        raise ValueError(f"{sizes}; pass resample, {joined(RESAMPLING, 'or')}")
    if abs(height * new_width - width * new_height) >= max(size):  # a pixel may be lost to rounding
        raise ValueError(f"{sizes}; only their resolution may differ")
    return enlarge(part, size, rule)


def _numbered(name: str, channels: int) -> tuple[str, ...]:
    """The names of the channels of one of the files of an image."""
    return (name,) if channels == 1 else tuple(f"{name}.{number}" for number in range(1, channels + 1))


def _missing_by_file(
    missing: float | Mapping[str, float] | None, counts: Sequence[int], names: Sequence[str]
) -> Sequence[float | Sequence[float | None] | None]:
    """The missing value of each file, or of each of its channels, given the numbers of channels in the files."""
    if not isinstance(missing, Mapping):
        return [missing] * len(counts)
    numbered = numbered_channels(sum(counts))
    known = names if len(names) == len(numbered) else numbered
    values: dict[int, float] = {}
    for name, value in missing.items():
        if name not in known and name not in numbered:
            raise ValueError(
                f"missing names the channel {name!r}, which the image does not have.{did_you_mean(name, known)} Its "
                f"channels are {joined(known)}"
            )
        values[(known if name in known else numbered).index(name)] = value
    channels = iter(range(len(numbered)))
    return [tuple(values.get(channel) for channel in islice(channels, count)) for count in counts]


def _pixels(array: Array, missing: float | Sequence[float | None] | None) -> tuple[npt.NDArray[Any], bool]:
    """Converts an array to the dtype of the store, in which missing values become NaN; also returns if there are any.

    `uint8` stays as it is, unless a value that means missing is given.
    """
    read = fitting_integers(array.values)
    dtype = stored_dtype(read.dtype)
    if read.ndim != 3 or 0 in read.shape or dtype is None:
        raise ValueError(
            "an array must have shape (C, H, W), or (H, W) for one channel, and dtype uint8, int8, int16, uint16 or "
            f"float, or integers up to {EXACT:,}; got shape {read.shape} and dtype {read.dtype}"
        )
    if dtype is np.uint8 and array.scale is None and missing is None:
        return np.array(read, order="C"), False
    with np.errstate(over="ignore"):  # the lowest float64 overflows; it often marks missing values
        if array.scale is None:
            pixels = np.array(read, dtype=np.float32, order="C")
        else:
            scale, offset = (np.asarray(numbers)[:, None, None] for numbers in (array.scale, array.offset))
            pixels = np.array(read * scale + offset, dtype=np.float32, order="C")
    lacks = array.valid is not None
    given = zip(read, pixels, missing, strict=True) if isinstance(missing, Sequence) else [(read, pixels, missing)]
    for values, floating, value in [(read, pixels, array.missing), *given]:
        if value is not None and (absent := _equal(values, value)).any():
            floating[absent], lacks = np.nan, True
    if array.valid is not None:
        pixels[:, ~array.valid] = np.nan
    if read.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        pixels[~finite], lacks = np.nan, True
    return pixels, lacks


def _equal(values: npt.NDArray[Any], value: float) -> npt.NDArray[np.bool_]:
    """Where an array has a value; integers are compared with integers, because NumPy would convert them to float64."""
    same: npt.NDArray[np.bool_] = values == (int(value) if values.dtype.kind in "iu" and value == value // 1 else value)
    return same


def _kind(array: Array) -> str:
    return "float" if array.scale is not None else _dtype_name(array.values.dtype)


@cache  # the names of dtypes are made anew at each use, which takes as long as converting a small image
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "float" if dtype.kind == "f" else dtype.name


def fitting_integers(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns integers of 32 or 64 bits as floating values if all of them are exact then; others as they are."""
    large = values.dtype.kind in "iu" and values.dtype.itemsize > 2
    if not large or not values.size or max(abs(int(values.min())), abs(int(values.max()))) > EXACT:
        return values
    return values.astype(np.float32)


@cache
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
            return Decoded(PhotoFile(image, ExitStack()).resized(image_size), "uint8")
        values = np.array(image, dtype=np.float32 if image.mode == "F" else np.uint16)
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu().as_subclass(Tensor)
        values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16
    elif isinstance(image, np.ndarray):
        values = image
    else:
        raise TypeError(f"an image must be a Pillow image, a tensor or an array, got {type(image).__name__}")
    if are_channels_last(values.shape):
        raise ValueError(
            f"it has shape {values.shape}, whose channels seem to be last; move them in front, (C, H, W), such as with "
            "image.transpose(2, 0, 1)"
        )
    array = Array(values[None] if values.ndim == 2 else values)
    return cast(Decoded, _decode_arrays([array], [None], Reading(image_size=image_size)))  # only tiles are left out
