"""Frozen configurations, and JSON files that are either whole or not there."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any

from typing_extensions import Self

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError

__all__ = [
    "Config",
    "check_regular",
    "finite",
    "hash_of_file",
    "hash_of_json",
    "read_json",
    "replacing",
    "whole_number",
    "write_json",
    "write_text",
]


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
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
