"""Which files of a folder are images, which folders are classes, and when a folder counts as changed."""

import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from ssl_pretext.data import ImageStore, ImageStream, Listing, list_folder
from ssl_pretext.data.photo import PLUGINS, _formats, format_by_suffix
from ssl_pretext.data.splits import find_splits
from ssl_pretext.errors import DataError

SUFFIXES = {
    "JPEG": ".jpg .jpeg .jpe .jfif .JPG .Jfif",
    "PNG": ".png .apng",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pnm",
    "TGA": ".tga .icb .vda .vst",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    **({"AVIF": ".avif .avifs"} if "avif" in features.get_supported() else {}),
    "MPO": ".mpo",
}


def opened(folder, **options):
    return ImageStore.from_folder(folder, **{"image_size": None, "cache": folder.parent / "cache"} | options)


def write_noise(folder, seed, classes=("a", "b"), count=10, when=(10**18, 10**18)):
    """Arrays of the same names, sizes and times for every seed, as unpacked from a tar file with fixed times."""
    generator = np.random.default_rng(seed)
    for name in (f"{name}/{i}" for name in classes for i in range(count)):
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, generator.integers(0, 256, (3, 8, 8), dtype=np.uint8))
        os.utime(path, ns=when)
    return folder


def pixels(folder):
    """The pixels on disk, which a store must have."""
    return np.stack([np.load(path) for path in sorted(folder.glob("*/*.npy"))])


def check(folder, **options):
    np.testing.assert_array_equal(opened(folder, **options).images().numpy(), pixels(folder))


def test_folders_of_the_same_names_sizes_and_times_have_stores_of_their_own(tmp_path):
    train, test = (write_noise(tmp_path / name, seed) for seed, name in enumerate(("train", "test")))
    for folder in (train, test, train):
        check(folder)
    assert not np.array_equal(pixels(train), pixels(test))


def test_folders_that_are_swapped_or_linked_have_the_pixels_of_their_files(tmp_path):
    one, two = (write_noise(tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    link, cache = tmp_path / "link", tmp_path / "cache"
    link.symlink_to("one")
    check(one)
    check(link)
    assert len(list(cache.glob("*/index.json"))) == 1, "a folder with two names has one store"
    link.unlink()
    link.symlink_to("two")
    check(link)
    for here, there in ((one, "x"), (two, "one"), (tmp_path / "x", "two")):
        here.rename(tmp_path / there)
    check(one)
    check(two)
    (two / "a").rename(two / "c")
    (two / "a").symlink_to(one / "a")
    check(two)


@pytest.mark.parametrize("how", ["in place", "renamed over it", "hard link", "copied with its times"])
def test_a_file_that_is_changed_with_its_size_and_time_kept_is_seen(tmp_path, how):
    folder = write_noise(tmp_path / "data", 0)
    other = write_noise(tmp_path / "other", 1) / "b" / "3.npy"
    check(folder)
    before, path = pixels(folder), folder / "b" / "3.npy"
    time.sleep(0.02)  # file systems count the time of a change in steps of some milliseconds
    if how == "in place":
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(10**18, 10**18))
    elif how == "renamed over it":
        other.rename(path)
    elif how == "hard link":
        path.unlink()
        os.link(other, path)
    else:
        shutil.copy2(other, path)
    assert path.stat().st_mtime_ns == 10**18
    assert not np.array_equal(pixels(folder), before)
    check(folder)


def test_names_with_separators_are_not_mistaken_for_others():
    lists = [["a", "b"], ["a\tb"], ["a\nb"], ["a", "", "b"], ['a", "b']]
    prints = {Listing(Path("x"), [], [], [], classes).fingerprint() for classes in lists}
    assert len(prints) == len(lists)


def test_a_shard_that_is_changed_with_its_size_and_time_kept_is_counted_again(tmp_path):
    shard = tmp_path / "data.tar"

    def write(names):
        with tarfile.open(shard, "w") as archive:
            for name in names:
                content = io.BytesIO()
                Image.new("RGB", (8, 8)).save(content, "PNG")
                info = tarfile.TarInfo(name)
                info.size = len(content.getvalue())
                archive.addfile(info, io.BytesIO(content.getvalue()))
        os.utime(shard, ns=(10**18, 10**18))

    for names in (["1.png", "2.png"], ["1.png", "2.txt"]):
        write(names)
        count = sum(name.endswith("png") for name in names)
        assert len(ImageStream(str(shard), image_size=8, cache=tmp_path / "cache")) == count
        time.sleep(0.02)


@pytest.mark.parametrize("name", SUFFIXES)
def test_photographs_are_read_under_every_suffix(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    image = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8))
    for i, suffix in enumerate(SUFFIXES[name].split()):
        image.save(folder / f"{i}{suffix}", name)
    store = opened(folder, labeled=False)
    assert (len(store), store.skipped) == (len(SUFFIXES[name].split()), [])
    assert np.abs(store.images().numpy()[:, :, 4, 4] - [200.0, 100, 50]).max() <= 8


def test_the_suffixes_are_those_that_pillow_has_for_the_formats():
    listed = {suffix.lower() for suffixes in SUFFIXES.values() for suffix in suffixes.split()}
    others = {".pbm", ".pgm", ".pfm", ".qoi"} | {
        suffix for suffix, name in format_by_suffix().items() if name in PLUGINS
    }
    assert {*format_by_suffix()} == listed | others


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("phone.HEIC", "pip install pillow-heif"),
        ("phone.hif", "pip install pillow-heif"),
        ("small.jxl", "pip install pillow-jxl-plugin"),
        ("raw.dng", "raw photographs are not read; save them as .tif"),
        ("raw.CR2", "raw photographs are not read"),
        ("light.exr", "save it as .npy or .tif"),
        ("slide.svs", "save it as .npy or .tif"),
        ("array.npz", "save it as .npy or .tif"),
        ("drawing.svg", "save it as .png"),
        ("layers.psd", "the format PSD is not read; save it as .png"),
        ("icon.ico", "the format ICO is not read"),
        ("page.pdf", "the format PDF is not read"),
        ("photos.zip", "archives are not read; unpack them"),
        ("photos.tar.xz", "archives in a folder are not read; unpack them, or name them as shards"),
    ],
)
def test_images_that_are_not_read_are_listed_with_the_reason(tmp_path, name, reason):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    for other in ("notes.txt", "labels.csv", "1.xml", "README", ".hidden.heic"):
        (folder / "deep" / other).write_text("no image")
    (folder / "deep" / name).write_bytes(b"content")
    ((found, why),) = [item.values() for item in list_folder(folder, labeled=False).skipped]
    assert found == f"deep/{name}"
    assert reason in why


def test_a_file_of_a_plugin_is_read_when_the_plugin_is_installed(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    image = Image.new("RGB", (8, 8), (9, 8, 7))
    image.save(folder / "1.png")
    image.save(folder / "2.heic", "PNG")
    assert len(opened(folder, labeled=False)) == 1
    for function in (format_by_suffix, _formats):
        function.cache_clear()
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    try:
        store = opened(folder, labeled=False)
        assert (store.names, store.skipped) == (["1.png", "2.heic"], [])
    finally:
        for function in (format_by_suffix, _formats):
            function.cache_clear()


def tree(root, *folders, classes=("cat", "dog")):
    for name in (f"{folder}/{label}".rstrip("/") for folder in folders for label in classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name / "1.png")
    return root


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test"),
        ("Train", "VAL", "Test"),
        ("training", "validation"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test", "seg_pred"),
        ("train2017", "val2017"),
        ("trainset", "testset"),
        ("cats_train", "cats_test"),
        ("train", "dev", "holdout"),
        ("train",),
    ],
)
def test_splits_are_not_taken_for_classes(tmp_path, folders):
    root = tree(tmp_path / "data", *folders)
    found = [name for name in folders if "pred" not in name]
    first = str(root / found[0])
    with pytest.raises(DataError, match=f"are splits of a data set and not classes; .* such as {first}") as caught:
        list_folder(root)
    assert [path.name for path in caught.value.splits] == found
    assert list_folder(first).classes == ["cat", "dog"]
    assert len(list_folder(root, labeled=False).names) == 2 * len(folders)


def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path):
    with pytest.raises(DataError, match="the folders train and test in .* are splits of a data set"):
        list_folder(tree(tmp_path / "data", "train", "test", classes=[""]))


def test_pretraining_on_several_splits_is_logged(tmp_path, caplog):
    list_folder(tree(tmp_path / "data", "train", "val", "test"), labeled=False)
    assert "holds train, val and test, which are named like splits; the images of all are used" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.png", "bus/1.png"],
        ["train/steam/1.png", "train/electric/1.png", "bus/city/1.png"],
        ["bullet_train/web/1.png", "steam_train/web/1.png"],
        ["train_station/1.png", "test_tube/1.png"],
        ["trainer/1.png", "tester/1.png", "valley/1.png"],
        ["train/1.png"],
        ["1.png"],
    ],
)
def test_classes_may_be_named_like_splits(names):
    assert find_splits(names) == []


def test_a_file_is_not_called_missing(tmp_path):
    for name, advice in (("a.jpg", "pass the folder"), ("a.zip", "unpack them"), ("a.tar.xz", "unpack them")):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"{name} is a file and not a data folder; .*{advice}"):
            list_folder(tmp_path / name)
    with pytest.raises(DataError, match="there is no data folder .*; check the path"):
        list_folder(Path(tmp_path / "none"))
