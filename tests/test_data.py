import importlib.util
import json
import os
import pickle
import shutil
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

from ssl_pretext.data import ImageStore, as_store, holdout_split, list_folder, list_food101, sample_photos
from ssl_pretext.data.build import in_order
from ssl_pretext.data.resizing import resize_array
from ssl_pretext.errors import ArgumentError, DataError, MissingDependencyError


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for i, (name, size) in enumerate([("a/1.png", (50, 40)), ("a/2.jpg", (33, 70)), ("b/3.png", (32, 32))]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels if i else pixels[..., 0]).save(path)  # the first image is gray
    return tmp_path / "photos"


def test_images_match_torchvision_resize_and_crop(folder, tmp_path):
    store = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert (store.names, store.classes, store.labels.tolist()) == (
        ["a/1.png", "a/2.jpg", "b/3.png"],
        ["a", "b"],
        [0, 0, 1],
    )
    for i, name in enumerate(store.names):
        with Image.open(folder / name) as opened:
            image = opened.convert("RGB")
        expected = F.pil_to_tensor(F.center_crop(F.resize(image, 24), 24))
        assert torch.equal(store[i][0], expected)
    part = store.subset([2, 0])
    assert torch.equal(part.images(), store.images([2, 0]))
    assert (part.names, part.labels.tolist()) == (["b/3.png", "a/1.png"], [1, 0])


def test_opening_again_decodes_nothing(folder, tmp_path, monkeypatch):
    first = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    monkeypatch.setattr("ssl_pretext.data.build._build", None)
    again = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert torch.equal(first.images(), again.images())
    assert first.sha256 == again.sha256
    monkeypatch.undo()
    assert ImageStore.from_folder(folder, image_size=20, cache=tmp_path / "cache").image_size == 20
    (folder / "b" / "4.png").write_bytes((folder / "b" / "3.png").read_bytes())
    assert len(ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")) == 4
    for images in (tmp_path / "cache").glob("*/images.u8"):
        images.write_bytes(b"short")
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")


def test_a_partial_store_is_not_opened(folder, tmp_path, monkeypatch):
    (folder / "a" / "broken.jpg").write_bytes(b"no image")
    monkeypatch.setattr("ssl_pretext.data.build.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    (part,) = (tmp_path / "cache").iterdir()
    assert part.suffix == ".part"
    monkeypatch.undo()
    store = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert (len(store), [item["name"] for item in store.skipped]) == (3, ["a/broken.jpg"])


def test_arrays_and_datasets():
    images = torch.randint(0, 256, (4, 5, 8, 8), dtype=torch.uint8)
    store = as_store((images, [0, 1, 1, 0]))
    assert repr(store) == "<ImageStore: 4 images 5×8×8 uint8, 2 classes>"
    assert (store.num_channels, store.classes) == (5, ["0", "1"])
    assert torch.equal(store.images(), images)
    again = as_store([(image, int(label)) for image, label in zip(images, store.labels, strict=True)])
    assert torch.equal(again.images(), images)
    assert as_store(store) is store


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5), st.randoms())
def test_a_split_is_disjoint_complete_stratified_and_independent_of_order(labels, fraction, seed, random):
    names = [f"image {i}" for i in range(len(labels))]
    kept, held_out = holdout_split(names, labels, fraction=fraction, seed=seed)
    assert sorted(kept + held_out) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        assert sum(labels[i] == label for i in held_out) == max(round(fraction * count), int(count > 1))
    order = list(range(len(labels)))
    random.shuffle(order)
    _, shuffled = holdout_split([names[i] for i in order], [labels[i] for i in order], fraction=fraction, seed=seed)
    assert {order[i] for i in shuffled} == set(held_out)


def test_train_and_test_sample_photos_do_not_overlap():
    train, test = sample_photos("train", image_size=16), sample_photos("test", image_size=16)
    assert (len(train), len(test), len(train.classes), train.image_size) == (1500, 400, 10, 16)
    assert torch.equal(train.images([0, 99]), sample_photos("train", image_size=16).images([0, 99]))
    for photo in train.classes:
        right = max(int(n.split("-")[-1]) for n in train.names if n.startswith(f"{photo}/"))
        left = min(int(n.split("-")[-1]) for n in test.names if n.startswith(f"{photo}/"))
        assert right + 64 <= left


def test_errors_say_what_is_wrong(tmp_path):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match="no images in class folders"):
        ImageStore.from_folder(tmp_path, image_size=8)
    with pytest.raises(DataError, match="no data folder"):
        ImageStore.from_folder(tmp_path / "none", image_size=8)
    with pytest.raises(DataError, match="no data folder"):
        list_food101(tmp_path / "none", "train")
    with pytest.raises(DataError, match="does not hold Food-101 in the layout of torchvision"):
        list_food101(tmp_path, "train")
    with pytest.raises(ArgumentError, match="2 images, 1 labels"):
        ImageStore.from_arrays(images, [0])
    with pytest.raises(ArgumentError, match="labels must be from 0 to 0, got labels from -1 to 0"):
        ImageStore.from_arrays(images, [0, -1])
    with pytest.raises(ArgumentError, match=r"channels of shape \(2, 8, 8, 3\) seem to be last; pass images.transpose"):
        ImageStore.from_arrays(images.permute(0, 2, 3, 1))
    for wrong in (images[0], images[..., :0]):
        with pytest.raises(ArgumentError, match=r"takes images \(N, C, H, W\), got shape"):
            ImageStore.from_arrays(wrong, [0, 0])
    with pytest.raises(
        ArgumentError, match="uint8, int8, int16, uint16 or floating images, or integers up to 2²⁴, got"
    ):
        ImageStore.from_arrays(images.long() + 2**24 + 1, [0, 0])
    assert torch.equal(ImageStore.from_arrays(images.long() + 2**24).images(), images.float() + 2**24)
    with pytest.raises(ArgumentError, match="must be an ImageStore, a dataset or a loader .* or a pair"):
        as_store(3)
    with pytest.raises(ArgumentError, match="splits train and test"):
        sample_photos("val")
    for names, fraction, match in (
        (["a", "a"], 0.5, "needs distinct names"),
        (["a"], 0.5, "1 names and 2 labels"),
        (["a", "b"], 1.0, "fraction of holdout_split must be between 0 and 1, got 1.0"),
    ):
        with pytest.raises(ArgumentError, match=match):
            holdout_split(names, [0, 0], fraction=fraction)


def test_exif_orientation_is_applied(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    ramp = np.broadcast_to(np.arange(0, 240, 6, dtype=np.uint8)[:, None], (40, 60))
    Image.fromarray(ramp).save(folder / "b" / "rotated.png", exif=exif)
    store = ImageStore.from_folder(folder, image_size=20, cache=tmp_path / "cache")
    with Image.open(folder / "b" / "rotated.png") as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
        not_rotated = opened.convert("RGB")
    expected, wrong = (F.pil_to_tensor(F.center_crop(F.resize(x, 20), 20)) for x in (image, not_rotated))
    pixels = store[store.names.index("b/rotated.png")][0]
    assert torch.equal(pixels, expected)
    assert not torch.equal(pixels, wrong)


def test_unreadable_images_are_skipped(tmp_path):
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    for i in range(99):
        Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"{i:02d}.png")
    (folder / "x.png").write_bytes(b"no image")
    store = ImageStore.from_folder(tmp_path / "photos", image_size=4, cache=tmp_path / "cache")
    assert (len(store), [item["name"] for item in store.skipped]) == (99, ["a/x.png"])
    assert store.skipped[0]["reason"].startswith("UnidentifiedImageError")
    assert store.images()[:, 0, 0, 0].tolist() == list(range(99))


@pytest.mark.parametrize(("chunk_bytes", "most"), [(3 * 4 * 4, 1), (3 * 4 * 4 * 5, 5), (2**19, 16)])
def test_chunks_of_images_are_bounded_in_bytes(tmp_path, monkeypatch, chunk_bytes, most):
    for i in range(40):
        write(tmp_path / "data" / f"{i:02d}.npy", np.full((3, 4, 4), i, np.uint8))
    lengths = []

    def recording(pool, function, chunks, ahead):
        for results in in_order(pool, function, chunks, ahead):
            lengths.append(len(results))
            yield results

    monkeypatch.setattr("ssl_pretext.data.build.available_cpus", lambda: 2)
    monkeypatch.setattr("ssl_pretext.data.build.SMALL_FILE", 0)
    monkeypatch.setattr("ssl_pretext.data.build.CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("ssl_pretext.data.build.in_order", recording)
    store = ImageStore.from_folder(tmp_path / "data", image_size=4, labeled=False, cache=tmp_path / "cache")
    assert store.images()[:, 0, 0, 0].tolist() == list(range(40))
    assert lengths[:9] == [1] * 9  # the size of the images is unknown until the first one is decoded
    assert max(lengths) == most


@pytest.mark.parametrize(("side", "threads"), [(4, 1), (64, 3)])
def test_small_files_are_decoded_in_one_thread(tmp_path, monkeypatch, side, threads):
    for i in range(3):
        write(tmp_path / "data" / f"{i}.npy", np.zeros((3, side, side), np.uint8))
    workers_used = []

    def pool(workers):
        workers_used.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr("ssl_pretext.data.build.available_cpus", lambda: 3)
    monkeypatch.setattr("ssl_pretext.data.build.ThreadPoolExecutor", pool)
    ImageStore.from_folder(tmp_path / "data", image_size=None, labeled=False, cache=tmp_path / "cache")
    assert workers_used == [threads]


@pytest.mark.parametrize("index", [None, "{", "[]", '{"labels": 3}'])
def test_a_damaged_index_says_what_to_delete(folder, tmp_path, index):
    ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/index.json")
    path.unlink() if index is None else path.write_text(index)
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")


def test_food101_may_be_given_by_its_own_folder(tmp_path, monkeypatch):
    root = tmp_path / "food-101"
    (root / "images").mkdir(parents=True)
    (root / "meta").mkdir()
    (root / "meta" / "train.json").write_text(json.dumps({"b": ["b/2", "b/1"], "a": ["a/3"]}))
    monkeypatch.chdir(root)
    for given_root in (tmp_path, root, "."):
        listing = list_food101(given_root, "train")
        assert (listing.names, listing.labels, listing.classes) == (["a/3", "b/1", "b/2"], [0, 1, 1], ["a", "b"])
    with pytest.raises(ArgumentError, match="splits 'train' and 'test', got 'val'"):
        list_food101(root, "val")
    (root / "meta" / "train.json").write_text("[1]")
    with pytest.raises(DataError, match="does not hold Food-101"):
        list_food101(root, "train")


def test_labels_may_be_a_tensor():
    names, labels = [str(i) for i in range(20)], [0] * 10 + [1] * 10
    assert holdout_split(names, torch.tensor(labels)) == holdout_split(names, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floating_images_become_float32(dtype):
    images = torch.rand(2, 3, 8, 8).to(dtype)
    stored = ImageStore.from_arrays(images, [0, 0]).images()
    assert stored.dtype == torch.float32
    assert torch.equal(stored, images.float())


def test_other_data_is_refused():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for wrong in (images, images.numpy(), "photos", {"a": 1}):
        with pytest.raises(ArgumentError, match="must be an ImageStore, a dataset or a loader .* or a pair"):
            as_store(wrong)


def test_sample_photos_without_their_packages_name_the_extra(monkeypatch):
    from ssl_pretext.data import samples

    samples.load_photo.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ssl-pretext\[benchmarks\]'"):
        sample_photos("test")
    samples.load_photo.cache_clear()


KINDS = [np.uint8, np.uint16, np.int16, np.float32, np.float64]


def bands(dtype, shape=(5, 20, 14), seed=0):
    """Random values: over the full range of an integer dtype, normally distributed for a floating dtype."""
    generator = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return generator.normal(1000, 300, shape).astype(dtype)
    limits = np.iinfo(dtype)
    native = np.dtype(dtype).newbyteorder("=")  # numpy draws only native byte order
    return generator.integers(limits.min, limits.max, shape, dtype=native, endpoint=True).astype(dtype)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, photometric="minisblack", metadata=None, **options)


def triangle(length, new):
    """The antialiased bilinear filter as a matrix `(new, length)` in float64."""
    scale = length / new
    distance = np.abs((np.arange(length) + 0.5) - (np.arange(new)[:, None] + 0.5) * scale) / max(scale, 1)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)


def resized(image, size):
    """Resizes the shortest side to `size` and crops the center: the sums over valid pixels, and their weights."""
    height, width = image.shape[1:]
    new = [int(size * side / min(height, width)) for side in (height, width)]
    rows, columns = triangle(height, new[0]), triangle(width, new[1])
    top, left = (round((side - size) / 2) for side in new)
    sums = (
        (rows @ part @ columns.T)[:, top : top + size, left : left + size]
        for part in (np.nan_to_num(image.astype(np.float64)), np.isfinite(image).astype(np.float64))
    )
    return tuple(sums)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("dtype", KINDS)
def test_arrays_are_resized_by_the_triangle_filter(tmp_path, dtype, suffix):
    arrays = [bands(dtype, shape, seed) for seed, shape in enumerate([(5, 20, 14), (5, 15, 33), (5, 9, 8)])]
    for i, array in enumerate(arrays):
        write(tmp_path / "data" / "a" / f"{i}{suffix}", array)
    store = ImageStore.from_folder(tmp_path / "data", image_size=8, channels=5, cache=tmp_path / "cache")
    assert (store.num_channels, store.image_size) == (5, 8)
    assert store.images().dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    for i, array in enumerate(arrays):
        expected, _ = resized(array, 8)
        tolerance = 0.51 if dtype == np.uint8 else 0.02
        np.testing.assert_allclose(store[i][0].numpy(), expected, rtol=0, atol=tolerance)


# Sizes from 2, because torch repeats the first row when it resizes to a width of 1 pixel and a larger height.
@given(st.integers(0, 2**32 - 1), st.integers(5, 30), st.integers(5, 30), st.integers(2, 20), st.floats(0, 1))
def test_missing_values_do_not_spread(seed, height, width, size, fraction):
    generator = np.random.default_rng(seed)
    image = bands(np.float32, (2, height, width), seed)
    image[generator.random(image.shape) < fraction] = np.nan
    ours = resize_array(image.copy(), size)
    sums, weights = resized(image, size)
    clear = np.abs(weights - 0.5) > 1e-4  # for other pixels, rounding decides whether they are missing
    assert (np.isnan(ours) == (weights < 0.5))[clear].all()
    valid = clear & (weights > 0.5)
    np.testing.assert_allclose(ours[valid], (sums[valid] / weights[valid]), rtol=1e-4)


def test_the_check_of_missing_values_detects_a_plain_resize():
    image = bands(np.float32, (1, 32, 32))
    image[0, 16, 16] = np.nan
    plain = F.resize(torch.from_numpy(image), [8], antialias=True)
    assert plain.isnan().any()
    assert not np.isnan(resize_array(image, 8)).any()
    filled = F.resize(torch.from_numpy(image).nan_to_num(0), [8], antialias=True)
    assert not np.allclose(resize_array(image, 8), filled, rtol=1e-4)


@given(st.sampled_from([*KINDS, ">u2", ">f4", np.float16]), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_without_a_size_values_are_unchanged(tmp_path_factory, dtype, channels, height, width):
    root = tmp_path_factory.mktemp("arrays")
    array = bands(np.dtype(dtype), (3, channels, height, width))
    for i in range(3):
        write(root / "data" / f"{i}.npy", array[i] if i < 2 or channels > 1 else array[i, 0])  # (H, W) is (1, H, W)
    options = {"image_size": None, "labeled": False, "cache": root / "cache"}
    store = ImageStore.from_folder(root / "data", **options)
    assert torch.equal(store.images(), torch.from_numpy(array.astype(store.images().numpy().dtype)))
    assert store.image_size == (height if height == width else (height, width))
    assert (store.num_channels, store.resize) == (channels, "none")
    assert store.sha256 == ImageStore.from_arrays(array, [0] * 3, names=store.names).sha256


@pytest.mark.parametrize(
    ("bands_last", "options"),
    [
        (True, {"planarconfig": "contig"}),
        (False, {"planarconfig": "separate"}),
        (False, {}),  # one page per band
        (False, {"byteorder": ">"}),
        (True, {"planarconfig": "contig", "compression": "zlib", "tile": (16, 16)}),
    ],
)
def test_tiff_bands_become_channels_in_every_layout(tmp_path, bands_last, options):
    array = bands(np.uint16, (7, 19, 23))
    write(tmp_path / "data" / "a.tiff", np.moveaxis(array, 0, -1) if bands_last else array, **options)
    store = ImageStore.from_folder(tmp_path / "data", image_size=None, labeled=False, cache=tmp_path / "cache")
    np.testing.assert_array_equal(store[0][0].numpy(), array)
    assert store.images().dtype == torch.float32


@pytest.mark.parametrize(("dtype", "missing"), [(np.int16, -9999), (np.float32, np.finfo(np.float32).min)])
def test_no_data_values_of_tiff_become_nan(tmp_path, dtype, missing):
    array = bands(dtype, (3, 8, 9))
    array[1, 2:4] = missing
    tag = (42113, "s", 0, repr(float(missing)), True)  # GDAL_NODATA
    write(tmp_path / "data" / "a.tif", array, extratags=[tag])
    store = ImageStore.from_folder(tmp_path / "data", image_size=None, labeled=False, cache=tmp_path / "cache")
    expected = np.where(array == missing, np.nan, array)
    np.testing.assert_array_equal(store[0][0].numpy(), expected)
    assert np.isnan(expected).sum() == 18


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_arrays_with_and_without_a_no_data_value_are_of_one_kind(tmp_path, dtype):
    arrays = [bands(dtype, (3, 8, 9), seed) for seed in range(10)]
    for i, array in enumerate(arrays):
        array[0, i % 8, 0] = i
        tag = (42113, "s", 0, str(i), True)  # GDAL_NODATA, another value in each file, and in some files none
        write(tmp_path / "data" / f"{i}.tif", array, extratags=[tag] if i % 5 < 3 else [])
    options = {"image_size": None, "labeled": False, "channels": 3, "cache": tmp_path / "cache"}
    store = ImageStore.from_folder(tmp_path / "data", **options)
    assert (len(store), store.skipped) == (10, [])
    for i, array in enumerate(arrays):
        declared = i % 5 < 3 and dtype != np.uint8
        expected = np.where(array == i, np.nan, array) if declared else array
        np.testing.assert_array_equal(store[i][0].numpy(), expected)


def test_values_not_finite_in_float32_become_nan(tmp_path):
    array = np.array([[1.0, np.inf, -np.inf], [np.nan, -1.7e308, 2.0]])
    write(tmp_path / "data" / "a.npy", array)
    store = ImageStore.from_folder(tmp_path / "data", image_size=None, labeled=False, cache=tmp_path / "cache")
    np.testing.assert_array_equal(store[0][0].numpy(), [[[1, np.nan, np.nan], [np.nan, np.nan, 2]]])


def test_a_tiff_photo_is_a_photo_unless_channels_are_stated(tmp_path):
    pixels = bands(np.uint8, (24, 30, 4))
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels[..., :3]).save(tmp_path / "a" / "1.tif")
    Image.fromarray(pixels, mode="RGBA").save(tmp_path / "a" / "2.tif")
    options = {"labeled": False, "cache": tmp_path / "cache"}
    photos = ImageStore.from_folder(tmp_path / "a", image_size=12, **options)
    for i in range(2):
        with Image.open(tmp_path / "a" / f"{i + 1}.tif") as opened:
            image = Image.new("RGBA", opened.size, "white")
            image.alpha_composite(opened.convert("RGBA"))
            image = image.convert("RGB")
        expected = F.pil_to_tensor(F.center_crop(F.resize(image, 12), 12))
        assert torch.allclose(photos[i][0].int(), expected.int(), rtol=0, atol=1)
    (tmp_path / "a" / "1.tif").unlink()
    assert ImageStore.from_folder(tmp_path / "a", image_size=None, **options).num_channels == 3
    four = ImageStore.from_folder(tmp_path / "a", image_size=None, channels=4, **options)
    assert torch.equal(four[0][0], torch.from_numpy(pixels).permute(2, 0, 1))
    # A TIFF file with 16 bits per sample is not a photograph, so its values keep 16 bits.
    deep = bands(np.uint16, (24, 30, 3))
    tifffile.imwrite(tmp_path / "a" / "2.tif", deep, photometric="rgb")
    store = ImageStore.from_folder(tmp_path / "a", image_size=None, **options)
    np.testing.assert_array_equal(store[0][0].numpy(), deep.transpose(2, 0, 1))


def test_images_of_different_formats_are_refused(tmp_path):
    base = bands(np.uint16, (4, 8, 8))

    def message(*arrays, **options):
        for i, array in enumerate(arrays):
            write(tmp_path / "data" / f"{i}.npy", array)
        with pytest.raises(DataError) as caught:
            ImageStore.from_folder(
                tmp_path / "data", **{"image_size": 8, "labeled": False, "cache": tmp_path / "cache"} | options
            )
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        return str(caught.value)

    assert "0.npy has 4 channels of uint16, 8×8 pixels, but 1.npy has 3 channels of uint16" in message(base, base[:3])
    assert "1.npy has 4 channels of float" in message(base, base.astype(np.float32))
    assert "1.npy has 4 channels of int16" in message(base, base.astype(np.int16))
    assert "1.npy has 4 channels of uint16, 8×7 pixels" in message(base, base[..., :7], image_size=None)
    expected = "0.npy: the image has 4 channels of uint16, 8×8 pixels, but channels=3 was requested"
    assert expected in message(base, base, channels=3)
    (tmp_path / "data" / "1.npy").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "1.png")
    assert "0.npy has 4 channels of uint16, 8×8 pixels, but 1.png has 3 channels of uint8" in message(base)
    for options in ({"image_size": 0}, {"channels": 0}):
        with pytest.raises(ArgumentError, match="must be a whole number of at least 1, got 0"):
            ImageStore.from_folder(tmp_path / "data", **{"image_size": 8, "labeled": False} | options)


def test_npy_headers_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    for i in range(16):
        write(tmp_path / "data" / f"{i}.npy", bands(np.uint8, (3, 8, 8)))
    inside, most = [], []
    original = np.lib.format.read_array_header_1_0

    def counting(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return original(*arguments, **options)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", counting)
    ImageStore.from_folder(tmp_path / "data", image_size=8, labeled=False, cache=tmp_path / "cache")
    assert len(most) == 16
    assert max(most) == 1


def test_unreadable_arrays_are_skipped_with_a_reason(tmp_path):
    folder = tmp_path / "data"
    for i in range(198):
        write(folder / f"{i:03d}.npy", np.full((2, 4, 4), i, np.float32))
    (folder / "x.npy").write_bytes((folder / "000.npy").read_bytes()[:-9])
    (folder / "y.tif").write_bytes(b"II*\0no image")
    options = {"image_size": 4, "labeled": False, "cache": tmp_path / "cache", "max_unreadable": 0.01}
    store = ImageStore.from_folder(folder, **options)
    assert (len(store), [item["name"] for item in store.skipped]) == (198, ["x.npy", "y.tif"])
    assert store.images()[:, 1, 3, 3].tolist() == list(range(198))
    for array, reason in (
        (np.full((2, 4, 4), 2**24 + 1, np.int64), r"got shape \(2, 4, 4\) and dtype int64"),
        (np.zeros((1, 1, 2, 4, 4), np.uint8), r"got shape \(1, 1, 2, 4, 4\) and dtype uint8"),
        (np.zeros((0, 4, 4), np.uint8), r"got shape \(0, 4, 4\)"),
        (np.array([{}], dtype=object), "Object arrays cannot be loaded"),
    ):
        write(folder / "z.npy", array)
        with pytest.raises(
            DataError, match=rf"3 of 201 .* more than 1%: x\.npy.*y\.tif.*z\.npy: ValueError: .*{reason}"
        ):
            ImageStore.from_folder(folder, **options)
    for file in folder.glob("*.npy"):
        file.unlink()
    tifffile.imwrite(folder / "y.tif", bands(np.uint16, (2, 3, 8, 8)), photometric="minisblack", imagej=True)
    with pytest.raises(DataError, match="the TIFF axes are [A-Z]{4}; they must be Y, X and at most one more"):
        ImageStore.from_folder(folder, **options)


def test_a_missing_package_for_tiff_is_named(tmp_path, monkeypatch):
    deep = Image.fromarray(bands(np.uint16, (8, 8)))
    (tmp_path / "data").mkdir()
    deep.save(tmp_path / "data" / "a.tif", compression="tiff_lzw")
    options = {"image_size": 4, "labeled": False, "cache": tmp_path / "cache"}
    if importlib.util.find_spec("imagecodecs") is None:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "rasterio", None)
            with pytest.raises(MissingDependencyError, match="is compressed .*: pip install imagecodecs"):
                ImageStore.from_folder(tmp_path / "data", **options)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingDependencyError, match=r"a\.tif needs tifffile: pip install 'ssl-pretext\[micro"):
        ImageStore.from_folder(tmp_path / "data", **options)
    deep.convert("RGB").save(tmp_path / "data" / "a.tif")  # a photograph needs no tifffile
    assert ImageStore.from_folder(tmp_path / "data", **options).num_channels == 3


@given(st.sampled_from([np.uint8, np.float32]), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_arrays_of_any_shape(dtype, channels, height, width):
    images = bands(dtype, (3, channels, height, width))
    store = ImageStore.from_arrays(images, [0, 1, 0])
    assert store.image_size == (height if height == width else (height, width))
    assert store.num_channels == channels
    np.testing.assert_array_equal(store.subset([2, 1]).images().numpy(), images[[2, 1]])
    again = as_store([(image, 0) for image in torch.from_numpy(images)])
    np.testing.assert_array_equal(again.images().numpy(), images)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_integers_become_float32_unscaled(dtype):
    images = bands(dtype, (2, 3, 4, 5))
    for given_images in (images, torch.from_numpy(images)):
        np.testing.assert_array_equal(ImageStore.from_arrays(given_images, [0, 0]).images().numpy(), images)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_arrays_of_either_byte_order_are_equal(dtype, tmp_path):
    images = bands(dtype, (2, 3, 4, 5))
    swapped = images.astype(images.dtype.newbyteorder())
    assert swapped.dtype != images.dtype
    np.testing.assert_array_equal(ImageStore.from_arrays(swapped, [0, 0]).images().numpy(), images)
    for name, array in (("0.npy", images[0]), ("1.npy", swapped[1])):
        write(tmp_path / "data" / name, array)
    store = ImageStore.from_folder(tmp_path / "data", image_size=None, labeled=False, cache=tmp_path / "cache")
    np.testing.assert_array_equal(store.images().numpy(), images)


def test_missing_values_are_kept():
    images = bands(np.float32, (2, 3, 4, 4))
    images[0, 1, 2, 3] = np.nan
    store = ImageStore.from_arrays(images, [0, 1])
    np.testing.assert_array_equal(store.images().numpy(), images)
    assert store.sha256 == ImageStore.from_arrays(images.copy(), [0, 1]).sha256


def test_a_pickled_subset_has_only_its_own_pixels(folder, tmp_path):
    """A store on disk is mapped again from its file; the pixels of other images in memory are left out."""
    mapped = ImageStore.from_folder(folder, image_size=64, cache=tmp_path / "cache")
    arrays = ImageStore.from_arrays(torch.randint(0, 256, (50, 3, 64, 64), dtype=torch.uint8), [0, 1] * 25)
    for store, pixels in ((mapped, 0), (arrays, 2 * 3 * 64 * 64)):
        subset = store.subset([1, 0])
        data = pickle.dumps(subset)
        assert len(data) < pixels + 6_000
        again = pickle.loads(data)
        assert torch.equal(again.images(), subset.images())
        assert (again.sha256, again.names, again.classes) == (subset.sha256, subset.names, subset.classes)
        assert torch.equal(pickle.loads(pickle.dumps(again.subset([1]))).images(), subset.images([1]))
    assert isinstance(pickle.loads(pickle.dumps(mapped))._pixels, np.memmap)
    data = pickle.dumps(mapped)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(
        DataError, match="from which a store was pickled, cannot be opened here: .* Open the images again"
    ):
        pickle.loads(data)


def test_the_hash_covers_names_labels_and_pixels(folder, tmp_path, monkeypatch):
    images = bands(np.uint8, (3, 3, 4, 5))
    store = ImageStore.from_arrays(images, [0, 1, 1])
    changed = images.copy()
    changed[2, 2, 3, 4] ^= 1
    others = [
        ImageStore.from_arrays(changed, [0, 1, 1]),
        ImageStore.from_arrays(images, [0, 1, 0]),
        ImageStore.from_arrays(images, [0, 1, 1], names=["0", "1", "3"]),
        ImageStore.from_arrays(images.transpose(0, 1, 3, 2).copy(), [0, 1, 1]),
        ImageStore.from_arrays(images.reshape(3, 3, 5, 4), [0, 1, 1]),
        ImageStore.from_arrays(images.view(np.int8).astype(np.float32), [0, 1, 1]),
        store.subset([1, 0, 2]),
        store.subset([0, 1]),
    ]
    assert len({store.sha256, *(other.sha256 for other in others)}) == 1 + len(others)
    assert store.subset([1, 2]).sha256 == ImageStore.from_arrays(images[1:], [1, 1], names=["1", "2"]).sha256
    # Another cache folder or other modification times of the files do not change the hash.
    first = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "one")
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))
    second = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "two")
    in_memory = ImageStore.from_arrays(first.images(), first.labels, names=first.names)
    expected = in_memory.subset([2, 0]).sha256
    monkeypatch.setattr("ssl_pretext.data.store.digest", None)  # hashes of files were computed while decoding
    assert first.sha256 == second.sha256
    assert first.subset([2, 0]).sha256 == expected
    monkeypatch.undo()
    assert first.sha256 == in_memory.sha256
    Image.new("RGB", (32, 32)).save(folder / "b" / "3.png")
    assert ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "one").sha256 != first.sha256


def test_a_store_is_raw_bytes_with_the_usual_permissions(folder, tmp_path):
    before = os.umask(0o027)
    try:
        store = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    finally:
        os.umask(before)
    (folder_of_store,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(folder_of_store.stat().st_mode) == 0o750
    assert sorted(file.name for file in folder_of_store.iterdir()) == ["images.u8", "index.json"]
    assert (folder_of_store / "images.u8").read_bytes() == store.images().numpy().tobytes()
    index = json.loads((folder_of_store / "index.json").read_text())
    assert (index["names"], index["resize"]) == (store.names, store.resize)
    assert store.resize == "shortest side to 24 px (bilinear, antialiased), center crop"


def test_folders_without_classes(folder, tmp_path):
    options = {"image_size": 24, "cache": tmp_path / "cache"}
    labeled = ImageStore.from_folder(folder, **options)
    store = ImageStore.from_folder(folder, labeled=False, **options)
    assert (store.names, store.classes, store.labels.tolist()) == (labeled.names, ["unlabeled"], [0, 0, 0])
    assert torch.equal(store.images(), labeled.images())
    # A single class has the same labels, but keeps its name.
    assert ImageStore.from_folder(folder / "..", **options).classes == ["photos"]
    assert ImageStore.from_folder(folder / "..", labeled=False, **options).classes == ["unlabeled"]
    deep = folder / "b" / "c" / "d" / "5.PNG"
    deep.parent.mkdir(parents=True)
    for path in (deep, folder / "0.png"):
        path.write_bytes((folder / "b" / "3.png").read_bytes())
    names = ["0.png", "a/1.png", "a/2.jpg", "b/3.png", "b/c/d/5.PNG"]
    assert ImageStore.from_folder(folder, labeled=False, **options).names == names
    with pytest.raises(DataError, match=r"holds 1 of its 5 images outside class folders, such as 0\.png; move"):
        ImageStore.from_folder(folder, **options)
    with pytest.raises(DataError, match=r"holds 1 of its 1 images outside class folders"):
        list_folder(deep.parent)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none holds no images; expected .*none/NAME\.jpg"):
        list_folder(tmp_path / "none", labeled=False)


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_in_order_yields_in_order_and_limits_work_ahead(items, ahead):
    started = []

    def work(item):
        started.append(item)
        return -item

    with ThreadPoolExecutor(2) as pool:
        done = []
        for result in in_order(pool, work, items, ahead):
            done.append(result)
            assert len(started) <= len(done) + ahead
    assert done == [-item for item in items]


def test_closing_in_order_starts_no_more_work():
    may_end, started = threading.Event(), []

    def work(item):
        started.append(item)
        if item:
            may_end.wait()

    with ThreadPoolExecutor(1) as pool:
        results = in_order(pool, work, range(9), 5)
        next(results)
        results.close()
        may_end.set()
    assert started in ([0], [0, 1])


def test_real_satellite_bands(tmp_path):
    if "SSL_PRETEXT_DATA" not in os.environ:
        pytest.skip("SSL_PRETEXT_DATA is not set")
    file = Path(os.environ["SSL_PRETEXT_DATA"]).parent / "sentinel-2" / "eolearn_l1c_13band_5x101x100.npy"
    if not file.is_file():
        pytest.skip(f"there is no {file.name} next to SSL_PRETEXT_DATA")
    dates = np.moveaxis(np.load(file), -1, 1)  # (5, 13, 101, 100)
    store = ImageStore.from_arrays(dates, range(5))
    assert (store.num_channels, store.image_size) == (13, (101, 100))
    for i, date in enumerate(dates):
        write(tmp_path / "data" / f"{i}.tif", np.moveaxis(date, 0, -1), planarconfig="contig")
        write(tmp_path / "arrays" / f"{i}.npy", date)
    options = {"labeled": False, "channels": 13, "cache": tmp_path / "cache"}
    full_size = ImageStore.from_folder(tmp_path / "data", image_size=None, **options)
    assert torch.equal(full_size.images(), store.images())
    small = ImageStore.from_folder(tmp_path / "arrays", image_size=32, **options)
    assert (small.num_channels, small.image_size) == (13, 32)
    for i, date in enumerate(dates):
        np.testing.assert_allclose(small[i][0].numpy(), resized(date, 32)[0], rtol=1e-4, atol=1e-6)
