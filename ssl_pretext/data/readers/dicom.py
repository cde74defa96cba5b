"""DICOM files, read with pydicom."""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import Array, ImageFile, Slices, StackReader, check_bytes, needed, project
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window
from ssl_pretext.errors import MissingDependencyError

__all__ = ["DicomReader"]

LARGE = 2**16  # bytes; what is larger in a file is not part of its header


class DicomReader(StackReader):
    """Images of one channel, rescaled as the file says, or colors in RGB.

    Values of MONOCHROME1, where the lowest is white, are inverted, so that they are those of MONOCHROME2.

    Args:
        z: What is made of several frames: `"all"` makes each frame an image, `"max"` and `"mean"` project all of them,
            and a number chooses one, counted from 0. By default a file must have one frame.

    Raises:
        ArgumentError: `z` is something else.
    """

    name = "dcm"

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header."""
        return _DicomFile(file, self.z)


class _DicomFile(ImageFile):
    def __init__(self, file: Path | Content, z: Slices | None) -> None:
        pydicom = needed("pydicom", file, "medical")
        # The pixels of a file on disk are read when they are needed.
        if isinstance(file, Content):
            self._data = pydicom.dcmread(file.open("rb"))
        else:
            self._data = pydicom.dcmread(file, defer_size=LARGE)
        if self._data.PhotometricInterpretation == "PALETTE COLOR":
            raise ValueError("the file has a palette, which is not read; convert it to RGB")
        self._file, self._z = file, z
        self._loaded: Any = None
        self._frames = int(self._data.get("NumberOfFrames") or 1)
        if self._frames > 1 and z is None:
            raise ValueError(
                f"the file has {self._frames} frames; choose one, or make each frame an image, with "
                "reader='dcm[z=0]', 'dcm[z=max]' or 'dcm[z=all]'"
            )
        self.height, self.width = int(self._data.Rows), int(self._data.Columns)
        self.count = self._frames if z == "all" else None

    def read(self, member: int | None, window: Window | None) -> Array:
        data = self._data
        if self._loaded is None:
            check_bytes(self._frames * self.height * self.width * data.SamplesPerPixel * data.BitsAllocated // 8)
            self._loaded = self._pixels()
        stack = self._loaded
        image = stack if self._z is None else stack[member or 0] if self._z == "all" else project(stack, self._z, 0)
        values = np.moveaxis(image, -1, 0) if data.SamplesPerPixel > 1 else image[None]
        missing = data.get("PixelPaddingValue")
        if data.PhotometricInterpretation == "MONOCHROME1":
            signed, bits = data.PixelRepresentation, data.BitsStored
            ends = -1 if signed else 2**bits - 1  # the sum of the lowest and the highest value
            values = (ends - values.astype(np.int32)).astype(values.dtype)
            missing = None if missing is None else ends - missing
        array = Array(values, None if missing is None else float(missing))
        if "RescaleSlope" in data:
            offset = [float(data.get("RescaleIntercept", 0))]
            array = array._replace(scale=[float(data.RescaleSlope)], offset=offset)
        return array.cut(window)

    def _pixels(self) -> Any:
        pixels = needed("pydicom.pixels", self._file, "medical")
        try:
            values = pixels.pixel_array(self._data)
        except RuntimeError as error:
            if "missing dependencies" in str(error):
                raise MissingDependencyError(f"{self._file} is compressed: {error}") from error
            raise
        return values[None] if self._frames == 1 and self._z is not None else values

    def close(self) -> None:
        self._loaded = None


register_reader([".dcm", ".dicom"], DicomReader)
