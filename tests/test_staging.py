"""A build of a store that was stopped resumes at the first image whose data is incomplete."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.data import build
from ssl_pretext.data.build import digest
from ssl_pretext.data.checksums import checksum
from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.sources import Reading
from ssl_pretext.data.staging import JOURNAL_FILE, Staging

COUNT = 30


def image_at(place: int) -> Decoded | str:
    """The image at a place: mostly photos of one size, some of another size or with two bands, and some unreadable."""
    if place % 7 == 3:
        return f"no image:\n\udcff{place}"
    shape, dtype = {5: ((2, 4, 4), np.float32), 8: ((3, 2, 4), np.uint8)}.get(place % 9, ((3, 4, 4), np.uint8))
    pixels = np.random.default_rng(place).integers(0, 256, shape).astype(dtype)
    return Decoded(pixels, np.dtype(dtype).name)


def fill(folder: Path, end: int = COUNT) -> Staging:
    with Staging(folder) as staging:
        for place in range(staging.done, end):
            image = image_at(place)
            if isinstance(image, str):
                staging.skip(place, image)
            else:
                staging.add(place, str(place), image, digest(image.pixels), checksum(image.pixels))
    return staging


def contents(folder: Path, staging: Staging) -> dict[str, object]:
    majority, others = staging.majority()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"majority": {**vars(majority), "file": None}, "others": others, "unreadable": staging.unreadable}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    return folder, contents(folder, fill(folder))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), end=st.integers(0, COUNT))
def test_damaged_staging_folders_end_with_the_same_contents(data, end, complete, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    fill(folder, end)
    for path in sorted(folder.iterdir()):
        kind, size = data.draw(st.sampled_from(["intact", "cut", "zeros", "deleted"])), path.stat().st_size
        kept = path.read_bytes()[: data.draw(st.integers(0, size))]
        if kind == "deleted":
            path.unlink()
        elif kind != "intact":  # zeros are what a power failure may leave
            path.write_bytes(kept if kind == "cut" else kept.ljust(size, b"\0"))
    assert contents(folder, fill(folder)) == complete[1]
    shutil.rmtree(folder)


def test_staging_resumes_after_the_last_complete_image(complete, tmp_path):
    shutil.copytree(complete[0], tmp_path, dirs_exist_ok=True)
    assert fill(tmp_path).done == COUNT
    (tmp_path / JOURNAL_FILE).write_bytes((tmp_path / JOURNAL_FILE).read_bytes()[:-1])
    assert fill(tmp_path).done == COUNT - 1


def test_building_resumes_after_ctrl_c(tmp_path, monkeypatch):
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    photos.mkdir()
    for place in range(120):
        pixels = np.random.default_rng(place).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{place:03}.png")
    (photos / "050.png").write_bytes(b"no image")
    (photos / "051.png").rename(photos / "051.npy")

    def build_store(cache: Path) -> sp.ImageStore:
        return sp.ImageStore.from_folder(photos, image_size=8, labeled=False, cache=cache)

    expected = build_store(tmp_path / "complete")
    decoded, add = [], build.Staging.add

    def interrupted(staging, place, *rest):
        if place == 100:
            raise KeyboardInterrupt
        add(staging, place, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(build.Staging, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_store(cache)
    decode = build.decoder(Reading(image_size=8))
    monkeypatch.setattr(
        build, "decoder", lambda *_: lambda source: decoded.append(source.files[0].name) or decode(source)
    )
    again = build_store(cache)
    assert sorted(decoded) == [f"{place:03}.png" for place in range(100, 120)]
    assert (again.sha256, again.skipped) == (expected.sha256, expected.skipped)
    assert len(again) == 118
    (first,), (second,) = (tmp_path / "complete").iterdir(), cache.iterdir()
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }
