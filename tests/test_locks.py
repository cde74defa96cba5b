"""Locks of folders, and what killed processes leave in them."""

import os
import signal
import threading
import time

import pytest

from ssl_pretext.errors import FolderInUseError, PretextError, StorageError
from ssl_pretext.system.locks import LOCK_FILE, exclusive_lock, shared_lock


def holding(folder, lock=exclusive_lock):
    """The process id of another process that works in the folder, until it is killed."""
    ready, says = os.pipe()
    if child := os.fork():
        os.close(says)
        os.read(ready, 1)
        os.close(ready)
        return child
    try:
        with lock(folder):
            os.write(says, b"1")
            time.sleep(60)
    finally:
        os._exit(1)


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_is_claimed_by_one_process_and_by_none_that_was_killed(tmp_path):
    child = holding(tmp_path / "run")
    try:
        with pytest.raises(FolderInUseError, match=rf"run is in use by process {child} on .*; wait until it is done"):
            exclusive_lock(tmp_path / "run").__enter__()
    finally:
        kill(child)
    assert (tmp_path / "run" / LOCK_FILE).exists()  # nobody was left to remove it
    with exclusive_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
    assert not list((tmp_path / "run").iterdir())
    assert issubclass(FolderInUseError, PretextError)
    assert issubclass(FolderInUseError, BlockingIOError)


def test_a_claim_holds_within_itself_but_not_in_another_thread(tmp_path):
    refused = []

    def other():
        try:
            with exclusive_lock(tmp_path):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    with exclusive_lock(tmp_path), exclusive_lock(tmp_path / "." / "x" / ".."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


def test_only_what_nobody_writes_is_removed(tmp_path):
    def litter():
        for left in (tmp_path / "history.json.123.part", tmp_path / "task" / "a.safetensors.7.part"):
            left.parent.mkdir(exist_ok=True)
            left.write_text("half")
        (tmp_path / "key.part-0a1b2c3d").mkdir(exist_ok=True)
        (tmp_path / "key.part-0a1b2c3d" / "pixels").write_text("half")
        for mine in ("a.part", "b.1.part.txt", "c.json"):
            (tmp_path / mine).write_text("whole")

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    child = holding(tmp_path, shared_lock)
    try:
        litter()
        everything = names()
        with shared_lock(tmp_path):  # any number may
            assert {*names()} == {*everything, LOCK_FILE}
    finally:
        kill(child)
    with shared_lock(tmp_path):
        assert names() == [LOCK_FILE, "a.part", "b.1.part.txt", "c.json", "task"]
    assert LOCK_FILE not in names()
    litter()
    with exclusive_lock(tmp_path, "task", "none"):
        assert names() == [LOCK_FILE, "a.part", "b.1.part.txt", "c.json", "task"]
        assert not list((tmp_path / "task").iterdir())


def test_who_shares_keeps_out_who_claims(tmp_path):
    child = holding(tmp_path, shared_lock)
    try:
        with pytest.raises(FolderInUseError, match="is in use by another process; wait"):
            exclusive_lock(tmp_path).__enter__()
    finally:
        kill(child)


def test_a_lock_file_that_its_holder_removes_meanwhile_is_no_lock(tmp_path, monkeypatch):
    import fcntl

    lock, taken = fcntl.flock, []

    def removed_first(file, how):
        if not taken:
            (tmp_path / LOCK_FILE).unlink()
        taken.append(file)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with exclusive_lock(tmp_path):
        assert os.fstat(taken[1].fileno()).st_ino == (tmp_path / LOCK_FILE).stat().st_ino


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    left = tmp_path / "a.json.1.part"  # which somebody may be writing
    left.touch()
    with exclusive_lock(tmp_path), shared_lock(tmp_path):
        pass
    assert left.exists()
    assert "is on a file system without locks ([Errno 95] Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/run/\.lock: Not a directory"):
        exclusive_lock(tmp_path / "file" / "run").__enter__()
