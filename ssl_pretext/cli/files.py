"""Files of the commands: options in YAML, and the list of images that could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ssl_pretext.errors import ArgumentError, DataError, MissingFileError
from ssl_pretext.system.files import write_json, write_text

__all__ = ["read_options", "read_yaml", "write_options", "write_skipped", "write_skipped_on_error"]


class _OptionLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """A loader of YAML that refuses aliases: a few lines of them can stand for more values than fit into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{alias.anchor} is not supported; write the value itself", alias.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Reads the values in a YAML file.

    Raises:
        MissingFileError: The file does not exist.
        ArgumentError: The file is not valid YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OptionLoader)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist; it should be a YAML file") from error
    # YAML's own errors are no ValueErrors, but those of impossible dates and of numbers with thousands of digits are.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error


def read_options(path: Path) -> dict[str, Any]:
    """Reads options from a YAML file; hyphens in their names become underscores.

    Raises:
        MissingFileError: The file does not exist.
        ArgumentError: The file is not valid YAML, or it is not a mapping from names to values.
    """
    options = read_yaml(path)
    if not isinstance(options, dict):
        raise ArgumentError(f"{path} contains no options; write one per line, such as 'epochs: 16'")
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def write_options(path: Path, options: Mapping[str, Any]) -> None:
    """Writes options to a YAML file, which `read_options` can read."""
    write_text(path, yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))


def write_skipped(folder: Path, skipped: Sequence[Mapping[str, str]]) -> str:
    """Writes the unreadable images to `skipped.json`, even if there are none; returns a note for the log."""
    write_json(folder / "skipped.json", skipped)
    return f"; unreadable and skipped: {len(skipped)}, see {folder / 'skipped.json'}" if skipped else ""


@contextmanager
def write_skipped_on_error(folder: Path) -> Iterator[None]:
    """Writes `skipped.json` when a data folder is refused because too many of its images are unreadable."""
    try:
        yield
    except DataError as error:
        if error.skipped:
            write_skipped(folder, error.skipped)
        raise
