"""Frozen configurations, and JSON files that are either whole or not there."""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, PretextError, StorageError

__all__ = [
    "WRITING",
    "Config",
    "check_regular",
    "check_room",
    "finite",
    "hash_of_file",
    "hash_of_json",
    "read_json",
    "replacing",
    "seal_holds",
    "sealed",
    "storing",
    "whole_number",
    "write_bytes",
    "write_json",
    "write_text",
]

WRITING = threading.RLock()  # held while a file is written, for whoever would end the process meanwhile
UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "bytes": 1}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: a frozen dataclass that checks itself on construction."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the configuration from a mapping, refusing keys that it does not have."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ArgumentError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain, JSON-ready values."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def whole_number(what: str, value: object, *, least: int = 1) -> int:
    """Checks an argument that counts something; True and 2.0 count nothing.

    Raises:
        ArgumentError: It is no whole number, or less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{what} is a whole number of at least {least}, got {value!r}")
    return int(value)


def check_regular(path: Path) -> None:
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
        check_regular(path)
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


def hash_of_json(value: Any) -> str:
    """A hash of a JSON-ready value, however it is laid out in a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(value: Mapping[str, Any], key: str = "sha256") -> dict[str, Any]:
    """A JSON-ready mapping with a hash of itself under a key, so that a change to it is noticed."""
    return {**value, key: hash_of_json(value)}


def seal_holds(value: Mapping[str, Any], key: str = "sha256") -> bool:
    """Whether a mapping is as `sealed` made it."""
    return bool(value.get(key) == hash_of_json({name: item for name, item in value.items() if name != key}))


def hash_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            total.update(piece)
    return total.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically; a number that is not finite, which JSON does not know, becomes null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically; bytes of file names that are not UTF-8 become `\\udc80` and the like.

    JSON reads those as what they were.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes | memoryview, *, lasting: bool = False) -> None:
    """Writes bytes, atomically; see `replacing`."""
    with replacing(path, needed=len(content), lasting=lasting) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, needed: int | None = None, lasting: bool = False) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end, so that a reader never sees half of it.

    Args:
        path: What is written.
        needed: Its size in bytes, where it is known.
        lasting: Wait until it is on the disk, so that it outlives a power cut too; takes milliseconds.

    Raises:
        StorageError: It could not be written; what was at `path` is as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with WRITING, storing(path, needed=needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            if lasting:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # one that would hide the reason
                part.unlink(missing_ok=True)


@contextmanager
def storing(path: Path, *, needed: int | None = None) -> Iterator[None]:
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


def check_room(folder: Path, needed: int) -> None:
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


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def finite(value: Any) -> Any:
    """A JSON-ready value as `write_json` writes it: null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
