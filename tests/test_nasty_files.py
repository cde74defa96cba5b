"""Nasty files: each one is read correctly, or skipped with a reason while the other images are used."""

import contextlib
import itertools
import json
import os
import re

import numpy as np
import pytest
from nasty_files import KINDS, PNG, good, rgb
from PIL import Image

from ssl_pretext.cli import main
from ssl_pretext.data import ImageStore, as_store, holdout_split, list_folder
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import ArgumentError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")

NEEDS_RIGHTS = {"forbidden.jpg", "closed"}
HERE = [kind for kind in KINDS if os.geteuid() or kind.name not in NEEDS_RIGHTS]


@pytest.fixture(autouse=True)
def bounded():
    """Limits the memory, so that reading gigabytes fails on every machine."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def opened(root, **options):
    return ImageStore.from_folder(
        root / "data", **{"image_size": 8, "labeled": False, "cache": root / "cache"} | options
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id or kind.name)
def test_each_kind_is_read_or_skipped_with_a_reason(tmp_path, kind):
    if kind not in HERE:
        pytest.skip("root can read every file")
    (tmp_path / "data").mkdir()
    names = good(tmp_path / "data", kind.among)
    kind.make(tmp_path / "data" / kind.name)
    store = opened(tmp_path)
    if isinstance(kind.expected, str):
        assert store.names == names
        ((name, reason),) = [item.values() for item in store.skipped]
        assert name == kind.name
        assert re.search(kind.expected, reason)
    else:
        assert (sorted(store.names), store.skipped) == (sorted([*names, kind.name]), [])
        pixels = store[store.names.index(kind.name)][0].numpy()
        np.testing.assert_allclose(pixels, kind.expected, rtol=0, atol=kind.tolerance)


@pytest.fixture
def all_kinds(tmp_path):
    """A folder with all kinds of files, whose name is not UTF-8, and the kind of each file (None for good ones)."""
    folder = tmp_path / "made"
    kinds = {}
    for among in ("photos", "arrays"):
        (folder / among).mkdir(parents=True)
        kinds |= {f"{among}/{name}": None for name in good(folder / among, among)}
        for kind in HERE:
            if kind.among == among:
                kind.make(folder / among / kind.name)
                kinds[f"{among}/{kind.name}"] = kind
    return folder.rename(tmp_path / "d\udcffta"), kinds


def arrays_among_photos(kinds):
    """The arrays that are only skipped because they are in a folder of photos."""
    readable = {name for name, kind in kinds.items() if kind is None or not isinstance(kind.expected, str)}
    return {name for name in readable if name.startswith("arrays/")}


def test_all_kinds_in_one_folder(all_kinds, tmp_path, caplog):
    folder, kinds = all_kinds
    store = ImageStore.from_folder(folder, image_size=8, labeled=False, cache=tmp_path / "cache")
    reasons = {item["name"]: item["reason"] for item in store.skipped}
    assert len(kinds) > 120
    assert len(store.names) == len({*store.names})
    assert {*store.names} | {*reasons} == {*kinds}
    assert not {*store.names} & {*reasons}
    for name, kind in kinds.items():
        if name in arrays_among_photos(kinds):
            assert "but most images have 3 channels of uint8, 8×8 pixels" in reasons[name]
        elif kind is not None and name in reasons:
            assert re.search(kind.expected, reasons[name]) or "but most images have" in reasons[name]
        elif kind is not None and kind.among == "photos":
            pixels = store[store.names.index(name)][0].numpy()
            np.testing.assert_allclose(pixels, kind.expected, rtol=0, atol=kind.tolerance)
    assert [record.levelname for record in caplog.records if "images were skipped: " in record.message] == ["WARNING"]
    again = ImageStore.from_folder(folder, image_size=8, labeled=False, cache=tmp_path / "cache")
    assert (again.names, again.skipped, again.sha256) == (store.names, store.skipped, store.sha256)
    kept, held_out = holdout_split(store.names, store.labels)
    assert len(kept) + len(held_out) == len(store)


def test_pretraining_skips_nasty_files(all_kinds, tmp_path, monkeypatch, capsys):
    folder, kinds = all_kinds
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    small = ["--image-size", "16", "--epochs", "1", "--device", "cpu"]
    assert main(["pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), *small]) == 0
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text(encoding="utf-8"))
    assert all(item["reason"] for item in skipped)
    store = ImageStore.from_folder(folder, image_size=16, labeled=False)
    assert {item["name"] for item in skipped} == {*kinds} - {*store.names}
    assert f"unreadable and skipped: {len(skipped)}, see" in capsys.readouterr().out
    assert (tmp_path / "run" / "task" / "model.safetensors").exists()


def test_too_many_unreadable_images_are_refused_with_reasons(tmp_path, capsys, monkeypatch):
    (tmp_path / "data").mkdir()
    good(tmp_path / "data", "photos")
    (tmp_path / "data" / "x.png").write_bytes(b"no image")
    match = r"1 of 4 images cannot be read, more than 20%: x\.png: Unid.*skipped\.json lists all of them"
    with pytest.raises(DataError, match=match) as caught:
        opened(tmp_path, max_unreadable=0.2)
    (reasons,) = (tmp_path / "cache").iterdir()
    assert str(reasons) in str(caught.value)
    assert json.loads(reasons.read_text()) == list(caught.value.skipped)
    assert [item["name"] for item in caught.value.skipped] == ["x.png"]
    assert [item["name"] for item in opened(tmp_path, max_unreadable=0.25).skipped] == ["x.png"]
    with pytest.raises(ArgumentError, match="max_unreadable must be a fraction between 0 and 1, got 2"):
        opened(tmp_path, max_unreadable=2)
    for name in ("good0.png", "good1.png", "good2.png"):
        (tmp_path / "data" / name).write_bytes(b"")
    with pytest.raises(DataError, match="4 of 4 images cannot be read: good0"):
        opened(tmp_path, max_unreadable=1.0)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    assert main(["pretrain", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    assert "4 of 4 images cannot be read" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "run" / "skipped.json").read_text())) == 4


def test_the_majority_determines_the_format(tmp_path):
    """The first image, which has another format here, does not."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", np.zeros((5, 8, 8), np.uint16))
    good(tmp_path / "data", "photos")
    store = opened(tmp_path)
    assert (len(store), store.num_channels, [item["name"] for item in store.skipped]) == (3, 3, ["a.npy"])
    (made,) = (tmp_path / "cache").iterdir()
    assert sorted(file.name for file in made.iterdir()) == ["images.u8", "index.json"]
    five = opened(tmp_path, channels=5)
    assert (five.names, len(five.skipped)) == (["a.npy"], 3)
    assert five.skipped[0]["reason"] == "the image has 3 channels of uint8, 8×8 pixels, but channels=5 was requested"
    for i in range(70):
        np.save(tmp_path / "data" / f"{i}.npy", np.zeros((1, 1 + i, 8), np.uint8))
    with pytest.raises(
        DataError, match="has 1 channel of uint8, 1×8 pixels, but 1.npy .* here no format is shared by more than half"
    ):
        opened(tmp_path, image_size=None)
    assert not list((tmp_path / "cache").glob("*.part*"))


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("elsewhere/deep", "data/b"):
        (tmp_path / name).mkdir(parents=True)
    rgb().save(tmp_path / "elsewhere" / "deep" / "1.png")
    rgb().save(tmp_path / "data" / "b" / "2.png")
    links = {"a": "b", "c": "../elsewhere", "d": "../elsewhere/deep", "b/loop": "..", "up": "..", "root": "/"}
    for link, target in links.items():
        (tmp_path / "data" / link).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to("../data")
    listing = list_folder(tmp_path / "data")
    assert (listing.names, listing.classes) == (["b/2.png", "c/deep/1.png"], ["b", "c"])
    assert [item["name"] for item in listing.skipped] == ["a", "b/loop", "c/back", "d", "root", "up"]
    assert {item["reason"] for item in listing.skipped} == {
        "the link points to a folder that is already included, or to a parent of the data folder"
    }


def test_a_folder_with_only_hidden_images_is_refused(tmp_path):
    rgb().save(tmp_path / ".1.png")
    with pytest.raises(DataError, match=r"holds no images; .*; skipped \.1\.png: the file or folder is hidden"):
        list_folder(tmp_path, labeled=False)


def test_deep_images_in_memory_are_arrays():
    deep = np.array([[0, 256, 65535]], np.uint16)
    for values in (deep, deep.astype(np.float32) / 3):
        np.testing.assert_array_equal(as_store([(Image.fromarray(values), 0)]).images()[0, 0], values)
    with pytest.raises(ArgumentError, match="grayscale with more than 8 bits .*mode I"):
        as_store([(Image.new("I", (2, 2)), 0)])


def test_flipped_bits_in_a_png_are_detected(tmp_path):
    """Decoding alone does not detect some of them, so PNG files are also verified."""
    decode, undetected = decoder(Reading()), 0
    for place, mask in itertools.product(range(33, len(PNG)), (1, 128)):  # after the header
        content = bytearray(PNG)
        content[place] ^= mask
        (tmp_path / "x.png").write_bytes(content)
        decoded = decode(tmp_path / "x.png")
        assert isinstance(decoded, str) or np.array_equal(decoded.pixels, np.moveaxis(np.asarray(rgb()), -1, 0))
        with contextlib.suppress(Exception), Image.open(tmp_path / "x.png") as image:
            undetected += not np.array_equal(np.asarray(image), np.asarray(rgb()))
    assert undetected
