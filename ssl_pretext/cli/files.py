"""Options as YAML files, and the list of files that could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ssl_pretext.errors import ArgumentError, DataError, MissingFileError
from ssl_pretext.system.files import write_json, write_text

__all__ = ["noting_skipped", "read_options", "write_options", "write_skipped"]


def read_options(path: Path) -> dict[str, Any]:
    """Options by name, words joined by underscores.

    Raises:
        MissingFileError: There is no such file.
        ArgumentError: It holds something else.
    """
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist; expected a YAML file of options") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(options, dict):
        raise ArgumentError(f"{path} holds no options; write one a line, such as 'epochs: 16'")
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def write_options(path: Path, options: Mapping[str, Any]) -> None:
    """Writes options so that `read_options` reads them."""
    write_text(path, yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))


def write_skipped(folder: Path, skipped: Sequence[Mapping[str, str]]) -> str:
    """Writes `skipped.json`, empty or not; returns what to say of it."""
    write_json(folder / "skipped.json", skipped)
    return f"; unreadable and skipped: {len(skipped)}, see {folder / 'skipped.json'}" if skipped else ""


@contextmanager
def noting_skipped(folder: Path) -> Iterator[None]:
    """Writes `skipped.json` where a data folder is refused because of what cannot be read."""
    try:
        yield
    except DataError as error:
        if error.skipped:
            write_skipped(folder, error.skipped)
        raise
