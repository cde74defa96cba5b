"""NIfTI files, read with nibabel: the slices of a volume are images, and the fourth axis is the channels."""

import gzip
import math
from pathlib import Path
from typing import Any

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
        if isinstance(file, Path):
            volume = nibabel.load(file)
        else:
            data = gzip.decompress(file.data) if file.suffix.lower() == ".gz" else file.data
            volume = nibabel.Nifti1Image.from_bytes(data)
        self._data: Any = volume.dataobj
        self.affine = volume.affine
        shape = self._data.shape
        if len(shape) not in (2, 3, 4):
            raise ValueError(f"a volume must have shape (H, W, Z) or (H, W, Z, C), got {shape}")
        self._z = z
        # A part of a compressed file cannot be read without what is before it, so all of it is kept.
        self._compressed = file.suffix.lower() == ".gz"
        self._loaded: npt.NDArray[Any] | None = None
        self.height, self.width = shape[:2]
        self.count = (shape[2] if len(shape) > 2 else 1) if z == "all" else None

    def read(self, member: int | None, window: Window | None) -> Array:
        shape = self._data.shape
        if self._loaded is None and (self._compressed or self._z != "all" or len(shape) == 2):
            check_bytes(4 * math.prod(shape))
            self._loaded = _floating(self._data)
            if len(shape) > 2 and self._z != "all":
                self._loaded = np.expand_dims(project(self._loaded, self._z, 2), 2)
        index = () if len(shape) == 2 else (slice(None), slice(None), member or 0)
        image = self._loaded[index] if self._loaded is not None else _floating(self._data[index])
        values = np.moveaxis(image, 2, 0) if image.ndim == 3 else image[None]
        return Array(values).cut(window)

    def close(self) -> None:
        self._loaded = None


def _floating(data: Any) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(data).astype(np.float32)


register_reader([".nii", ".nii.gz"], NiftiReader)
