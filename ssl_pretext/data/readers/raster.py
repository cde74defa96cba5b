"""Rasters that GDAL reads by windows, with rasterio: GeoTIFF and JPEG 2000."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import Array, ImageFile, Reader, check_bytes, needed
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.sources import Window

__all__ = ["JpegTwoThousandReader", "RasterFile"]


class RasterFile(ImageFile):
    """A raster whose bands are channels.

    Args:
        file: Path of the file, or the file in memory.
        driver: The driver of GDAL for the format; no other is tried, since some of them open further files.

    Raises:
        MissingDependencyError: rasterio is missing.
    """

    def __init__(self, file: Path | Content, driver: str) -> None:
        rasterio = needed("rasterio", file, "geo")
        with ExitStack() as opened:
            path = file
            if isinstance(file, Content):
                path = opened.enter_context(rasterio.MemoryFile(file.data)).name
            # Files beside the raster do not count, because a store does not know when they change.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"):
                self._data: Any = opened.enter_context(rasterio.open(path, driver=driver))
            self._opened = opened.pop_all()
        data = self._data
        self.height, self.width = data.height, data.width
        self.channel_names = data.descriptions if all(data.descriptions) else None
        scaled = {*data.scales} != {1.0} or {*data.offsets} != {0.0}
        self._scaled = {"scale": data.scales, "offset": data.offsets} if scaled else {}
        flags = rasterio.enums.MaskFlags
        self._nodata, self._window = data.nodata, rasterio.windows.Window
        self._bytes_per_pixel = data.count * np.dtype(data.dtypes[0]).itemsize
        self._has_mask = flags.per_dataset in data.mask_flag_enums[0] and flags.alpha not in data.mask_flag_enums[0]

    def read(self, member: int | None, window: Window | None) -> Array:
        """Reads the bands or a part of them."""
        top, left, height, width = window or Window(0, 0, self.height, self.width)
        part = self._window(left, top, width, height)
        check_bytes(self._bytes_per_pixel * height * width)
        valid = self._data.read_masks(1, window=part) > 0 if self._has_mask else None
        return Array(self._data.read(window=part), self._nodata, **self._scaled, valid=valid)

    def close(self) -> None:
        """Closes the file."""
        self._opened.close()


class JpegTwoThousandReader(Reader):
    """JPEG 2000 files whose samples have more than 8 bits, or whose bands are not those of a photograph."""

    def open(self, file: Path | Content) -> ImageFile:
        """Opens a file and reads its header."""
        return RasterFile(file, "JP2OpenJPEG")


register_reader([".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"], JpegTwoThousandReader)
