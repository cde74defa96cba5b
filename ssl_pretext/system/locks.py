"""Locks of folders, which keep processes apart and remove partial files of processes that were killed.

The locks are those of the operating system (`flock`), which releases them when the process that holds them ends, for
whatever reason.
"""

import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, NamedTuple

from ssl_pretext.errors import FolderInUseError
from ssl_pretext.system.files import storage_errors
from ssl_pretext.system.processes import rank_info

__all__ = ["LOCK_FILE", "exclusive_lock", "shared_lock", "waiting_lock"]

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
PARTIAL_FILES = ("*.[0-9]*.part", "*.part-????????")  # partial files of `atomic_write` and partial stores

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())  # folders locked by this thread


class _Lock(NamedTuple):
    """An open lock file.

    Attributes:
        file: The lock file.
        enforced: Whether the operating system enforces the lock; False on systems without file locks.
    """

    file: IO[str]
    enforced: bool


@contextmanager
def exclusive_lock(folder: Path, *parts: str) -> Iterator[None]:
    """Locks a folder for this process; the folder is created if it is missing, and the lock is reentrant.

    Partial files that killed processes left in the folder and its `parts` are removed. Under `torchrun`, rank 0 holds
    the lock for all processes.

    Args:
        folder: Folder to lock.
        parts: Names of subfolders from which partial files are removed too.

    Raises:
        FolderInUseError: Another process holds the lock; the message names it.
        StorageError: The folder is not writable.
    """
    real = folder.resolve()
    if rank_info().rank or real in _held.get():
        yield
        return
    with storage_errors(folder / LOCK_FILE):
        lock = _acquire(folder / LOCK_FILE, alone=True, wait=False)
        if lock is None:
            holder = (folder / LOCK_FILE).read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise FolderInUseError(
                f"{folder} is in use by {holder}; wait until it is done, stop it, or choose another folder"
            )
        lock.file.truncate(0)
        lock.file.write(f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})\n")
        lock.file.flush()
        if lock.enforced:  # without locks, another process may still be writing these files
            for part in (folder, *(folder / name for name in parts)):
                _remove_partial_files(part)
    token = _held.set(_held.get() | {real})
    try:
        yield
    finally:
        _held.reset(token)
        _release(lock)


@contextmanager
def shared_lock(folder: Path) -> Iterator[None]:
    """Marks a folder as in use by this process; any number of processes may hold this lock at once.

    Partial files that killed processes left in the folder are removed if no other process uses the folder.

    Args:
        folder: Folder to lock; it is created if it is missing.

    Raises:
        StorageError: The folder is not writable.
    """
    with storage_errors(folder / LOCK_FILE):
        lock = _acquire(folder / LOCK_FILE, alone=True, wait=False)
        if lock is not None and lock.enforced:
            _remove_partial_files(folder)
        _release(lock)
        lock = _acquire(folder / LOCK_FILE, alone=False, wait=True)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def waiting_lock(file: Path) -> Iterator[bool]:
    """Waits until no other process holds the lock of a file, and then holds it.

    Args:
        file: The lock file; it is created if it is missing.

    Yields:
        Whether the operating system enforces the lock.
    """
    lock = _acquire(file, alone=True, wait=True)
    try:
        yield lock is not None and lock.enforced
    finally:
        _release(lock)


def _acquire(path: Path, *, alone: bool, wait: bool) -> _Lock | None:
    """Creates and locks a file; returns None if another process holds the lock and `wait` is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # Windows has no `flock`
        return _Lock(path.open("a", encoding="utf-8", errors="backslashreplace"), False)
    import fcntl

    while True:
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            message = "%s is on a file system without locks (%s): make sure that only one run at a time uses it"
            log.warning(message, path.parent, error)
            return _Lock(file, False)
        if os.fstat(file.fileno()).st_nlink:  # otherwise its holder removed the file after it was opened here
            return _Lock(file, True)
        file.close()


def _release(lock: _Lock | None) -> None:
    """Releases a lock, and removes the lock file unless other processes hold it too."""
    if lock is None:
        return
    if sys.platform == "win32":
        lock.file.close()
        return
    import fcntl

    with lock.file, suppress(OSError):
        fcntl.flock(lock.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(lock.file.name)


def _remove_partial_files(folder: Path) -> None:
    for pattern in PARTIAL_FILES:
        for path in folder.glob(pattern):
            log.info("removed %s, a partial file of a process that was killed", path)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
