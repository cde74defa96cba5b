"""Atomic writing and strict reading of files, with checksums and checks of the free disk space."""

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ssl_pretext.errors import CheckpointError, MissingFileError, PretextError, StorageError

__all__ = [
    "WRITE_LOCK",
    "atomic_write",
    "check_free_space",
    "check_regular_file",
    "checksum_matches",
    "file_sha256",
    "finite_json",
    "folder_size",
    "format_size",
    "json_sha256",
    "read_json",
    "reserved_temporary_file",
    "storage_errors",
    "with_checksum",
    "write_bytes",
    "write_json",
    "write_text",
]

WRITE_LOCK = threading.RLock()  # held while a file is written; code that ends the process acquires it first
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "bytes": 1}


def check_regular_file(path: Path) -> None:
    """Raises unless `path` is a regular file; reading a pipe or a device could block.

    Raises:
        MissingFileError: The path does not exist.
        CheckpointError: The path is a folder, a pipe or a device.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; remove it, and write or download the file again")


def read_json(path: Path, *, max_bytes: int | None = None) -> Any:
    """Reads a JSON file strictly: duplicate keys and numbers that are not finite are errors.

    Args:
        path: Path of the file.
        max_bytes: Size limit in bytes; a larger file is not read.

    Raises:
        MissingFileError: The file does not exist.
        CheckpointError: The file cannot be read, is not valid JSON, or is too large.
    """
    try:
        check_regular_file(path)
        if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
            raise CheckpointError(f"{path} has {size:,} bytes, more than the limit of {max_bytes:,} for this file")
        return json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys, parse_constant=_reject_constant
        )
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); the file may be damaged") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def json_sha256(value: Any) -> str:
    """Computes a hash of a JSON-serializable value, independent of the order of keys and of the layout of a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_checksum(value: Mapping[str, Any], key: str = "sha256") -> dict[str, Any]:
    """Returns a JSON-serializable mapping with a hash of itself under a key, so that changes can be detected."""
    return {**value, key: json_sha256(value)}


def checksum_matches(value: Mapping[str, Any], key: str = "sha256") -> bool:
    """Whether a mapping is unchanged since `with_checksum` returned it."""
    return bool(value.get(key) == json_sha256({name: item for name, item in value.items() if name != key}))


def file_sha256(path: Path) -> str:
    """Computes the SHA-256 of the bytes of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            total.update(piece)
    return total.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON atomically; numbers that are not finite, which JSON does not have, become null."""
    write_text(path, json.dumps(finite_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    r"""Writes text as UTF-8 atomically.

    Bytes of file names that are not UTF-8 are written as escapes such as `\udc80`, which JSON reads back unchanged.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes | memoryview, *, sync: bool = False) -> None:
    """Writes bytes atomically; see `atomic_write`."""
    with atomic_write(path, needed=len(content), sync=sync) as part:
        part.write_bytes(content)


@contextmanager
def atomic_write(path: Path, *, needed: int | None = None, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` at the end; readers never see a partial file.

    Args:
        path: Path of the file to write.
        needed: Size of the file in bytes if it is known, for error messages.
        sync: Whether to wait until the file is on the disk, so that it survives a power failure; this takes
            milliseconds.

    Raises:
        StorageError: The file could not be written; the previous file at `path`, if any, is unchanged.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with WRITE_LOCK, storage_errors(path, needed=needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if sync:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # an error here would hide the first one
                part.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Converts errors of the operating system in the block to a `StorageError` that reports the free disk space.

    Args:
        path: Path of the file that is written in the block.
        needed: Size of the file in bytes if it is known.

    Raises:
        StorageError: The block raised an `OSError` of the operating system.
    """
    try:
        yield
    except PretextError:
        raise
    except OSError as error:
        if error.errno is None:  # raised by Python code and not by the operating system
            raise
        if isinstance(error.__context__, StorageError):  # the first error, not the one raised during cleanup
            raise error.__context__ from None
        space = "" if needed is None else f" The file needs {format_size(needed)}."
        with suppress(OSError):
            place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
            space += f" {format_size(shutil.disk_usage(place).free)} are free on the disk."
        failure = StorageError(f"cannot write {path}: {error.strerror or error}.{space} Existing files are unchanged.")
        failure.errno = error.errno
        raise failure from error


def check_free_space(folder: Path, needed: int) -> None:
    """Raises unless the disk of a folder has `needed` bytes free; called before work whose result is stored there.

    Raises:
        StorageError: The disk has less free space.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise StorageError(
            f"not enough disk space in {folder.parent}: {format_size(needed)} are needed, and {format_size(free)} "
            "are free. Delete files, or choose a folder on another disk."
        )


@contextmanager
def reserved_temporary_file(size: int, what: str) -> Iterator[IO[bytes]]:
    """Yields an unnamed temporary file of `size` bytes, whose room on the disk is reserved, for a memory map.

    Writing to a memory map whose file has no room ends the process with SIGBUS, without a message.

    Args:
        size: Size of the file in bytes.
        what: What the file is for, in the plural, for the message.

    Raises:
        StorageError: The disk has no room for the file.
    """
    try:
        with tempfile.TemporaryFile() as file:
            _reserve(file, size)
            yield file
    except OSError as error:
        place = tempfile.tempdir or "the folder for temporary files"
        free = f", which has {format_size(shutil.disk_usage(place).free)} free" if tempfile.tempdir else ""
        raise StorageError(
            f"the {what} need {format_size(size)} in {place}{free}: {error.strerror or error}. Delete files, or set "
            "the environment variable TMPDIR to a folder on a disk with more room"
        ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        # macOS and Windows do not have the function, and some file systems do not support it.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        zeros = bytes(2**20)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()


def format_size(count: int) -> str:
    """Returns a number of bytes in words, such as `1.5 GiB`."""
    return next(f"{count / unit:.1f} {name}" for name, unit in UNITS.items() if count >= unit or unit == 1)


def folder_size(folder: Path) -> int:
    """Returns the size in bytes of the files in a folder and its subfolders, or of a file."""
    return sum(path.stat().st_size for path in (folder, *folder.rglob("*")) if path.is_file())


def finite_json(value: Any) -> Any:
    """Returns a JSON-serializable value as `write_json` writes it: None replaces numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
