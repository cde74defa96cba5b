"""Frozen configurations, and JSON files that are either whole or not there."""

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

__all__ = ["Config", "read_json", "replacing", "whole_number", "write_json", "write_text"]


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


def read_json(path: Path) -> Any:
    """Reads a JSON file, with an error that names the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); it may be damaged") from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically; a number that is not finite, which JSON does not know, becomes null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
