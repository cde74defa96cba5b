"""NIfTI files, read with nibabel: the slices of a volume are images, and the fourth axis is the channels."""

import gzip
import io
import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import Array, ImageFile, Slices, StackReader, check_bytes, needed, project
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window

__all__ = ["NiftiReader"]


class NiftiReader(StackReader):
    """Volumes `(H, W, Z)`, or `(H, W, Z, C)` with several channels such as modalities, as nibabel gives them.

    The values are floating, scaled as the header says.

    Args:
        z: What is made of the slices along the third axis: `"all"` makes each slice an image, `"max"` and `"mean"`
            project all of them, and a number chooses one, counted from 0.

    Raises:
        ArgumentError: `z` is something else.
    """

    name = "nii"
    z: Slices

    def __init__(self, z: Slices = "all") -> None:
        super().__init__(z)

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header."""
        return _NiftiFile(file, self.z)


class _NiftiFile(ImageFile):
    def __init__(self, file: Path | Content, z: Slices) -> None:
        nibabel = needed("nibabel", file, "medical")
        # A part of a compressed file cannot be read without what is before it, so all of it is kept.
        self._compressed = file.suffix.lower() == ".gz"
        self._file = file
        if isinstance(file, Path):
            self._volume = nibabel.load(file)
        else:
            data = _decompressed(io.BytesIO(file.data)) if self._compressed else file.data
            self._volume = nibabel.Nifti1Image.from_bytes(data)
        self.affine = self._volume.affine
        shape = self._volume.shape
        if len(shape) not in (2, 3, 4):
            raise ValueError(f"a volume must have shape (H, W, Z) or (H, W, Z, C), got {shape}")
        self._z = z
        self._loaded: npt.NDArray[Any] | None = None
        self.height, self.width = shape[:2]
        self.count = (shape[2] if len(shape) > 2 else 1) if z == "all" else None

    def read(self, member: int | None, window: Window | None) -> Array:
        volume = self._volume
        if self._loaded is None and (self._compressed or self._z != "all" or volume.ndim == 2):
            check_bytes(4 * math.prod(volume.shape))
            if self._compressed and isinstance(self._file, Path):
                size = volume.dataobj.offset + math.prod(volume.shape) * volume.dataobj.dtype.itemsize
                volume = type(volume).from_bytes(_decompressed(self._file, size))
            loaded = np.asarray(volume.dataobj)
            self._loaded = loaded if loaded.itemsize <= 4 else _floating(loaded)
            if volume.ndim > 2 and self._z != "all":
                self._loaded = np.expand_dims(project(self._loaded, self._z, 2), 2)
        index = () if volume.ndim == 2 else (slice(None), slice(None), member or 0)
        image = _floating(volume.dataobj[index]) if self._loaded is None else self._loaded[index].astype(np.float32)
        values = np.moveaxis(image, 2, 0) if image.ndim == 3 else image[None]
        return Array(values).cut(window)

    def close(self) -> None:
        self._loaded = None


def _decompressed(file: Path | io.BytesIO, size: int = -1) -> bytes:
    """The first bytes of a compressed file, or all of them; isal, if it is installed, takes half the time of gzip."""
    module: Any = import_module("isal.igzip") if find_spec("isal") else gzip
    with module.open(file) as opened:
        return cast(bytes, opened.read(size))


def _floating(data: Any) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(data, dtype=np.float32)


register_reader([".nii", ".nii.gz"], NiftiReader)
