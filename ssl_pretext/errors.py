"""The exceptions of the library: all derive from `PretextError`, and each from the matching built-in exception too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "FolderInUseError",
    "MissingDependencyError",
    "MissingFileError",
    "NotFiniteError",
    "PretextError",
    "ReadError",
    "StorageError",
    "UnknownChannelsError",
    "UnknownNameError",
]


class PretextError(Exception):
    """Base class of all errors that this library raises deliberately."""


class ArgumentError(PretextError, ValueError):
    """An argument has a wrong shape, type or value, or does not fit the other arguments."""


class UnknownNameError(PretextError, LookupError):
    """A name is unknown; the message lists similar names or all known names."""


class UnknownChannelsError(UnknownNameError):
    """A channel or a channel space is unknown; the message lists those that are known."""


class DataError(PretextError, RuntimeError):
    """A data folder does not have the expected layout, or too many of its images cannot be read.

    Attributes:
        skipped: The images that cannot be read, each as a mapping with the keys `"name"` and `"reason"`.
        splits: The folders of the splits, if the data folder contains splits, such as `train` and `test`, instead of
            classes.
    """

    skipped: Sequence[Mapping[str, str]] = ()
    splits: Sequence[Path] = ()


class CheckpointError(PretextError, RuntimeError):
    """A saved task, checkpoint or run folder is invalid, or does not fit the call."""


class MissingFileError(PretextError, FileNotFoundError):
    """A required file does not exist; the message says how to get it."""


class MissingDependencyError(PretextError, ImportError):
    """An optional dependency is not installed; the message names the `pip install` to run."""


class NotFiniteError(PretextError, FloatingPointError):
    """A loss or the weights became NaN or infinite; the message names the step, the files and the checkpoint."""


class ReadError(PretextError, OSError):
    """A file could not be read for a reason that says nothing about the file, such as missing memory or a broken disk.

    The same call may succeed later.
    """


class StorageError(PretextError, OSError):
    """A file could not be written, for example because the disk is full; the previous file is unchanged."""


class FolderInUseError(PretextError, BlockingIOError):
    """Another process is using the folder; the message names it."""
