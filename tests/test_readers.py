"""Readers by suffix: each gives the values, the missing values and the names that the library of its format gives."""

import os
import struct
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
import tifffile
import zarr
from image_files import opened, reasons, values, write_geotiff

from ssl_pretext.data.chatter import silenced
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.expand import expand
from ssl_pretext.data.listing import list_folder
from ssl_pretext.data.opening import open_image
from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers import Array, LoadedFile, Reader, TiffReader, register_reader
from ssl_pretext.data.readers.raster import RasterFile
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.sources import Reading, Source, Window
from ssl_pretext.errors import ArgumentError, MissingDependencyError, UnknownNameError

EUROSAT = Path(os.environ.get("SSL_PRETEXT_DATA", "nowhere")).parent / "eurosat-ms13"
BANDS = tuple(f"B{i:02}" for i in range(1, 14))


@pytest.fixture(autouse=True)
def silent():
    with silenced():
        yield


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def as_rasterio_reads(path):
    """Scaled values with NaN where they are masked, as rasterio documents it."""
    with rasterio.open(path) as file:
        read = file.read(masked=True)
        scale, offset = (np.array(numbers)[:, None, None] for numbers in (file.scales, file.offsets))
        return (read * scale + offset).astype(np.float32).filled(np.nan)


GEOTIFFS = {
    "plain": {},
    "no data": {"nodata": 7},
    "scaled": {"scales": (1e-4,) * 12 + (2e-4,), "offsets": (-0.1,) * 13, "nodata": 7},
    "masked": {"mask": np.eye(40, 30) == 0},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "nodata": 7},
    "interleaved": {"interleave": "pixel", "compress": "lzw"},
}


@pytest.mark.parametrize("kind", GEOTIFFS)
def test_geotiff_has_the_values_that_rasterio_gives(folder, kind):
    array = values(np.uint16, 13, 40, 30)
    array[:, 3:9, 5] = 7
    for name in ("a", "b"):
        write_geotiff(folder / f"{name}.tif", array, names=BANDS, **GEOTIFFS[kind])
    store = opened(folder)
    expected = as_rasterio_reads(folder / "a.tif")
    assert np.isnan(expected).any() == (kind not in ("plain", "interleaved"))
    np.testing.assert_array_equal(store.images()[0], expected)
    assert store.channel_names == list(BANDS)
    # tifffile reads whole files and rasterio windows, with the same values.
    with closing(TiffReader().open(folder / "a.tif")) as file:
        for window in (Window(2, 4, 20, 8), Window(0, 0, 40, 30)):
            whole, part = (Source((folder / "a.tif",), cut) for cut in (None, window))
            with_tifffile = decoder(Reading())(whole).pixels
            with_rasterio = decoder(Reading())(part).pixels
            top, left, height, width = window
            expected = with_tifffile[:, top : top + height, left : left + width]
            np.testing.assert_array_equal(with_rasterio, expected)
        file.read(None, window)
        assert isinstance(file._raster, RasterFile), "windows are not read by rasterio"


@pytest.mark.skipif(not EUROSAT.is_dir(), reason="there is no eurosat-ms13 next to SSL_PRETEXT_DATA")
def test_real_sentinel_files_have_the_values_that_rasterio_gives():
    path = next(EUROSAT.rglob("*.tif"))
    with rasterio.open(path) as file:
        expected = file.read()
    for source in (Source((path,)), Source((path,), Window(0, 0, 64, 64))):
        np.testing.assert_array_equal(decoder(Reading())(source).pixels, expected)


def test_names_that_differ_between_files_are_no_names(folder, caplog):
    array = values(np.uint16, 2, 8, 8)
    for name, names in (("a", ("red", "nir")), ("b", ("red", "nir")), ("c", ("nir", "red"))):
        write_geotiff(folder / f"{name}.tif", array, names=names)
    assert opened(folder).channel_names is None
    assert "c.tif has the channels nir and red, but a.tif has red and nir" in caplog.text
    (folder / "c.tif").unlink()
    assert opened(folder).channel_names == ["red", "nir"]


def test_jpeg_2000_with_16_bits_is_read(folder):
    array = values(np.uint16, 3, 40, 30)
    profile = {"driver": "JP2OpenJPEG", "count": 3, "height": 40, "width": 30, "dtype": "uint16"}
    with rasterio.open(folder / "a.jp2", "w", **profile, QUALITY=100, REVERSIBLE="YES") as file:
        file.write(array)
    np.testing.assert_array_equal(opened(folder).images()[0], array)
    data = Content("a.jp2", (folder / "a.jp2").read_bytes())
    np.testing.assert_array_equal(decoder(Reading())(data).pixels, array)


def test_missing_values_of_every_kind_of_file(folder):
    array = values(np.uint8, 3, 12, 10)
    array[0, 2:5, 3] = 0
    expected = np.where(array == 0, np.nan, array.astype(np.float32))
    np.save(folder / "a.npy", array)
    write_geotiff(folder / "b.tif", np.concatenate([array, array]))
    from PIL import Image

    Image.fromarray(array.transpose(1, 2, 0)).save(folder / "c.png")
    for name, bands in (("a.npy", 1), ("b.tif", 2), ("c.png", 1)):
        image = decoder(Reading(missing=0))(folder / name)
        np.testing.assert_array_equal(image.pixels, np.concatenate([expected] * bands))
    (folder / "b.tif").unlink()
    store = opened(folder, missing=0)
    assert (len(store), store.images().isnan().sum()) == (2, 6)
    assert opened(folder).images().dtype != store.images().dtype


@pytest.mark.parametrize("suffix", [".ome.tif", ".tif"])
def test_ome_tiff_has_its_channels_and_slices(folder, suffix):
    stack = values(np.uint16, 4, 3, 12, 10)
    names = {"Channel": {"Name": ["DAPI", "GFP", "bright field"]}}
    path = folder / f"a{suffix}"
    tifffile.imwrite(path, stack, metadata={"axes": "ZCYX", **names}, ome=True)
    expected = {"max": stack.max(0), "mean": stack.mean(0, dtype=np.float32), 2: stack[2]}
    for z, projected in expected.items():
        store = opened(folder, reader=f"{suffix[1:]}[z={z}]")
        np.testing.assert_array_equal(store.images()[0], projected.astype(np.float32))
        assert (store.names, store.channel_names) == ([path.name], names["Channel"]["Name"])
    slices = opened(folder, reader=f"{suffix[1:]}[z=all]")
    np.testing.assert_array_equal(slices.images(), stack.astype(np.float32))
    assert slices.names == [f"{path.name}/{i}" for i in range(4)]
    assert slices.groups == [path.name] * 4
    if suffix == ".tif":
        assert "the TIFF axes are ZCYX; .* reader='tif[z=max]'" not in reasons(folder)
        assert "with reader='tif[z=max]'" in reasons(folder)
    else:
        np.testing.assert_array_equal(opened(folder).images(), slices.images())
    assert "there is no slice z=9; the file has 4" in reasons(folder, reader=f"{suffix[1:]}[z=9]")


def test_ome_tiff_without_slices_and_with_a_pyramid(folder):
    array = values(np.uint16, 3, 32, 24)
    metadata = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as file:
        file.write(array, subifds=1, metadata=metadata, photometric="minisblack")
        file.write(array[:, ::2, ::2], subfiletype=1, photometric="minisblack")
    store = opened(folder)
    np.testing.assert_array_equal(store.images()[0], array)
    assert store.channel_names == ["a", "b", "c"]


def write_nifti(path, array, **header):
    image = nibabel.Nifti1Image(array, np.eye(4))
    if header:
        image.header.set_slope_inter(header["slope"], header["inter"])
    nibabel.save(image, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_of_three_modalities_are_images(folder, suffix):
    volumes = values(np.int16, 3, 12, 10, 5)
    files = tuple(folder / f"{name}{suffix}" for name in ("flair", "t1", "t2"))
    for path, volume in zip(files, volumes, strict=True):
        write_nifti(path, volume, slope=0.5, inter=-3)
    expected = np.stack([nibabel.load(path).get_fdata(dtype=np.float32) for path in files])
    listing = list_folder(folder, labeled=False)
    joint = type(listing)(folder, ["case"], [Source(files)], [0], ["all"])
    expanded = expand(joint, Reading())
    assert expanded.listing.names == [f"case/{i}" for i in range(5)]
    for i, source in enumerate(expanded.listing.sources):
        np.testing.assert_array_equal(decoder(Reading())(source).pixels, expected[..., i])
    one = opened(folder, reader="nii[z=max]")
    np.testing.assert_allclose(one.images()[:, 0], expected.max(-1), rtol=1e-6)
    assert opened(folder).images().shape == (15, 1, 12, 10)
    four = np.moveaxis(expected, 0, -1)
    write_nifti(folder / f"all{suffix}", four)
    for name in files:
        name.unlink()
    np.testing.assert_array_equal(opened(folder).images(), four.transpose(2, 3, 0, 1))
    data = Content(f"x{suffix}", (folder / f"all{suffix}").read_bytes())
    assert "the file holds 5 images, where one is expected" in decoder(Reading())(data)


def write_dicom(path, array, **tags):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    data = pydicom.Dataset()
    data.file_meta, data.SOPClassUID, data.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, "1.2.3"
    data.Rows, data.Columns = array.shape[-3:-1] if tags.get("SamplesPerPixel") == 3 else array.shape[-2:]
    bits = array.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(array.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = array.tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    data.save_as(path, enforce_file_format=True)


def test_dicom_is_rescaled_and_inverted(folder):
    array = values(np.int16, 12, 10, high=4000)
    array[3] = -2000
    write_dicom(folder / "ct.dcm", array, RescaleSlope=2, RescaleIntercept=-1024, PixelPaddingValue=-2000)
    expected = pydicom.pixels.apply_rescale(array, pydicom.dcmread(folder / "ct.dcm")).astype(np.float32)
    expected[3] = np.nan
    image = decoder(Reading())(folder / "ct.dcm")
    np.testing.assert_array_equal(image.pixels[0], expected)
    assert image.kind == "float"
    gray = values(np.uint8, 12, 10)
    write_dicom(folder / "white.dcm", gray, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(decoder(Reading())(folder / "white.dcm").pixels[0], 255 - gray)
    write_dicom(folder / "signed.dcm", array, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000)
    inverted = np.where(array == -2000, np.nan, -1.0 - array).astype(np.float32)
    np.testing.assert_array_equal(decoder(Reading())(folder / "signed.dcm").pixels[0], inverted)
    color = values(np.uint8, 12, 10, 3)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_dicom(folder / "color.dcm", color, **rgb)
    np.testing.assert_array_equal(decoder(Reading())(folder / "color.dcm").pixels, color.transpose(2, 0, 1))
    data = Content("ct.dcm", (folder / "ct.dcm").read_bytes())
    np.testing.assert_array_equal(decoder(Reading())(data).pixels[0], expected)


def test_frames_of_dicom(folder):
    """Also of a file whose pixels are read only when they are needed."""
    frames = values(np.uint16, 4, 12, 10)
    write_dicom(folder / "a.dcm", frames, NumberOfFrames=4)
    large = values(np.uint16, 600, 900)
    write_dicom(folder.parent / "large.dcm", large)
    np.testing.assert_array_equal(decoder(Reading())(folder.parent / "large.dcm").pixels[0], large)
    assert "the file has 4 frames; choose one" in reasons(folder)
    np.testing.assert_array_equal(opened(folder, reader="dcm[z=all]").images()[:, 0], frames)
    np.testing.assert_array_equal(opened(folder, reader="dcm[z=1]").images()[0, 0], frames[1])


def test_dicom_files_without_a_suffix_are_found_where_there_are_no_other_images(folder):
    frames = values(np.uint16, 4, 12, 10)
    for name in ("IM0001", "1.2.840.113619.2"):
        write_dicom(folder / name, frames, NumberOfFrames=4)
    (folder / "DICOMDIR.txt").write_text("no image")
    assert "the file has 4 frames; choose one" in reasons(folder)
    store = opened(folder, reader="dcm[z=all]")
    assert store.names == [f"{name}/{i}" for name in ("1.2.840.113619.2", "IM0001") for i in range(4)]
    np.testing.assert_array_equal(store.images()[:4, 0], frames)
    (folder / "IM0001").unlink()
    assert len(opened(folder, reader="dcm[z=all]")) == 4
    np.save(folder / "x.npy", frames[:1])
    assert opened(folder).names == ["x.npy"]


def test_arrays_whose_channels_are_last_are_refused_until_their_axes_are_named(folder):
    array = values(np.uint8, 12, 10, 3)
    np.save(folder / "x.npy", array)
    assert (
        "shape (12, 10, 3), whose channels seem to be last; name its axes, such as reader='npy[axes=HWC]'"
        in reasons(folder)
    )
    np.testing.assert_array_equal(opened(folder, reader="npy[axes=HWC]").images()[0], array.transpose(2, 0, 1))


def test_a_reader_that_reads_none_of_the_files_is_refused(folder):
    np.save(folder / "x.npy", values(np.uint8, 3, 12, 10))
    with pytest.raises(ArgumentError, match=r"reader='nii\[z=max\]' reads files named .*\.nii.*named like x\.npy"):
        opened(folder, reader="nii[z=max]")
    assert len(opened(folder, reader="npy[axes=CHW]")) == 1


def rescaling(slope, intercept):
    """What a functional group of an enhanced file states."""
    item, group = pydicom.Dataset(), pydicom.Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, intercept, "US"
    group.PixelValueTransformationSequence = [item]
    return group


@pytest.mark.parametrize("place", ["PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"])
def test_frames_of_dicom_have_their_own_slopes(folder, place):
    frames = values(np.uint16, 3, 12, 10, high=1000)
    frames[1, 0, :5] = [63000, 63500, 64000, 62999, 64001]
    slopes = [(2, -10), (3, 5), (0.5, 0)] if place.startswith("Per") else [(2, -10)] * 3
    groups = [rescaling(*slope) for slope in (slopes if place.startswith("Per") else slopes[:1])]
    padding = {"PixelPaddingValue": 64000, "PixelPaddingRangeLimit": 63000}
    write_dicom(folder / "a.dcm", frames, NumberOfFrames=3, **{place: groups}, **padding)
    expected = np.stack([frame * float(slope) + offset for frame, (slope, offset) in zip(frames, slopes, strict=True)])
    expected[1, 0, :3] = np.nan
    np.testing.assert_array_equal(opened(folder, reader="dcm[z=all]").images()[:, 0], expected.astype(np.float32))
    np.testing.assert_array_equal(opened(folder, reader="dcm[z=1]").images()[0, 0], expected[1].astype(np.float32))
    np.testing.assert_array_equal(opened(folder, reader="dcm[z=max]").images()[0, 0], np.nanmax(expected, 0))
    mean = opened(folder, reader="dcm[z=mean]").images()[0, 0]
    np.testing.assert_allclose(mean, np.nanmean(expected, 0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_lookup_table_of_dicom_is_applied(folder, kind):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], [(7 * i) % 1000 for i in range(256)]
    table["LUTData"].VR = table["LUTDescriptor"].VR = "US"
    table.ModalityLUTType = "US"
    array = values(np.uint8, 12, 10)
    write_dicom(folder / "a.dcm", array, ModalityLUTSequence=[table], PhotometricInterpretation=kind)
    mapped = (7 * array.astype(int)) % 1000
    pixels = decoder(Reading())(folder / "a.dcm").pixels[0]
    np.testing.assert_array_equal(pixels, 65535 - mapped if kind == "MONOCHROME1" else mapped)


def test_modalities_must_lie_on_one_grid(folder):
    volume = values(np.int16, 12, 10, 2)
    flair, t1 = folder / "flair.nii", folder / "t1.nii"
    for path, shift in ((flair, 0.0), (t1, 0.5e-3)):
        affine = np.diag([1.0, 1, 3, 1])
        affine[1, 3] = -20 + shift
        nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    image = Source((flair, t1), member=0)
    np.testing.assert_array_equal(decoder(Reading())(image).pixels, np.stack([volume[..., 0]] * 2))
    affine[1, 3] = -18
    nibabel.save(nibabel.Nifti1Image(volume, affine), t1)
    reason = decoder(Reading())(image)
    assert "flair.nii and t1.nii lie differently in space: entry (1, 3) of their affines is -20 and -18" in reason


def write_array(path, array, key=None):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            file.create_dataset(key or "images", data=array, chunks=(2, *array.shape[1:]), compression="gzip")
    else:
        zarr.open_group(path, mode="a")
        where, shape = path / (key or "images"), array.shape
        zarr.open_group(where.parent, mode="a")
        opened = zarr.open_array(where, mode="w", shape=shape, dtype=array.dtype, chunks=(2, *shape[1:]))
        opened[:] = array


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".zarr"])
def test_rows_of_an_array_are_images(folder, suffix):
    array = values(np.uint8, 5, 12, 10, 3)
    (folder / "deep").mkdir()
    path = folder / "deep" / f"a{suffix}"
    write_array(path, array.transpose(0, 3, 1, 2))
    store = opened(folder)
    np.testing.assert_array_equal(store.images(), array.transpose(0, 3, 1, 2))
    assert store.names == [f"deep/a{suffix}/{i}" for i in range(5)]
    assert store.groups == [f"deep/a{suffix}"] * 5
    other = folder / f"b{suffix}"
    path.rename(other)
    last = opened(folder, reader=f"{suffix[1:]}[axes=NHCW]").images()
    np.testing.assert_array_equal(last, array.transpose(0, 3, 1, 2).swapaxes(1, 2))
    one = array[0, ..., 0]
    if suffix != ".npy":
        write_array(other, array, "other/channels last")
        assert "the file has the data sets images and other/channels last; name one" in reasons(folder)
        spec = f"{suffix[1:]}[key=other/channels last;axes=NHWC]"
        np.testing.assert_array_equal(opened(folder, reader=spec).images(), array.transpose(0, 3, 1, 2))
        assert "there is no data set 'x'; the file has images" in reasons(folder, reader=f"{suffix[1:]}[key=x]")
        write_array(other, one, "one")
        one_image = opened(folder, reader=f"{suffix[1:]}[key=one]")
        np.testing.assert_array_equal(one_image.images()[0, 0], one)
        assert one_image.names == [f"b{suffix}"]
    with pytest.raises(ArgumentError, match="axes must be the letters H and W, .* got 'NHH'"):
        opened(folder, reader=f"{suffix[1:]}[axes=NHH]")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_has_its_axes_channels_and_slices(folder, version):
    array = values(np.uint16, 1, 3, 4, 12, 10)
    axes = [{"name": name, "type": "space"} for name in "tczyx"]
    scales = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]}
    scales["omero"] = {"channels": [{"label": label} for label in ("DAPI", "GFP", "actin")]}
    for name, count in (("a", 1), ("b", 2)):
        path = folder / f"{name}.zarr"
        group = zarr.open_group(path, mode="w")
        group.attrs.update(scales if version == "0.4" else {"ome": {"version": version} | scales})
        for level, pixels in enumerate((array, array[..., ::2, ::2])):
            write_array(path, np.repeat(pixels, count, 0), str(level))
    store = opened(folder)
    assert store.names == [f"a.zarr/{i}" for i in range(4)]
    assert store.channel_names == ["DAPI", "GFP", "actin"]
    np.testing.assert_array_equal(store.images(), array[0].swapaxes(0, 1))
    assert [item["name"] for item in store.skipped] == ["b.zarr"]
    assert "the file has 2 points in time, where one is needed" in store.skipped[0]["reason"]


def test_a_change_inside_a_zarr_is_seen(folder):
    array = values(np.uint8, 4, 3, 8, 8)
    write_array(folder / "a.zarr", array)
    np.testing.assert_array_equal(opened(folder).images(), array)
    zarr.open_group(folder / "a.zarr", mode="a")["images"][2] = 9
    array[2] = 9
    np.testing.assert_array_equal(opened(folder).images(), array)


def test_windows_of_chunked_arrays_decode_each_chunk_once(folder, monkeypatch):
    array = values(np.uint16, 2, 64, 48)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=array, chunks=(2, 16, 48))
    reads = []
    read = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, part: reads.append(part) or read(self, part))
    store = opened(folder, tile=8)
    assert (len(store), len(reads)) == (48, 4)
    expected = array.reshape(2, 8, 8, 6, 8).transpose(1, 3, 0, 2, 4).reshape(48, 2, 8, 8)
    np.testing.assert_array_equal(store.images(), expected)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.h5", "h5py", "arrays"),
        ("a.zarr", "zarr", "arrays"),
        ("a.nii.gz", "nibabel", "medical"),
        ("a.dcm", "pydicom", "medical"),
        ("a.ome.tif", "tifffile", "microscopy"),
        ("a.jp2", "rasterio", "geo"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(folder, monkeypatch, name, package, extra):
    path = folder / name
    if name == "a.zarr":
        path.mkdir()
    elif name == "a.jp2":
        profile = {"driver": "JP2OpenJPEG", "count": 1, "height": 40, "width": 30, "dtype": "uint16"}
        with rasterio.open(path, "w", **profile) as file:
            file.write(values(np.uint16, 1, 40, 30))
    else:
        path.write_bytes(b"content")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {package}: pip install 'ssl-pretext\[{extra}\]'"):
        opened(folder)


@pytest.mark.parametrize("name", ["a.h5", "a.nii", "a.nii.gz", "a.dcm", "a.ome.tif", "a.npy", "a.jp2"])
def test_damaged_files_are_skipped_with_a_reason(folder, name):
    for i in range(2):
        np.save(folder / f"{i}.npy", values(np.uint16, 1, 8, 8))
    (folder / name).write_bytes(b"content" * 99)
    for options in ({}, {"tile": 4}):
        store = opened(folder, **options)
        assert [item["name"] for item in store.skipped] == [name]
        assert store.skipped[0]["reason"]


def test_own_readers(folder):
    class Text(Reader):
        """Numbers in a text file."""

        def __init__(self, factor: int = 1) -> None:
            self.factor = factor

        def open(self, file):
            return LoadedFile(Array(self.factor * np.loadtxt(file)[None]), ["height"])

    assert register_reader([".grid.txt", ".asc"], Text) is Text
    array = values(np.uint8, 6, 5).astype(float)
    np.savetxt(folder / "a.grid.txt", array)
    np.savetxt(folder / "b.ASC", array)
    (folder / "notes.txt").write_text("no image")
    store = opened(folder)
    np.testing.assert_array_equal(store.images()[:, 0], [array, array])
    assert (store.names, store.channel_names) == (["a.grid.txt", "b.ASC"], ["height"])
    np.testing.assert_array_equal(opened(folder, reader="asc[factor=3]").images()[0, 0], 3 * array)
    with pytest.raises(ArgumentError, match="the reader 'tif' is registered already"):
        register_reader([".tif"], Text)
    for suffix in ("fits", ".FITS"):
        with pytest.raises(ArgumentError, match="a suffix must start with a dot and be in lower case"):
            register_reader([suffix], Text)
    with pytest.raises(UnknownNameError, match="there is no reader named 'hdf'"):
        opened(folder, reader="hdf[key=x]")
    with pytest.raises(ArgumentError, match="the reader 'h5' does not take these options"):
        opened(folder, reader="h5[z=max]")
    with pytest.raises(ArgumentError, match="z of the reader 'nii' must be all .* got 'first'"):
        opened(folder, reader="nii[z=first]")


def _place(number: int) -> dict[str, Any]:
    """A date, and a place on Earth."""
    place = (33922, "d", 6, (0.0, 0.0, 0.0, 5e5 + 10 * number, 5e6, 0.0), True)
    return {"datetime": f"2020:01:0{number + 1} 12:00:00", "extratags": [place], "metadata": None}


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".tif", lambda _: {"photometric": "minisblack", "planarconfig": "separate"}),
        (".tif", lambda _: {"byteorder": ">"}),
        (".tif", lambda _: {"bigtiff": True}),
        (".tif", lambda _: {"photometric": "minisblack", "volumetric": True, "rowsperstrip": 4}),
        (".tif", lambda number: {"metadata": {"name": "x" * (number + 1)}}),
        (".tif", _place),
        (".tif", lambda number: {"imagej": True, "metadata": {"axes": "CYX", "min": number, "max": 10.0**number}}),
        (".ome.tif", lambda _: {"metadata": {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}}),
        (
            ".ome.tif",
            lambda number: {
                "metadata": {
                    "axes": "CYX",
                    "Name": "w" * (number + 1),
                    "AcquisitionDate": f"2020-01-01T12:00:{number}",
                    "Plane": {"PositionX": [10.0**number] * 3, "DeltaT": [number] * 3},
                }
            },
        ),
    ],
)
def test_tags_of_a_tiff_file_like_the_one_before_are_not_read_again(folder, monkeypatch, suffix, options):
    """Files may differ in what says nothing of the pixels: names, dates, places, and the number of OME-TIFF."""
    arrays = values(np.uint16, 4, 3, 12, 10)
    paths = [folder / f"{number}{suffix}" for number in range(4)]
    for number, (path, array) in enumerate(zip(paths, arrays, strict=True)):
        tifffile.imwrite(path, array, **options(number))
    decode, opened, original = decoder(Reading()), [], tifffile.TiffFile
    monkeypatch.setattr(tifffile, "TiffFile", lambda file: opened.append(file) or original(file))
    images = [decode(path) for path in paths]
    assert len(opened) == 1
    monkeypatch.undo()
    for path, image, array in zip(paths, images, arrays, strict=True):
        np.testing.assert_array_equal(image.pixels, array)
        np.testing.assert_array_equal(image.pixels.squeeze(), tifffile.imread(path).squeeze())
        assert image.channel_names == images[0].channel_names == decoder(Reading())(path).channel_names


def test_files_of_all_kinds_are_read_after_each_other_as_alone(folder):
    """Each pair of kinds differs in a tag that changes the values, their shape or the names of the channels."""
    array = values(np.uint16, 3, 12, 10)
    name = (42112, "s", 0, '<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">B1</Item>'
            '<Item name="SCALE" sample="1" role="scale">0.5</Item></GDALMetadata>', True)  # fmt: skip
    kinds = {
        "plain": {},
        "signed": {"dtype": np.int16},
        "big-endian": {"byteorder": ">"},
        "big": {"bigtiff": True},
        "bands last": {"planarconfig": "contig", "turn": True},
        "pages": {"photometric": "minisblack", "metadata": None},
        "packed": {"compression": "zlib"},
        "no data": {"extratags": [(42113, "s", 0, "7", True)]},
        "scaled": {"extratags": [name]},
        "turned": {"extratags": [(274, "H", 1, 6, True)]},
        "wide": {"turn": True, "metadata": {"axes": "YXC"}},
        "stack": {"metadata": {"axes": "CYX"}},
        "imagej": {"imagej": True},
        "ome": {"ome": True, "metadata": {"axes": "CYX"}},
        "named": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}},
    }
    paths = []
    for kind, options in kinds.items():
        stored = array.astype(options.pop("dtype", array.dtype))
        stored = stored.transpose(1, 2, 0) if options.pop("turn", False) else stored
        paths.append(folder / f"{kind}.tif")
        tifffile.imwrite(paths[-1], stored, **options)
    alone = {path: decoder(Reading())(path) for path in paths}
    for first in paths:
        for second in paths:
            decode = decoder(Reading())
            for path in (first, second, second):
                image, expected = decode(path), alone[path]
                if isinstance(expected, str):
                    assert image == expected
                    continue
                np.testing.assert_array_equal(image.pixels, expected.pixels)
                assert image[1:] == expected[1:], (first, second)


def test_a_tag_of_an_unknown_type_changes_nothing(folder):
    array = values(np.uint16, 3, 12, 10)
    for path in (folder / "a.tif", folder / "b.tif"):
        tifffile.imwrite(path, array, photometric="minisblack", extratags=[(65000, "H", 1, 7, True)])
        content = path.read_bytes()
        assert content.count(struct.pack("<HHI", 65000, 3, 1)) == 1
        path.write_bytes(content.replace(struct.pack("<HHI", 65000, 3, 1), struct.pack("<HHI", 65000, 99, 1)))
    decode = decoder(Reading())
    for name in "ab":
        np.testing.assert_array_equal(decode(folder / f"{name}.tif").pixels, array)


def test_a_shorter_file_like_the_one_before_is_damaged(folder):
    array = values(np.uint16, 3, 12, 10)
    for name in "ab":
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")
    content = (folder / "b.tif").read_bytes()
    (folder / "b.tif").write_bytes(content[:-200])
    decode = decoder(Reading())
    assert not isinstance(decode(folder / "a.tif"), str)
    assert isinstance(decode(folder / "b.tif"), str)


def test_tags_that_differ_are_read(folder):
    """The files have the same size, and pixels at the same place."""
    array = np.arange(240, dtype=np.uint16).reshape(2, 12, 10)
    for name, nodata in (("a", 5), ("b", 6), ("c", 7)):
        tag = (42113, "s", 0, str(nodata), True)  # GDAL_NODATA
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack", extratags=[tag])
    decode = decoder(Reading())
    for name, nodata in (("a", 5), ("b", 6), ("c", 7), ("a", 5)):
        np.testing.assert_array_equal(decode(folder / f"{name}.tif").pixels, np.where(array == nodata, np.nan, array))
    assert len({path.stat().st_size for path in folder.glob("*.tif")}) == 1


def test_gray_photographs_like_an_array_are_photographs(folder):
    """Only the number of channels that is stated says which of them a file is."""
    array = values(np.uint8, 12, 10)
    tifffile.imwrite(folder / "a.tif", array)
    assert decoder(Reading(channels=1))(folder / "a.tif").pixels.shape == (1, 12, 10)
    readers = ReaderTable()
    for channels, count in ((1, 1), (None, 3), (1, 1)):
        with open_image(folder / "a.tif", Reading(channels=channels), readers, whole=True) as file:
            np.testing.assert_array_equal(file.read(None, None).values, [array] * count)
