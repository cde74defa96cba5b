"""Each line of the page "Your own data" runs as it is written, on small files of its kind that are made on the spot."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from test_structure import ROOT
from torch.utils.data import DataLoader, Dataset, Subset

import ssl_pretext as sp

ROWS = dict(re.findall(r"^\| (.+?) \| `(sp\..+)` \|$", (ROOT / "docs/howto/your-data.md").read_text(), re.M))
Names = dict[str, Any]
RNG = np.random.default_rng(0)


def values(*shape: int, dtype: Any = np.uint16) -> npt.NDArray[Any]:
    return RNG.integers(1, 250, shape).astype(dtype)


def photo(path: str, height: int = 80, width: int = 72) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values(height, width, 3, dtype=np.uint8)).save(path)


def class_folders() -> None:
    for name in ("cat/1.jpg", "cat/2.png", "dog/1.jpg"):
        photo(f"photos/{name}")


def flat_photos(table: str, file: str) -> Callable[[], None]:
    def make() -> None:
        for name in ("1", "2", "3"):
            photo(f"photos/{name}.jpg")
        Path(file).write_text(table)

    return make


def named_photos() -> None:
    for name in ("cat_1", "dog_1", "dog_2"):
        photo(f"photos/{name}.jpg")


def geotiff(path: str, pixels: npt.NDArray[Any], **options: Any) -> None:
    rasterio = pytest.importorskip("rasterio")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=pixels.dtype, crs="EPSG:32632",
        transform=place, **options,
    ) as file:  # fmt: skip
        file.write(pixels)
        file.descriptions = [f"B{band:02}" for band in range(1, bands + 1)]


def chips(nodata: int | None) -> Callable[[], None]:
    def make() -> None:
        for name in ("field/1", "field/2", "water/1"):
            pixels = values(13, 8, 8)
            pixels[:, 0, 0] = 0
            geotiff(f"chips/{name}.tif", pixels, nodata=nodata)

    return make


def chips_with_masks() -> None:
    for number, place in enumerate(("field", "water")):
        geotiff(f"chips/{place}_image.tif", values(4, 64, 64))
        geotiff(f"chips/{place}_mask.tif", np.full((1, 64, 64), number, np.uint8))


def scene() -> None:
    geotiff("scenes/big.tif", values(4, 300, 260), tiled=True, blockxsize=64, blockysize=64)


def bands_of_three_resolutions() -> None:
    for date in ("0501", "0602"):
        for band, side in (("B02", 60), ("B05", 30), ("B09", 10)):
            geotiff(f"bands/{date}_{band}.tif", values(1, side, side))


def ome(folder: str, axes: str, *shape: int) -> Callable[[], None]:
    def make() -> None:
        tifffile = pytest.importorskip("tifffile")
        Path(folder).mkdir()
        for name in "ab":
            metadata = {"axes": axes, "Channel": {"Name": ["DNA", "actin"]}}
            tifffile.imwrite(f"{folder}/{name}.ome.tif", values(*shape), metadata=metadata)

    return make


def plate() -> None:
    tifffile = pytest.importorskip("tifffile")
    Path("plate").mkdir()
    for name in (f"{well}_s{site}_w{channel}" for well in ("A01", "B01") for site in "12" for channel in "123"):
        tifffile.imwrite(f"plate/{name}.tif", values(8, 8))


def photos_with_depth() -> None:
    for name in "12":
        photo(f"rgbd/rgb/{name}.png", 64, 64)
        Path("rgbd/depth").mkdir(exist_ok=True)
        Image.fromarray(values(64, 64)).save(f"rgbd/depth/{name}.png")


def brains() -> None:
    nibabel = pytest.importorskip("nibabel")
    Path("brains").mkdir()
    for name in (f"{patient}_{modality}" for patient in ("p1", "p2") for modality in ("t1", "t2", "flair")):
        nibabel.save(nibabel.Nifti1Image(values(8, 8, 5, dtype=np.int16), np.eye(4)), f"brains/{name}.nii.gz")


def scans() -> None:
    pydicom = pytest.importorskip("pydicom")
    Path("scans").mkdir()
    for name in "ab":
        file = pydicom.Dataset()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        file.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        file.Rows = file.Columns = 8
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelData = 15, values(8, 8).tobytes()
        file.save_as(f"scans/{name}.dcm", enforce_file_format=True)


def hdf5() -> None:
    h5py = pytest.importorskip("h5py")
    Path("hdf5").mkdir()
    with h5py.File("hdf5/all.h5", "w") as file:
        file["images"] = values(5, 2, 8, 8)


def zarrs() -> None:
    zarr = pytest.importorskip("zarr")
    Path("zarrs").mkdir()
    array = zarr.open("zarrs/all.zarr", mode="w", shape=(5, 2, 8, 8), chunks=(1, 2, 8, 8), dtype="uint16")
    array[:] = values(5, 2, 8, 8)


def torchvision_data() -> Names:
    from torchvision.datasets import ImageFolder

    class_folders()
    return {"torchvision_data": Subset(ImageFolder("photos"), [0, 2])}


class Dicts(Dataset):  # type: ignore[type-arg]
    """Samples as those of torchgeo's NonGeoDataset."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Names:
        return {"image": torch.full((5, 8, 8), float(index)), "label": torch.tensor(index % 2)}


def hugging_face() -> Names:
    datasets = pytest.importorskip("datasets")
    class_folders()
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    found = {"image": ["photos/cat/1.jpg", "photos/dog/1.jpg"], "label": [0, 1]}
    return {"hugging_face": datasets.Dataset.from_dict(found, features=features)}


def shards() -> None:
    Path("shards").mkdir()
    photo("one.jpg")
    for shard in range(2):
        with tarfile.open(f"shards/{shard}.tar", "w") as file:
            for number in range(2):
                file.add("one.jpg", f"{number}.jpg")
                label = tarfile.TarInfo(f"{number}.cls")
                label.size = 1
                file.addfile(label, io.BytesIO(str(number).encode()))


def shards_of_stacks() -> None:
    ome("stacks", "ZCYX", 3, 2, 64, 64)()
    Path("shards").mkdir()
    with tarfile.open("shards/0.tar", "w") as file:
        for path in sorted(Path("stacks").iterdir()):
            file.add(path, path.name)


def web_dataset() -> Names:
    webdataset = pytest.importorskip("webdataset")
    shards()
    return {"web_dataset": webdataset.WebDataset(["shards/0.tar", "shards/1.tar"], shardshuffle=False).decode("pil")}


LABELS = "file,label\n1,cat\n2,dog\n3,cat\n"
# For each row, what makes its files, and the expected number of images with their channels, height and width.
MADE: dict[str, tuple[Callable[[], Names | None], tuple[int, int, int, int]]] = {
    "photos in a folder for each class": (class_folders, (3, 3, 64, 64)),
    "photos without labels, in any folders": (class_folders, (3, 3, 64, 64)),
    "photos larger than what you look for": (class_folders, (3, 3, 64, 64)),
    "one folder and a table: the columns `file` and `label`": (flat_photos(LABELS, "labels.csv"), (3, 3, 64, 64)),
    "several labels per photo, as in `cat;dog`": (
        flat_photos(LABELS.replace("2,dog", "2,cat;dog"), "labels.csv"),
        (3, 3, 64, 64),
    ),
    "a table with other names of columns": (
        flat_photos("id,diagnosis\n1,ill\n2,well\n3,ill\n", "list.csv"),
        (3, 3, 64, 64),
    ),
    "the class in the name of the file": (named_photos, (3, 3, 64, 64)),
    "GeoTIFF chips with many bands": (chips(0), (3, 13, 8, 8)),
    "chips in which 0 means missing": (chips(None), (3, 13, 8, 8)),
    "chips in which 0 means missing in one band": (chips(None), (3, 13, 8, 8)),
    "chips with masks, the class of each pixel": (chips_with_masks, (2, 4, 64, 64)),
    "a scene of thousands of pixels": (scene, (16, 4, 64, 64)),
    "a file for each band, at several resolutions": (bands_of_three_resolutions, (2, 3, 64, 64)),
    "OME-TIFF with channels": (ome("cells", "CYX", 2, 8, 8), (2, 2, 8, 8)),
    "OME-TIFF stacks, projected along Z": (ome("stacks", "ZCYX", 3, 2, 8, 8), (2, 2, 8, 8)),
    "plates: a file for each well, site and channel": (plate, (4, 3, 8, 8)),
    "photos, and depth as 16-bit PNG": (photos_with_depth, (2, 4, 64, 64)),
    "NIfTI volumes of three modalities": (brains, (10, 3, 8, 8)),
    "DICOM": (scans, (2, 1, 8, 8)),
    "an array `(N, C, H, W)` or a tensor": (
        lambda: {"images": values(3, 5, 8, 8), "labels": [0, 1, 0]},
        (3, 5, 8, 8),
    ),
    "arrays in HDF5": (hdf5, (5, 2, 8, 8)),
    "arrays in zarr": (zarrs, (5, 2, 8, 8)),
    "a torchvision data set, or a `Subset` of it": (torchvision_data, (2, 3, 64, 64)),
    "dicts with `image` and `label`, as of torchgeo or MONAI": (lambda: {"dicts": Dicts()}, (4, 5, 8, 8)),
    "a Hugging Face data set": (hugging_face, (2, 3, 64, 64)),
    "a `DataLoader`": (lambda: {"loader": DataLoader(Dicts(), batch_size=3)}, (4, 5, 8, 8)),
    "WebDataset shards": (shards, (4, 3, 64, 64)),
    "WebDataset shards of OME-TIFF stacks, projected along Z": (shards_of_stacks, (2, 2, 64, 64)),
    "WebDataset shards with labels": (web_dataset, (4, 3, 64, 64)),
}
CLASSES = {
    "photos in a folder for each class": [0, 0, 1],
    "one folder and a table: the columns `file` and `label`": [0, 1, 0],
    "a table with other names of columns": [0, 1, 0],
    "the class in the name of the file": [0, 1, 1],
    "GeoTIFF chips with many bands": [0, 0, 1],
    "a torchvision data set, or a `Subset` of it": [0, 1],
    "dicts with `image` and `label`, as of torchgeo or MONAI": [0, 1, 0, 1],
    "a Hugging Face data set": [0, 1],
    "a `DataLoader`": [0, 1, 0, 1],
    "WebDataset shards with labels": [0, 1, 0, 1],
}
CHANNEL_NAMES = {
    "GeoTIFF chips with many bands": [f"B{band:02}" for band in range(1, 14)],
    "a file for each band, at several resolutions": ["B02", "B05", "B09"],
    "OME-TIFF with channels": ["DNA", "actin"],
    "plates: a file for each well, site and channel": ["1", "2", "3"],
    "NIfTI volumes of three modalities": ["t1", "t2", "flair"],
}


def test_each_row_of_the_page_has_files() -> None:
    assert ROWS.keys() == MADE.keys()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
@pytest.mark.parametrize("row", MADE)
def test_the_line_gives_the_images(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    make, shape = MADE[row]
    images = eval(ROWS[row].replace(r"\|", "|"), {"sp": sp} | (make() or {}))
    store = images.sample() if isinstance(images, sp.ImageStream) else images
    assert (len(store), *store.images().shape[1:]) == shape
    if row in CLASSES:
        assert store.labels.tolist() == CLASSES[row]
    if row in CHANNEL_NAMES:
        assert store.channel_names == CHANNEL_NAMES[row]
    if "chips" in row:
        missing = {"means missing in one band": [8], "masks": []}
        bands = next((bands for words, bands in missing.items() if words in row), [*range(13)])
        assert store.images().isnan().sum() == 3 * len(bands)
        assert store.images()[:, bands, 0, 0].isnan().all()
    if "masks" in row:
        assert store.targets[:, 0, 0].tolist() == [0, 1]
        assert store.targets.shape == (2, 64, 64)
    if "several labels" in row:
        assert {name: column.tolist() for name, column in store.targets.items()} == {"cat": [1, 1, 1], "dog": [0, 1, 0]}
    if "plates" in row:
        assert store.groups == ["A01", "A01", "B01", "B01"]
