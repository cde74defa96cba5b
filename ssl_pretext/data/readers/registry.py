"""The registry of readers by the suffix of a file."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ssl_pretext.data.photo import Content, format_by_suffix
from ssl_pretext.data.readers.base import Reader
from ssl_pretext.data.temporary import is_readable
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Registry, joined, parse_spec

__all__ = ["READERS", "ReaderTable", "find_suffix", "is_dicom", "reader_suffixes", "register_reader"]

DICOM_START = 128  # bytes before the signature

R = TypeVar("R", bound=Callable[..., Reader])

READERS: Registry[Reader] = Registry("reader")  # by the suffix without its dot


def register_reader(suffixes: Iterable[str], reader: R) -> R:
    """Registers a reader for the files with some suffixes.

    Args:
        suffixes: The suffixes, such as `.fits` or `.nii.gz`, in lower case. Without its dot, each of them is the name
            of the reader in specs, such as `fits[hdu=1]`.
        reader: A `Reader` class or a function that returns a `Reader`, whose arguments are the options of the reader.

    Returns:
        `reader` itself.

    Raises:
        ArgumentError: A suffix has no dot in front, has upper-case letters, or belongs to another reader.

    Examples:
        >>> from ssl_pretext.data.readers import Array, LoadedFile, Reader, register_reader
        >>> class Bits(Reader):
        ...     def open(self, file):
        ...         return LoadedFile(Array(np.frombuffer(file.read_bytes(), np.uint8).reshape(1, 8, 8)))
        >>> register_reader([".bits"], Bits).__name__
        'Bits'
    """
    names = [suffixes] if isinstance(suffixes, str) else list(suffixes)
    for suffix in names:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ArgumentError(f"a suffix must start with a dot and be in lower case, such as '.fits', got {suffix!r}")
    for suffix in names:
        READERS.register(suffix[1:])(reader)
    return reader


def reader_suffixes() -> set[str]:
    """Returns the suffixes of the files that have a reader, such as `.nii.gz`."""
    return {f".{name}" for name in READERS.names()}


class ReaderTable:
    """The readers of files by their suffix, one of which may have options.

    Args:
        spec: The reader with options, which reads the files of all its suffixes; None if all have their defaults.

    Raises:
        UnknownNameError: There is no such reader.
        ArgumentError: The reader does not take the options.
    """

    def __init__(self, spec: str | None = None) -> None:
        self._spec = spec
        self._chosen = None if spec is None else READERS.create(spec)
        self._factory = None if spec is None else READERS.factory(parse_spec(spec)[0])
        self._readers: dict[str, Reader] = {}

    def find(self, name: str) -> Reader | None:
        """Returns the reader of a file by the longest suffix that has one; None if there is none."""
        suffix = find_suffix(name)
        if suffix is None:
            return None
        if suffix not in self._readers:
            factory = READERS.factory(suffix)
            self._readers[suffix] = (
                self._chosen if self._chosen and factory is self._factory else READERS.create(suffix)
            )
        return self._readers[suffix]

    def find_by_content(self, file: Path | Content) -> Reader | None:
        """Returns the reader of a file by its suffix, and that of DICOM if the suffix says nothing and it is one."""
        reader = self.find(file.name)
        if reader is None and file.suffix.lower() not in format_by_suffix() and is_dicom(file):
            return self.find(".dcm")
        return reader

    def is_chosen(self, reader: Reader | None) -> bool:
        """Whether a reader is the one that was named."""
        return reader is not None and reader is self._chosen

    def check_use(self, files: Iterable[Path | Content]) -> None:
        """Raises unless the reader that was named, if there is one, reads some of the files.

        Raises:
            ArgumentError: It reads none of them.
        """
        if self._chosen is None:
            return
        name = ""
        for file in files:
            name = file.name
            if self.is_chosen(self.find_by_content(file)):
                return
        known = joined([f".{suffix}" for suffix in READERS.names() if READERS.factory(suffix) is self._factory], "or")
        raise ArgumentError(
            f"reader={self._spec!r} reads files named {known}, and there are none; the images are named like {name}. "
            "Leave the reader out, or name the one for their suffix"
        )


def is_dicom(file: Path | Content) -> bool:
    """Whether a file is a DICOM file by its first bytes; False if it cannot be read."""
    if isinstance(file, Path) and not (file.is_file() and is_readable(file)):
        return False
    with file.open("rb") as opened:
        return opened.read(DICOM_START + 4)[DICOM_START:] == b"DICM"


def find_suffix(name: str) -> str | None:
    """Returns the longest suffix of a file name that has a reader, without its dot, such as `nii.gz`; or None."""
    _, *parts = os.path.basename(name).lower().split(".")
    tails = (".".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if tail in READERS), None)
