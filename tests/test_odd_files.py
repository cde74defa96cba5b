"""Files and options that a stranger gave, which once gave other pixels than he meant without a word."""

import logging

import numpy as np
import pytest
import torch

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, DataError

rasterio = pytest.importorskip("rasterio")
nibabel = pytest.importorskip("nibabel")
RNG = np.random.default_rng(0)


def bands(path, values, **options):
    path.parent.mkdir(exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **options
    ) as file:
        file.write(values)


def opened(folder, **options):
    return sp.ImageStore.from_folder(
        folder, labeled=False, cache=folder.parent / "cache", **({"image_size": None} | options)
    )


PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}


def test_infrared_that_gdal_declares_as_alpha_stays_a_band(tmp_path):
    values = RNG.integers(1, 255, (4, 16, 16)).astype(np.uint8)
    bands(tmp_path / "chips/a.tif", values, **PLACE)
    assert np.array_equal(opened(tmp_path / "chips").images()[0].numpy(), values)
    values[3] = 255 * (values[3] > 100)  # as at the borders of a mosaic
    bands(tmp_path / "mosaics/a.tif", values, **PLACE)
    assert opened(tmp_path / "mosaics").num_channels == 3


def test_integers_of_32_bits_are_read_if_they_are_exact(tmp_path):
    values = RNG.integers(-(2**24), 2**24, (2, 8, 8)).astype(np.int32)
    bands(tmp_path / "chips/a.tif", values, **PLACE)
    assert np.array_equal(opened(tmp_path / "chips").images()[0].numpy(), values)
    bands(tmp_path / "large/a.tif", values * 4, **PLACE)
    with pytest.raises(DataError, match="or integers up to 16,777,216; got shape .* int32.*convert or remove"):
        opened(tmp_path / "large")


def test_volumes_of_other_lengths_are_no_image(tmp_path):
    (tmp_path / "brains").mkdir()
    for name, slices in (("a_t1", 4), ("a_t2", 8), ("b_t1", 3), ("b_t2", 3)):
        volume = nibabel.Nifti1Image(RNG.integers(0, 99, (8, 8, slices)).astype(np.int16), np.eye(4))
        nibabel.save(volume, tmp_path / f"brains/{name}.nii.gz")
    store = opened(tmp_path / "brains", pattern="{patient}_{channel:t1|t2}.nii.gz")
    assert [name[0] for name in store.names] == ["b"] * 3
    assert store.skipped == [
        {"name": "a", "reason": "the files of the image hold 4 and 8 images, where each must hold as many"}
    ]


def test_tiles_need_images_that_are_large_enough_and_of_one_size(tmp_path):
    for band, side in (("B02", 32), ("B05", 16)):
        bands(tmp_path / f"bands/x_{band}.tif", RNG.integers(1, 99, (1, side, side)).astype(np.uint16), **PLACE)
    with pytest.raises(DataError, match="holds no image that can be used; x_B02.tif: the image has 32×32 pixels, less"):
        opened(tmp_path / "bands", tile=64)
    with pytest.raises(DataError, match="have 32×32 and 16×16 pixels; images that are cut into tiles need"):
        opened(tmp_path / "bands", tile=8, pattern="{id}_{channel}.tif", resample="bilinear")


def test_options_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="missing must be a finite number"):
        opened(tmp_path, missing="zero")
    with pytest.raises(ArgumentError, match="or a number for each channel that has one, .* got {'B02': nan}"):
        opened(tmp_path, missing={"B02": float("nan")})
    with pytest.raises(ArgumentError, match="the part 'channel' of a pattern cannot be the group"):
        opened(tmp_path, pattern="{id}_{channel}.tif", group="channel")
    with pytest.raises(ArgumentError, match="from_folder\\(\\) has no option 'tiles'. Did you mean 'tile'"):
        opened(tmp_path, tiles=3)
    with pytest.raises(ArgumentError, match="channels are selected by name, such as x\\['a'\\], got 0"):
        sp.ChannelSpace.bands("x", ["a", "b"])[0]


def test_test_images_in_other_units_are_noticed(caplog):
    images = torch.rand(30, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e4
    space = sp.ChannelSpace.bands("x", ["a", "b"])
    task = sp.create_task("cross_channel", source=space["a"], target=space["b"], encoder=torch.nn.Conv2d(1, 4, 2))
    store = sp.ImageStore.from_arrays(images, [0, 1] * 15)
    task.measure(store)
    other = sp.ImageStore.from_arrays(images / 1e4, [0, 1] * 15)
    with caplog.at_level(logging.WARNING):
        sp.evaluate({"net": task}, store, other, probe="knn", seeds=1, controls=False)
    assert "net, test images: the values of 1 of 1 channels" in caplog.text
    assert "net, training images" not in caplog.text
