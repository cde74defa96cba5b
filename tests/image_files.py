"""Image files that several test files write and read: arrays, GeoTIFF, and the store of a folder of them."""

import numpy as np
import pytest
import rasterio

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import DataError

RNG = np.random.default_rng(0)


def opened(folder, **options):
    options = {"image_size": None, "labeled": False, "cache": folder.parent / "cache"} | options
    return ImageStore.from_folder(folder, **options)


def reasons(folder, **options):
    with pytest.raises(DataError) as caught:
        opened(folder, **options)
    return str(caught.value)


def values(dtype, *shape, low=1, high=60_000):
    return RNG.integers(low, min(high, np.iinfo(dtype).max), shape).astype(dtype)


def write_geotiff(path, array, *, scales=None, offsets=None, mask=None, names=(), **options):
    count, height, width = array.shape
    shape = {"count": count, "height": height, "width": width, "dtype": array.dtype}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
        file.write(array)
        if names:
            file.descriptions = names
        if scales:
            file.scales, file.offsets = scales, offsets
        if mask is not None:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                file.write_mask(mask)
