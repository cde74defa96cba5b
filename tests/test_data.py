import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

from ssl_pretext.data import ImageStore, as_store, holdout_split, list_food101, sample_photos
from ssl_pretext.errors import ArgumentError, DataError, MissingDependencyError


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for i, (name, size) in enumerate([("a/1.png", (50, 40)), ("a/2.jpg", (33, 70)), ("b/3.png", (32, 32))]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels if i else pixels[..., 0]).save(path)  # the first one is grey
    return tmp_path / "photos"


def test_images_are_torchvisions_resize_and_crop(folder, tmp_path):
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


def test_a_second_opening_decodes_nothing(folder, tmp_path, monkeypatch):
    first = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    monkeypatch.setattr("ssl_pretext.data.store._build", None)
    again = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert torch.equal(first.images(), again.images())
    assert first.sha256 == again.sha256
    monkeypatch.undo()
    (folder / "b" / "4.png").write_bytes((folder / "b" / "3.png").read_bytes())
    assert len(ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")) == 4
    for images in (tmp_path / "cache").glob("*/images.u8"):
        images.write_bytes(b"short")
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")


def test_nothing_half_built_is_left(folder, tmp_path, monkeypatch):
    (folder / "a" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read, more than 1%: a/broken\.jpg: Unidentified"):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    monkeypatch.setattr("ssl_pretext.data.store.TOLERATED", 0.5)
    monkeypatch.setattr("ssl_pretext.data.store.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr("ssl_pretext.data.store.TOLERATED", 0.5)
    store = ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert (len(store), [item["name"] for item in store.skipped]) == (3, ["a/broken.jpg"])


def test_arrays_and_datasets():
    images = torch.randint(0, 256, (4, 5, 8, 8), dtype=torch.uint8)
    store = as_store((images, [0, 1, 1, 0]))
    assert (store.num_channels, store.classes) == (5, ["0", "1"])
    assert torch.equal(store.images(), images)
    again = as_store([(image, int(label)) for image, label in zip(images, store.labels, strict=True)])
    assert torch.equal(again.images(), images)
    assert as_store(store) is store


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5), st.randoms())
def test_a_split_is_disjoint_complete_stratified_and_blind_to_order(labels, fraction, seed, random):
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


def test_sample_photos_keep_train_and_test_apart():
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
    with pytest.raises(DataError, match="does not hold Food-101 as torchvision lays it out"):
        list_food101(tmp_path, "train")
    with pytest.raises(ArgumentError, match="2 images, 1 labels"):
        ImageStore.from_arrays(images, [0])
    with pytest.raises(ArgumentError, match=r"labels must lie in 0\.\.0, got -1\.\.0"):
        ImageStore.from_arrays(images, [0, -1])
    with pytest.raises(ArgumentError, match="square images"):
        ImageStore.from_arrays(images[..., :4], [0, 0])
    with pytest.raises(ArgumentError, match="uint8 or floating"):
        ImageStore.from_arrays(images.long(), [0, 0])
    with pytest.raises(ArgumentError, match="come as an ImageStore"):
        as_store(3)
    with pytest.raises(ArgumentError, match="splits train and test"):
        sample_photos("val")
    for names, fraction, match in (
        (["a", "a"], 0.5, "distinct"),
        (["a"], 0.5, "1 names and 2"),
        (["a", "b"], 1.0, "between"),
    ):
        with pytest.raises(ArgumentError, match=match):
            holdout_split(names, [0, 0], fraction=fraction)


def test_a_photo_is_turned_as_its_camera_says(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    ramp = np.broadcast_to(np.arange(0, 240, 6, dtype=np.uint8)[:, None], (40, 60))
    Image.fromarray(ramp).save(folder / "b" / "turned.png", exif=exif)
    store = ImageStore.from_folder(folder, image_size=20, cache=tmp_path / "cache")
    with Image.open(folder / "b" / "turned.png") as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
        asis = opened.convert("RGB")
    expected, wrong = (F.pil_to_tensor(F.center_crop(F.resize(x, 20), 20)) for x in (image, asis))
    pixels = store[store.names.index("b/turned.png")][0]
    assert torch.equal(pixels, expected)
    assert not torch.equal(pixels, wrong)


def test_one_percent_may_be_unreadable(tmp_path):
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    for i in range(99):
        Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"{i:02d}.png")
    (folder / "x.png").write_bytes(b"no picture")
    store = ImageStore.from_folder(tmp_path / "photos", image_size=4, cache=tmp_path / "cache")
    assert (len(store), [item["name"] for item in store.skipped]) == (99, ["a/x.png"])
    assert store.skipped[0]["reason"].startswith("UnidentifiedImageError")
    assert store.images()[:, 0, 0, 0].tolist() == list(range(99))


def test_an_interrupted_decoding_leaves_nothing(folder, tmp_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssl_pretext.data.store._decoder", lambda size: stop)
    with pytest.raises(KeyboardInterrupt):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("index", [None, "{", "[]", '{"labels": 3}'])
def test_a_damaged_index_says_what_to_delete(folder, tmp_path, index):
    ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/index.json")
    path.unlink() if index is None else path.write_text(index)
    with pytest.raises(DataError, match="is damaged; delete that folder"):
        ImageStore.from_folder(folder, image_size=24, cache=tmp_path / "cache")


def test_food101_is_found_from_within(tmp_path, monkeypatch):
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


def test_labels_as_a_tensor_are_the_same_labels():
    names, labels = [str(i) for i in range(20)], [0] * 10 + [1] * 10
    assert holdout_split(names, torch.tensor(labels)) == holdout_split(names, labels)


def test_masks_and_fractions_are_no_indices_or_labels():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    store = ImageStore.from_arrays(images, torch.tensor([0, 1, 1, 0]))
    mask = store.labels == 1
    for choose in (store.images, store.subset):
        for wrong in (mask, mask.tolist(), [0.5]):
            with pytest.raises(ArgumentError, match="indices are a list of whole numbers"):
                choose(wrong)
    assert torch.equal(store.subset(mask.nonzero().flatten()).images(), images[1:3])
    assert store.images([]).shape == (0, 3, 8, 8)
    for labels in ([0.5] * 4, torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ArgumentError, match="labels are whole numbers"):
            ImageStore.from_arrays(images, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floats_become_float32(dtype):
    images = torch.rand(2, 3, 8, 8).to(dtype)
    stored = ImageStore.from_arrays(images, [0, 0]).images()
    assert stored.dtype == torch.float32
    assert torch.equal(stored, images.float())


def test_what_is_no_data_set_is_refused():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for wrong in (images, images.numpy(), "photos", {"a": 1}, [images, [0] * 4], []):
        with pytest.raises(ArgumentError, match="come as an ImageStore"):
            as_store(wrong)
    with pytest.raises(ArgumentError, match="PIL images or tensors, got ndarray"):
        as_store([(images[0].numpy(), 0)])
    with pytest.raises(ArgumentError, match="differ in size or dtype"):
        as_store([(images[0], 0), (images[0, :, :4, :4], 1)])


def test_sample_photos_name_the_extra(monkeypatch):
    from ssl_pretext.data import samples

    samples._load.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ssl-pretext\[benchmarks\]'"):
        sample_photos("test")
    samples._load.cache_clear()
