"""Failures that say nothing about a file stop the work or are tried again; they never leave a file out for good."""

import errno
import os
import shutil
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, UnidentifiedImageError

from ssl_pretext.cli import main
from ssl_pretext.data import ImageStore, ImageStream, opening
from ssl_pretext.data.temporary import temporary_error
from ssl_pretext.errors import DataError, MissingDependencyError, ReadError

COUNT = 6


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    return folder


def opened(photos, **options):
    options = {"image_size": 8, "labeled": False, "cache": photos.parent / "cache"} | options
    return ImageStore.from_folder(photos, **options)


def torch_memory_error():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), ReadError),
        (IndexError(), None),
        (OSError("out of memory when reading image file"), ReadError),  # Pillow
        (torch_memory_error(), ReadError),
        (ImportError("no module"), MissingDependencyError),
        (MissingDependencyError("pip install x"), MissingDependencyError),
        *((OSError(number, os.strerror(number)), ReadError) for number in (5, 13, 23, 24, 28, 110, 116, 121)),
        *((OSError(number, os.strerror(number)), None) for number in (errno.ENOENT, errno.ELOOP, errno.EINVAL)),
        (OSError("image file is truncated"), None),
        (UnidentifiedImageError("cannot identify"), None),
        (EOFError(), None),
        (tarfile.ReadError("truncated"), None),
    ],
    ids=repr,
)
def test_errors_of_the_machine_are_told_from_errors_of_the_file(error, kind):
    found = temporary_error(error, "a.png")
    assert type(found) is (kind or type(None))


def test_a_missing_package_stops_the_build_which_continues_when_it_is_installed(photos, monkeypatch):
    tifffile.imwrite(photos / "3.tif", np.zeros((3, 8, 8), np.uint16), photometric="minisblack")
    decoded = []
    open_photo = opening.open_photo
    monkeypatch.setattr(opening, "open_photo", lambda path: decoded.append(path.name) or open_photo(path))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tifffile", None)
        with pytest.raises(
            MissingDependencyError, match=r"3\.tif needs tifffile: pip install .ssl-pretext\[microscopy\]"
        ):
            opened(photos)
    store = opened(photos)
    assert (len(store), [item["name"] for item in store.skipped]) == (COUNT, ["3.tif"])  # it has another format
    assert [decoded.count(f"{i}.png") for i in range(4)] == [1] * 4, "what was decoded before the error is kept"


@pytest.mark.parametrize("error", [MemoryError(), *(OSError(n, os.strerror(n)) for n in (5, 13, 24, 107))], ids=repr)
def test_a_failure_of_the_machine_stops_the_build(photos, monkeypatch, error):
    open_photo = opening.open_photo

    def failing(path):
        if path.name == "4.png":
            raise error
        return open_photo(path)

    with monkeypatch.context() as patch:
        patch.setattr(opening, "open_photo", failing)
        with pytest.raises(ReadError, match=r"4\.png cannot be read now: .*repeat the call, or move the file"):
            opened(photos)
    store = opened(photos)
    assert (len(store), store.skipped) == (COUNT, [])
    assert store.images()[:, 0, 0, 0].tolist() == list(range(COUNT))


def test_a_file_on_a_broken_disk_ends_the_command_like_a_full_disk(photos, monkeypatch, capsys):
    (photos / "x.png").symlink_to("/proc/self/mem")  # the system reports an error of input or output
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(photos.parent / "cache"))
    assert main(["pretrain", "--data", str(photos), "--out", str(photos.parent / "run"), "--image-size", "16"]) == 1
    assert "x.png cannot be read now: Input/output error. This says nothing" in capsys.readouterr().err
    with pytest.raises(ReadError):
        opened(photos)
    (photos / "x.png").unlink()
    assert len(opened(photos)) == COUNT


@contextmanager
def without_rights():
    """Gives up the rights of root, who may read every file."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public(photos):
    """The photos in a folder that other users may read, beside a cache that they may write to."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o777)
        yield Path(shutil.copytree(photos, root / "photos"))


def test_files_without_rights_are_left_out_only_as_long_as_they_are(public):
    (public / "2.png").chmod(0)
    (public / "deep").mkdir()
    shutil.move(public / "3.png", public / "deep" / "3.png")
    (public / "deep").chmod(0)
    with without_rights():
        store = opened(public)
        assert [(item["name"], item["reason"].split(":")[0]) for item in store.skipped] == [
            ("2.png", "PermissionError"), ("deep", "PermissionError")
        ]  # fmt: skip
    if os.geteuid() == 0:  # another user, who may read all, does not get the store without these images
        assert (len(opened(public)), opened(public).skipped) == (COUNT, [])
    (public / "2.png").chmod(0o644)
    with without_rights():
        assert len(opened(public)) == COUNT - 1
    (public / "deep").chmod(0o755)
    with without_rights():
        assert len(opened(public)) == COUNT


def test_a_folder_that_cannot_be_listed_now_is_not_left_out(photos, monkeypatch):
    (photos / "deep").mkdir()
    listing = os.scandir

    def failing(path):
        if str(path).endswith("deep"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        with pytest.raises(ReadError, match="deep cannot be read now: Input/output error"):
            opened(photos)


def test_a_store_that_cannot_be_opened_now_is_not_called_damaged(photos, monkeypatch):
    opened(photos)
    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOMEM, "no memory")))
        with pytest.raises(ReadError, match="cannot be read now"):
            opened(photos)
    assert len(opened(photos)) == COUNT


def test_a_shard_that_cannot_be_read_now_is_not_counted(photos, monkeypatch):
    shard = photos.parent / "photos.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(photos, "photos")
    options = {"image_size": 8, "cache": photos.parent / "cache"}
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "next", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(ReadError, match=r"photos\.tar cannot be read now: broken"):
            ImageStream(str(shard), **options)
    assert len(ImageStream(str(shard), **options)) == COUNT


def test_a_stream_reads_an_image_again_that_did_not_fit_into_memory(photos, monkeypatch):
    shard = photos.parent / "photos.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(photos, "photos")
    stream = ImageStream(str(shard), image_size=8, cache=photos.parent / "cache")
    open_photo, failed = opening.open_photo, []

    def failing(path):
        if path.name.endswith("4.png") and not failed:
            failed.append(path)
            raise MemoryError
        return open_photo(path)

    monkeypatch.setattr(opening, "open_photo", failing)
    passes = stream.read(seed=None, epoch=0, rank=0, world=1)
    found = [next(passes)[0] for _ in range(2 * COUNT - 1)]
    assert [name.endswith("4.png") for name in found].count(True) == 1
    assert "not enough memory" in stream.skipped[0]["reason"]


def test_damaged_files_are_still_left_out(photos):
    for i in range(COUNT):
        (photos / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="6 of 6 images cannot be read"):
        opened(photos)
