"""Locks of folders, and removal of partial files that killed processes left."""

import os
import signal
import threading
import time

import pytest

from ssl_pretext.errors import FolderInUseError, PretextError, StorageError
from ssl_pretext.system.locks import LOCK_FILE, exclusive_lock, shared_lock


def holding(folder, lock=exclusive_lock):
    """Starts a process that holds the lock of a folder until it is killed; returns its process id."""
    ready, send = os.pipe()
    if child := os.fork():
        os.close(send)
        os.read(ready, 1)
        os.close(ready)
        return child
    try:
        with lock(folder):
            os.write(send, b"1")
            time.sleep(60)
    finally:
        os._exit(1)


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_is_locked_by_one_process_until_it_is_killed(tmp_path):
    child = holding(tmp_path / "run")
    try:
        with pytest.raises(FolderInUseError, match=rf"run is in use by process {child} on .*; wait until it is done"):
            exclusive_lock(tmp_path / "run").__enter__()
    finally:
        kill(child)
    assert (tmp_path / "run" / LOCK_FILE).exists()  # the killed process could not remove it
    with exclusive_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
    assert not list((tmp_path / "run").iterdir())
    assert issubclass(FolderInUseError, PretextError)
    assert issubclass(FolderInUseError, BlockingIOError)


def test_a_lock_is_reentrant_but_not_in_another_thread(tmp_path):
    errors = []

    def other():
        try:
            with exclusive_lock(tmp_path):
                pass
        except FolderInUseError as error:
            errors.append(str(error))

    with exclusive_lock(tmp_path), exclusive_lock(tmp_path / "." / "x" / ".."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1
    other()
    assert len(errors) == 1


def test_partial_files_are_removed_unless_the_folder_is_in_use(tmp_path):
    def leave_partial_files():
        for partial in (tmp_path / "history.json.123.part", tmp_path / "task" / "a.safetensors.7.part"):
            partial.parent.mkdir(exist_ok=True)
            partial.write_text("partial")
        (tmp_path / "key.part-0a1b2c3d").mkdir(exist_ok=True)
        (tmp_path / "key.part-0a1b2c3d" / "pixels").write_text("partial")
        for complete in ("a.part", "b.1.part.txt", "c.json"):
            (tmp_path / complete).write_text("complete")

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    child = holding(tmp_path, shared_lock)
    try:
        leave_partial_files()
        everything = names()
        with shared_lock(tmp_path):  # any number of processes may hold it
            assert {*names()} == {*everything, LOCK_FILE}
    finally:
        kill(child)
    with shared_lock(tmp_path):
        assert names() == [LOCK_FILE, "a.part", "b.1.part.txt", "c.json", "task"]
    assert LOCK_FILE not in names()
    leave_partial_files()
    with exclusive_lock(tmp_path, "task", "none"):
        assert names() == [LOCK_FILE, "a.part", "b.1.part.txt", "c.json", "task"]
        assert not list((tmp_path / "task").iterdir())


def test_a_shared_lock_prevents_an_exclusive_lock(tmp_path):
    child = holding(tmp_path, shared_lock)
    try:
        with pytest.raises(FolderInUseError, match="is in use by another process; wait"):
            exclusive_lock(tmp_path).__enter__()
    finally:
        kill(child)


def test_a_lock_file_that_its_holder_removes_is_not_used(tmp_path, monkeypatch):
    import fcntl

    lock, calls = fcntl.flock, []

    def remove_first(file, how):
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(file)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with exclusive_lock(tmp_path):
        assert os.fstat(calls[1].fileno()).st_ino == (tmp_path / LOCK_FILE).stat().st_ino


def test_a_file_system_without_locks_is_logged(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    partial = tmp_path / "a.json.1.part"  # another process may be writing it
    partial.touch()
    with exclusive_lock(tmp_path), shared_lock(tmp_path):
        pass
    assert partial.exists()
    assert "is on a file system without locks ([Errno 95] Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/run/\.lock: Not a directory"):
        exclusive_lock(tmp_path / "file" / "run").__enter__()
