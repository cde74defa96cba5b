"""Building a store that was stopped goes on from the first image of which something is missing."""

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
from ssl_pretext.data.staging import JOURNAL_FILE, Staging

COUNT = 30


def nth(place: int) -> Decoded | str:
    """Mostly small photos, and among them some of another size, others with two bands, and unreadable ones."""
    if place % 7 == 3:
        return f"no image:\n\udcff{place}"
    shape, dtype = {5: ((2, 4, 4), np.float32), 8: ((3, 2, 4), np.uint8)}.get(place % 9, ((3, 4, 4), np.uint8))
    pixels = np.random.default_rng(place).integers(0, 256, shape).astype(dtype)
    return Decoded(pixels, np.dtype(dtype).name)


def fill(folder: Path, until: int = COUNT) -> Staging:
    with Staging(folder) as staging:
        for place in range(staging.done, until):
            image = nth(place)
            if isinstance(image, str):
                staging.skip(place, image)
            else:
                staging.add(place, str(place), image, digest(image.pixels), checksum(image.pixels))
    return staging


def found(folder: Path, staging: Staging) -> dict[str, object]:
    most, others = staging.majority()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"most": {**vars(most), "file": None}, "others": others, "unreadable": staging.unreadable}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, found(folder, fill(folder))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), until=st.integers(0, COUNT))
def test_files_that_were_cut_anywhere_end_the_same(data, until, whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    fill(folder, until)
    for path in sorted(folder.iterdir()):
        kind, size = data.draw(st.sampled_from(["whole", "cut", "zeros", "gone"])), path.stat().st_size
        kept = path.read_bytes()[: data.draw(st.integers(0, size))]
        if kind == "gone":
            path.unlink()
        elif kind != "whole":  # zeros are what a computer that lost its power leaves
            path.write_bytes(kept if kind == "cut" else kept.ljust(size, b"\0"))
    assert found(folder, fill(folder)) == whole[1]
    shutil.rmtree(folder)


def test_staging_resumes_after_all_that_is_whole(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    assert fill(tmp_path).done == COUNT
    (tmp_path / JOURNAL_FILE).write_bytes((tmp_path / JOURNAL_FILE).read_bytes()[:-1])
    assert fill(tmp_path).done == COUNT - 1


def test_a_store_goes_on_from_where_ctrl_c_stopped_it(tmp_path, monkeypatch):
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    photos.mkdir()
    for place in range(120):
        pixels = np.random.default_rng(place).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{place:03}.png")
    (photos / "050.png").write_bytes(b"no image")
    (photos / "051.png").rename(photos / "051.npy")

    def built(where: Path) -> sp.ImageStore:
        return sp.ImageStore.from_folder(photos, image_size=8, labeled=False, cache=where)

    expected = built(tmp_path / "whole")
    decoded, add = [], build.Staging.add

    def interrupted(staging, place, *rest):
        if place == 100:
            raise KeyboardInterrupt
        add(staging, place, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(build.Staging, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            built(cache)
    decode = build.decoder(8, None)
    monkeypatch.setattr(build, "decoder", lambda *_: lambda path: decoded.append(path.name) or decode(path))
    again = built(cache)
    assert sorted(decoded) == [f"{place:03}.png" for place in range(100, 120)]
    assert (again.sha256, again.skipped) == (expected.sha256, expected.skipped)
    assert len(again) == 118
    (one,), (other,) = (tmp_path / "whole").iterdir(), cache.iterdir()
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
