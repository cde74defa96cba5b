"""Who works in a folder: one process at a time where it must be, and nothing half written by killed ones stays.

Locks are the system's (`flock`), which goes with the process that holds it, however that ends.
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
LEFT_OVER = ("*.[0-9]*.part", "*.part-????????")  # half-written files of `replacing`, and stores that were being built

_claimed: ContextVar[frozenset[Path]] = ContextVar("exclusive_lock", default=frozenset())


class _Lock(NamedTuple):
    """A lock file, and whether the system keeps others from it."""

    file: IO[str]
    holds: bool


@contextmanager
def exclusive_lock(folder: Path, *parts: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if need be; within the block, it may be claimed again.

    What killed processes left half written in the folder, and in these parts of it, is removed. Under `torchrun` the
    first process claims it for all of them.

    Raises:
        FolderInUseError: Another process has claimed it; the message says which.
        StorageError: The folder cannot be written to.
    """
    real = folder.resolve()
    if rank_info().rank or real in _claimed.get():
        yield
        return
    with storage_errors(folder / LOCK_FILE):
        lock = _locked(folder / LOCK_FILE, alone=True, wait=False)
        if lock is None:
            holder = (folder / LOCK_FILE).read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise FolderInUseError(
                f"{folder} is in use by {holder}; wait until it is done, stop it, or choose another folder"
            )
        lock.file.truncate(0)
        lock.file.write(f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})\n")
        lock.file.flush()
        if lock.holds:  # else others may be writing
            for part in (folder, *(folder / name for name in parts)):
                _tidy(part)
    token = _claimed.set(_claimed.get() | {real})
    try:
        yield
    finally:
        _claimed.reset(token)
        _release(lock)


@contextmanager
def shared_lock(folder: Path) -> Iterator[None]:
    """Says that a folder is written to, as any number of processes may at once.

    What killed processes left half written is removed if nobody else is at work in it.

    Raises:
        StorageError: The folder cannot be written to.
    """
    with storage_errors(folder / LOCK_FILE):
        lock = _locked(folder / LOCK_FILE, alone=True, wait=False)
        if lock is not None and lock.holds:
            _tidy(folder)
        _release(lock)
        lock = _locked(folder / LOCK_FILE, alone=False, wait=True)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def waiting_lock(file: Path) -> Iterator[bool]:
    """One process after another, each of which waits for the one before; yields whether the system sees to that."""
    lock = _locked(file, alone=True, wait=True)
    try:
        yield lock is not None and lock.holds
    finally:
        _release(lock)


def _locked(path: Path, *, alone: bool, wait: bool) -> _Lock | None:
    """The lock of a file that is made for it; None if others keep us from it and are not waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # which has no such locks
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
            where = path.parent
            log.warning("%s is on a file system without locks (%s): see to it that no two runs share it", where, error)
            return _Lock(file, False)
        if os.fstat(file.fileno()).st_nlink:  # else its holder has removed it since it was opened
            return _Lock(file, True)
        file.close()


def _release(lock: _Lock | None) -> None:
    """Removes the lock file, unless others hold it too."""
    if lock is None:
        return
    if sys.platform == "win32":
        lock.file.close()
        return
    import fcntl

    with lock.file, suppress(OSError):
        fcntl.flock(lock.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(lock.file.name)


def _tidy(folder: Path) -> None:
    for pattern in LEFT_OVER:
        for left in folder.glob(pattern):
            log.info("removed %s, which a killed process left half written", left)
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
