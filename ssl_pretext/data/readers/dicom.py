"""DICOM files, read with pydicom."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import Array, ImageFile, Slices, StackReader, check_bytes, needed, project
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window
from ssl_pretext.errors import MissingDependencyError

__all__ = ["DicomReader"]

Pixels = npt.NDArray[Any]
SMALL = 2**20  # bytes of a file that is read at once
LARGE = 2**16  # bytes; what is larger in a file is not part of its header


class DicomReader(StackReader):
    """Images of one channel in the units that the file states, or colors in RGB.

    The units are those of a lookup table (Modality LUT), or of a slope and an intercept of the file or of each frame.
    Padding is missing. Values of MONOCHROME1, where the lowest is white, are inverted, so that they are those of
    MONOCHROME2. Files without a suffix are found by their first bytes, in folders without other images.

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
        if isinstance(file, Content):
            self._data = pydicom.dcmread(file.open("rb"))
        elif file.stat().st_size <= SMALL:  # pydicom reads a few bytes at a time, which is faster in memory
            self._data = pydicom.dcmread(io.BytesIO(file.read_bytes()))
        else:  # the pixels are read when they are needed
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
        stack, z = self._loaded, self._z
        if data.SamplesPerPixel > 1:
            colors = stack if z is None else stack[member or 0] if z == "all" else project(stack, z, 0)
            return Array(np.moveaxis(colors, -1, 0)).cut(window)
        if z not in ("max", "mean"):
            number = z if isinstance(z, int) else member or 0
            frame = stack if z is None else project(stack, number, 0)
            values, valid = self._transformed(frame, number)
            return Array(values[None], valid=valid).cut(window)
        frames = [self._transformed(frame, number) for number, frame in enumerate(stack)]
        scaled = np.stack([values for values, _ in frames])
        padding = [~valid for _, valid in frames if valid is not None]
        if not padding:
            return Array(project(scaled, z, 0)[None]).cut(window)
        masked = np.ma.masked_array(scaled.astype(np.float32), np.stack(padding))
        found = masked.max(0) if z == "max" else masked.mean(0)
        return Array(np.ma.filled(found, np.nan)[None]).cut(window)

    def _transformed(self, frame: Pixels, number: int) -> tuple[Pixels, npt.NDArray[np.bool_] | None]:
        """The values of a frame in the units that the file states, and which of them are no padding."""
        data, valid = self._data, None
        if (padding := data.get("PixelPaddingValue")) is not None:
            low, high = sorted((padding, data.get("PixelPaddingRangeLimit", padding)))
            valid = (frame < low) | (frame > high)
        transform = needed("pydicom.pixels", self._file, "medical").apply_modality_lut
        inverted = data.PhotometricInterpretation == "MONOCHROME1"
        if data.get("ModalityLUTSequence"):
            values = transform(frame, data)
            return np.iinfo(values.dtype).max - values if inverted else values, valid
        if inverted:
            ends = -1 if data.PixelRepresentation else 2**data.BitsStored - 1  # the lowest and the highest value, added
            frame = (ends - frame.astype(np.int32)).astype(frame.dtype)
        return transform(frame, self._rescaling(number)), valid

    def _rescaling(self, number: int) -> Any:
        """What states the slope and the intercept of a frame: the frame, all frames together, or the file."""
        places = (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0))
        for groups, place in ((self._data.get(name), place) for name, place in places):
            if groups and (found := groups[place].get("PixelValueTransformationSequence")):
                return found[0]
        return self._data

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
