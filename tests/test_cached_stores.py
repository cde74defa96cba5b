"""What a cache folder contains, and how stores are deleted from it, in Python and on the command line."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import error_line
from PIL import Image

from ssl_pretext.cli import main
from ssl_pretext.data import ImageStore
from ssl_pretext.data.cached_stores import delete_stores, list_stores
from ssl_pretext.errors import DataError, StorageError
from ssl_pretext.system.locks import shared_lock

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder with the stores of two folders, and files that are not ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    for name, count in (("one", 3), ("two", 5)):
        Path(name).mkdir()
        for i in range(count):
            Image.fromarray(NOISE).save(Path(name, f"{i}.png"))
        ImageStore.from_folder(name, image_size=8, labeled=False)
    for name in ("notes.txt", "0123456789abcdef/keep.txt", f"{'z' * 24}/keep.txt"):
        (tmp_path / "cache" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cache" / name).write_text("not ours")
    return tmp_path / "cache"


def indices(cache):
    return [json.loads(path.read_text()) for path in cache.glob("*/index.json")]


def set_age(cache, folder, days):
    for path in cache.glob("*/index.json"):
        if json.loads(path.read_text())["folder"] == str(Path(folder).resolve()):
            os.utime(path, (time.time() - days * 86400,) * 2)


def test_a_store_says_what_it_is_of_and_when_it_was_used(cache):
    assert sorted(index["folder"] for index in indices(cache)) == [str(Path(name).resolve()) for name in ("one", "two")]
    before = time.time()
    set_age(cache, "one", 3)
    set_age(cache, "two", 9)
    one, two = list_stores(cache)
    assert (one.folder, two.folder) == (str(Path("one").resolve()), str(Path("two").resolve()))
    assert two.content == f"5 images of {two.folder}, 8×8 px"
    assert two.bytes == sum(path.stat().st_size for path in two.path.iterdir()) >= 5 * 3 * 8 * 8
    assert before - one.used == pytest.approx(3 * 86400, abs=60)
    ImageStore.from_folder("two", image_size=8, labeled=False)
    assert list_stores(cache)[0].used >= before - 1, "opening a store counts as its last use"


def test_where_a_store_is_made_its_place_and_size_are_logged(cache, caplog):
    with caplog.at_level("INFO"):
        store = ImageStore.from_folder("one", image_size=None, labeled=False)
        ImageStore.from_folder("one", image_size=None, labeled=False)
    (message,) = [record.message for record in caplog.records if "stored in" in record.message]
    made = list_stores(cache)[0]
    assert f"{len(store)} images of one are stored in {made.path} ({made.bytes / 1024:.1f} KiB); ssl-pretext" in message


def test_stores_of_a_cache_that_cannot_be_written_to_are_opened(cache):
    if os.geteuid() == 0:
        os.chmod(cache, 0o755)
    for path in cache.glob("*/index.json"):
        path.chmod(0o444)
    assert len(ImageStore.from_folder("one", image_size=8, labeled=False)) == 3


def test_what_is_left_of_stores_is_listed_and_deleted(cache, monkeypatch):
    for i in range(3):
        Path("one", f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError):
        ImageStore.from_folder("one", image_size=8, labeled=False)
    (cache / f"{'0' * 24}.part").mkdir()
    (cache / f"{'0' * 24}.part" / "group0").write_bytes(bytes(10))
    (cache / f"{'1' * 24}").mkdir()
    (cache / f"{'1' * 24}" / "index.json").write_text("{}")
    (cache / f"shards-{'2' * 24}.json").write_text("{}")
    stores = list_stores(cache)
    assert sorted(store.content.split(",")[0].split(" of ")[0] for store in stores) == [
        "3 images", "5 images", "a store", "an unfinished store", "the number", "the reasons why a folder was refused"
    ]  # fmt: skip
    delete_stores(cache, stores)
    assert sorted(path.name for path in cache.iterdir()) == ["0123456789abcdef", "notes.txt", "z" * 24]


def test_the_command_lists_and_deletes(cache, capsys):
    set_age(cache, "one", 40)
    assert main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[5:]) for line in lines[:2]] == [
        f"{count} images of {Path(name).resolve()}, 8×8 px" for name, count in (("two", 5), ("one", 3))
    ]
    assert lines[2].startswith("total: ")
    assert main(["cache", "clear", "--older-than", "50"]) == 0
    assert "deleted 0.0 bytes in" in capsys.readouterr().out
    assert main(["cache", "clear", "--older-than", "30"]) == 0
    assert "3 images of" in capsys.readouterr().out
    assert [index["folder"] for index in indices(cache)] == [str(Path("two").resolve())]
    assert main(["cache", "clear", "--data", "one"]) == 0
    assert main(["cache", "clear", "--data", "two/../two"]) == 0
    assert not indices(cache)
    assert (cache / "notes.txt").exists()
    assert main(["cache", "list", "--cache", "nowhere"]) == 0
    assert not Path("nowhere").exists()
    assert len(ImageStore.from_folder("two", image_size=8, labeled=False)) == 5


def test_wrong_requests_and_a_cache_in_use_are_refused(cache, capsys):
    assert "--older-than must be a number of days of at least 0" in error_line(
        capsys, "cache", "clear", "--older-than=-1"
    )
    assert "invalid choice 'purge'" in error_line(capsys, "cache", "purge")
    with shared_lock(cache):
        child = os.fork()
        if child == 0:
            os._exit(main(["cache", "clear"]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert len(indices(cache)) == 2


def test_a_store_that_cannot_be_deleted_is_an_error(cache, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(StorageError, match="Permission denied"):
        delete_stores(cache, list_stores(cache))
    assert len(indices(cache)) == 2
