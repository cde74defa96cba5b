"""The errors of the library: one root, and a builtin parent for each so that ordinary `except` clauses work."""

from collections.abc import Mapping, Sequence

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "FolderInUseError",
    "MissingDependencyError",
    "MissingFileError",
    "NotFiniteError",
    "PretextError",
    "StorageError",
    "UnknownNameError",
]


class PretextError(Exception):
    """Root of every error that this library raises on purpose."""


class ArgumentError(PretextError, ValueError):
    """An argument has the wrong shape, type, range or combination."""


class UnknownNameError(PretextError, LookupError):
    """A name is not in a registry; the message lists the nearest and all known names."""


class DataError(PretextError, RuntimeError):
    """A data folder lacks the expected layout, or too many of its images cannot be read.

    Attributes:
        skipped: The images that cannot be read, `{"name", "reason"}` each.
    """

    skipped: Sequence[Mapping[str, str]] = ()


class CheckpointError(PretextError, RuntimeError):
    """A saved task, checkpoint or run folder does not fit what is asked of it."""


class MissingFileError(PretextError, FileNotFoundError):
    """A file that has to be fetched or written first is not there; the message says how to get it."""


class MissingDependencyError(PretextError, ImportError):
    """An optional dependency is not installed; the message names the `pip install` to run."""


class NotFiniteError(PretextError, FloatingPointError):
    """A loss, or the weights that came of it, are NaN or infinite; the message names step, files and checkpoint."""


class StorageError(PretextError, OSError):
    """The system does not let a file be written, such as on a full disk; what was there before is as it was."""


class FolderInUseError(PretextError, BlockingIOError):
    """Another process, which the message names, is at work in the folder."""
