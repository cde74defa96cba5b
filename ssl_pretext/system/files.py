"""Files that are written atomically and read strictly: JSON, text and bytes, with checksums and free disk space."""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssl_pretext.errors import CheckpointError, MissingFileError, PretextError, StorageError

__all__ = [
    "WRITING",
    "atomic_write",
    "check_free_space",
    "check_regular_file",
    "checksum_matches",
    "file_sha256",
    "finite_json",
    "json_sha256",
    "read_json",
    "storage_errors",
    "with_checksum",
    "write_bytes",
    "write_json",
    "write_text",
]

WRITING = threading.RLock()  # held while a file is written, for whoever would end the process meanwhile
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "bytes": 1}


def check_regular_file(path: Path) -> None:
    """Raises unless there is a file at `path` that reading will not wait for, as for a pipe.

    Raises:
        MissingFileError: There is nothing.
        CheckpointError: It is a folder, a pipe or a device.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file; remove it, and write or fetch the right one")


def read_json(path: Path, *, most_bytes: int | None = None) -> Any:
    """Reads a JSON file, strictly: no key stands twice, and every number is finite.

    Args:
        path: Of the file.
        most_bytes: A larger file is refused, before it is read.

    Raises:
        MissingFileError: There is none.
        CheckpointError: It cannot be read, or is broken, or too large.
    """
    try:
        check_regular_file(path)
        if most_bytes is not None and (size := path.stat().st_size) > most_bytes:
            raise CheckpointError(f"{path} has {size:,} bytes, more than the {most_bytes:,} that such a file may have")
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_not_json)
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); it may be damaged") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def json_sha256(value: Any) -> str:
    """A hash of a JSON-ready value, however it is laid out in a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_checksum(value: Mapping[str, Any], key: str = "sha256") -> dict[str, Any]:
    """A JSON-ready mapping with a hash of itself under a key, so that a change to it is noticed."""
    return {**value, key: json_sha256(value)}


def checksum_matches(value: Mapping[str, Any], key: str = "sha256") -> bool:
    """Whether a mapping is as `with_checksum` made it."""
    return bool(value.get(key) == json_sha256({name: item for name, item in value.items() if name != key}))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            total.update(piece)
    return total.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically; a number that is not finite, which JSON does not know, becomes null."""
    write_text(path, json.dumps(finite_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically; bytes of file names that are not UTF-8 become `\\udc80` and the like.

    JSON reads those as what they were.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes | memoryview, *, sync: bool = False) -> None:
    """Writes bytes, atomically; see `atomic_write`."""
    with atomic_write(path, needed=len(content), sync=sync) as part:
        part.write_bytes(content)


@contextmanager
def atomic_write(path: Path, *, needed: int | None = None, sync: bool = False) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end, so that a reader never sees half of it.

    Args:
        path: What is written.
        needed: Its size in bytes, where it is known.
        sync: Wait until it is on the disk, so that it outlives a power cut too; takes milliseconds.

    Raises:
        StorageError: It could not be written; what was at `path` is as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with WRITING, storage_errors(path, needed=needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if sync:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # one that would hide the reason
                part.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Says what could not be written, and how much room there is, where the system refuses.

    Args:
        path: What is written within the block.
        needed: Its size in bytes, where it is known.

    Raises:
        StorageError: On an `OSError` that is none of this library's.
    """
    try:
        yield
    except PretextError:
        raise
    except OSError as error:
        if error.errno is None:  # raised by somebody's code, and not by the system
            raise
        if isinstance(error.__context__, StorageError):  # what went wrong first, and not in tidying up after it
            raise error.__context__ from None
        room = "" if needed is None else f" It takes {_size(needed)}."
        with suppress(OSError):
            place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
            room += f" There {_size(shutil.disk_usage(place).free)} are free."
        refusal = StorageError(f"cannot write {path}: {error.strerror or error}.{room} What was there is as it was.")
        refusal.errno = error.errno
        raise refusal from error


def check_free_space(folder: Path, needed: int) -> None:
    """Refuses a folder on a disk with less room than `needed` bytes, before any work is done for it.

    Raises:
        StorageError: There is less room.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise StorageError(
            f"{folder.parent} has no room: {_size(needed)} are needed, and {_size(free)} are free. Make room, or "
            "choose a folder elsewhere."
        )


def _size(count: int) -> str:
    return next(f"{count / unit:.1f} {name}" for name, unit in UNITS.items() if count >= unit or unit == 1)


def finite_json(value: Any) -> Any:
    """A JSON-ready value as `write_json` writes it: null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
