"""The journal of a search: the steps that are finished, from which an interrupted search continues."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import read_json, write_json

__all__ = ["Journal"]

T = TypeVar("T")


class Journal:
    """Runs the steps of a search, each of them once, and keeps what they return in a file.

    Args:
        file: File of the journal.
        settings: Settings that a search must share with the one that began the journal, fit for JSON.

    Raises:
        CheckpointError: The file holds another search, or is damaged.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, settings
        self.steps: dict[str, Any] = {}
        self.before, self.start = 0.0, time.perf_counter()
        if not file.exists():
            return
        content = read_json(file)
        if not isinstance(content, dict) or not {"settings", "steps", "seconds"} <= {*content}:
            raise CheckpointError(f"{file} does not hold the journal of a search; it may be damaged")
        known = content["settings"]
        if differing := [name for name, value in settings.items() if known.get(name) != value]:
            raise CheckpointError(
                f"{file.parent} holds another search, with other settings ({', '.join(differing)}); search with the "
                "same settings to continue it, or choose another folder"
            )
        self.steps, self.before = content["steps"], content["seconds"]

    @property
    def seconds(self) -> float:
        """The time that the search has taken, with that before interruptions, but without steps that were killed."""
        return self.before + time.perf_counter() - self.start

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Returns what a step returned before, or runs it and keeps what it returns, which must be fit for JSON."""
        if name not in self.steps:
            try:
                self.steps[name] = work()
            finally:  # also after Ctrl-C, because the time counts
                write_json(self.file, {"settings": self.settings, "seconds": self.seconds, "steps": self.steps})
        return cast(T, self.steps[name])

    def discard(self) -> None:
        """Deletes the file, so that a search with other settings can begin."""
        self.file.unlink(missing_ok=True)
