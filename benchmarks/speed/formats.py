"""Time to read images of each format, compared with the library of the format."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.opening import OpenFiles
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.sources import Reading, Source, Window

__all__ = ["formats"]

FILES, SIDE, SCENE = 100, 64, 1_024
Pixels = npt.NDArray[Any]


class Case(NamedTuple):
    """Images of a format.

    Attributes:
        library: Name of the library of the format.
        sources: What each image is read from.
        read: Function that reads all images with that library, each as `(C, H, W)`.
    """

    library: str
    sources: list[Source]
    read: Callable[[], Iterator[Pixels]]


def formats(options: RunOptions) -> list[Measurement]:
    """Times the reading of small images of each format, in one thread, without resizing and storing them."""
    count, scene = (4, 128) if options.small else (FILES, SCENE)
    found = []
    for name, write in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            case = write(Path(folder), count, scene)
            found.append(_measure(name, case, options))
    return found


def _measure(name: str, case: Case, options: RunOptions) -> Measurement:
    reading = Reading()

    def ours() -> list[Pixels]:
        files = OpenFiles(reading, ReaderTable(), kept=1)
        decode = decoder(reading, files)
        images = [image.pixels for source in case.sources if not isinstance(image := decode(source), str)]
        files.close()
        return images

    def theirs() -> list[Pixels]:
        return [np.asarray(pixels, dtype=np.float32) for pixels in case.read()]

    known, other = (np.stack(images) for images in (ours(), theirs()))
    np.testing.assert_array_equal(np.isnan(known), np.isnan(other))  # the same values are missing
    error = check_equal(case.library, *(torch.from_numpy(np.nan_to_num(x)).float() for x in (known, other)), within=0.0)
    return Measurement(
        work=f"{len(case.sources):,} images of {name}",
        variants=time_in_turn({OURS: ours, case.library: theirs}, rounds=options.rounds),
        goals={case.library: 1 / 1.2},
        agreement=f"{name}: the values differ by {error:g}",
    )


def _values(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(1, 10_000, shape, dtype=np.uint16)


def _tiff(folder: Path, count: int, scene: int, *, own_tags: bool = False) -> Case:
    import tifffile

    paths = [folder / f"{number}.tif" for number in range(count)]
    for path, pixels in zip(paths, _values(count, 13, SIDE, SIDE), strict=True):
        metadata = {"name": path.name} if own_tags else {}
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="separate", metadata=metadata)
    return Case("tifffile", _each(paths), lambda: map(tifffile.imread, paths))


def _geotiff(folder: Path, count: int, scene: int) -> Case:
    import rasterio

    paths = [folder / f"{number}.tif" for number in range(count)]
    for path, pixels in zip(paths, _values(count, 13, SIDE, SIDE), strict=True):
        _write_geotiff(path, pixels)

    def read() -> Iterator[Pixels]:
        for path in paths:
            with rasterio.open(path) as file:
                yield _filled(file.read(masked=True))

    return Case("rasterio", _each(paths), read)


def _scene(folder: Path, count: int, scene: int) -> Case:
    import rasterio
    from rasterio.windows import Window as Part

    path = folder / "scene.tif"
    _write_geotiff(path, _values(4, scene, scene), tiled=True, blockxsize=256, blockysize=256)
    corners = [(top, left) for top in range(0, scene, SIDE) for left in range(0, scene, SIDE)]

    def read() -> Iterator[Pixels]:
        with rasterio.open(path) as file:
            for top, left in corners:
                yield _filled(file.read(window=Part(left, top, SIDE, SIDE), masked=True))

    return Case("rasterio", [Source((path,), Window(top, left, SIDE, SIDE)) for top, left in corners], read)


def _filled(values: Any) -> Pixels:
    """The values that rasterio has read, in which those that the file declares as no data are NaN."""
    return np.asarray(values.astype(np.float32).filled(np.nan))


def _write_geotiff(path: Path, pixels: Pixels, **options: Any) -> None:
    import rasterio

    pixels[:, :2, :2] = 0
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=pixels.dtype, nodata=0,
        crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **options,
    ) as file:  # fmt: skip
        file.write(pixels)


def _ome(folder: Path, count: int, scene: int) -> Case:
    import tifffile

    paths = [folder / f"{number}.ome.tif" for number in range(count)]
    for path, pixels in zip(paths, _values(count, 5, SIDE, SIDE), strict=True):
        tifffile.imwrite(path, pixels, metadata={"axes": "CYX"})
    return Case("tifffile", _each(paths), lambda: map(tifffile.imread, paths))


def _nifti(folder: Path, count: int, scene: int) -> Case:
    import nibabel

    path = folder / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(_values(SIDE, SIDE, count).astype(np.int16), np.eye(4)), path)

    def read() -> Iterator[Pixels]:
        volume = np.asanyarray(nibabel.load(path).dataobj)
        for number in range(count):
            yield volume[None, ..., number]

    return Case("nibabel", [Source((path,), member=number) for number in range(count)], read)


def _dicom(folder: Path, count: int, scene: int) -> Case:
    import pydicom
    from pydicom.dataset import FileMetaDataset

    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path, pixels in zip(paths, _values(count, SIDE, SIDE), strict=True):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        file = pydicom.Dataset()
        file.file_meta, file.Rows, file.Columns = meta, SIDE, SIDE
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation, file.PixelData = 15, 0, pixels.tobytes()
        file.save_as(path, enforce_file_format=True)
    return Case("pydicom", _each(paths), lambda: (pydicom.dcmread(path).pixel_array[None] for path in paths))


def _hdf5(folder: Path, count: int, scene: int) -> Case:
    import h5py

    path = folder / "images.h5"
    with h5py.File(path, "w") as file:
        file["images"] = _values(count, 5, SIDE, SIDE)

    def read() -> Iterator[Pixels]:
        with h5py.File(path) as file:
            for number in range(count):
                yield file["images"][number]

    return Case("h5py", [Source((path,), member=number) for number in range(count)], read)


def _zarr(folder: Path, count: int, scene: int) -> Case:
    import zarr

    path = folder / "images.zarr"
    values = _values(count, 5, SIDE, SIDE)
    array = zarr.open(str(path), mode="w", shape=values.shape, chunks=(1, *values.shape[1:]), dtype="uint16")
    array[:] = values

    def read() -> Iterator[Pixels]:
        opened = zarr.open(str(path), mode="r")
        for number in range(count):
            yield opened[number]

    return Case("zarr", [Source((path,), member=number) for number in range(count)], read)


def _each(paths: Sequence[Path]) -> list[Source]:
    return [Source((path,)) for path in paths]


CASES: dict[str, Callable[[Path, int, int], Case]] = {
    f"TIFF, 13 bands of {SIDE} px, with the same tags": _tiff,
    f"TIFF, 13 bands of {SIDE} px, each with other tags": partial(_tiff, own_tags=True),
    f"GeoTIFF, 13 bands of {SIDE} px": _geotiff,
    f"a tiled GeoTIFF scene, 4 bands, cut into tiles of {SIDE} px": _scene,
    f"OME-TIFF, 5 channels of {SIDE} px": _ome,
    f"a NIfTI volume, slices of {SIDE} px": _nifti,
    f"DICOM, {SIDE} px": _dicom,
    f"HDF5, 5 channels of {SIDE} px": _hdf5,
    f"zarr, 5 channels of {SIDE} px": _zarr,
}
