"""Staging folder of decoded images, grouped by format, from which a killed build can be resumed."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from typing_extensions import Self

from ssl_pretext.data.checksums import checksum
from ssl_pretext.data.decode import Decoded
from ssl_pretext.errors import DataError
from ssl_pretext.registry import joined

__all__ = ["StagedGroup", "Staging"]

MAX_GROUPS = 64  # a folder with more formats is not a set of similar images with a few exceptions
BUFFER = 2**19
JOURNAL_FILE = "journal.jsonl"


class StagedGroup:
    """Images with the same channels, dtype and size, stored one after another in a file.

    Attributes:
        file: File of the pixels.
        name: Name of the first image.
        description: Format of the images in words; see `Decoded.description`.
        dtype: Dtype of the pixels.
        shape: Shape of each image, `(C, H, W)`.
        nbytes: Size of each image in bytes.
        positions: Position of each image in the listing.
        hashes: Hash of the pixels of each image.
        checksums: Checksum of the pixels of each image.
        channel_names: Names of the channels of the first image, if it has them.
        disagreement: In words, which image has other names of its channels; None if none has.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        description: str,
        dtype: str,
        shape: Sequence[int],
        channel_names: Sequence[str] | None,
    ) -> None:
        self.file, self.name, self.description, self.dtype, self.shape = file, name, description, dtype, tuple(shape)
        self.channel_names = None if channel_names is None else tuple(channel_names)
        self.disagreement: str | None = None
        self.nbytes = np.dtype(dtype).itemsize * int(np.prod(self.shape))
        self.positions: list[int] = []
        self.hashes: list[str] = []
        self.checksums: list[int] = []

    def append(self, position: int, digest: str, crc: int) -> None:
        """Records the next image in the file."""
        self.positions.append(position)
        self.hashes.append(digest)
        self.checksums.append(crc)


class Staging:
    """All decoded images of a listing, with one file per group and a journal with one line per image.

    A staging folder that a killed process left behind is resumed at the first image whose data is incomplete.

    Args:
        folder: Folder of the files.
        buffer: Number of bytes of images that may be lost when the process is killed.

    Attributes:
        done: Number of images that were already staged when the folder was opened.
        unreadable: Reasons why images are in no group, by position in the listing.
        left_out: Positions of the tiles that are left out.
    """

    def __init__(self, folder: Path, *, buffer: int = BUFFER) -> None:
        self._folder, self._buffer = folder, buffer
        self._groups: dict[str, StagedGroup] = {}  # by format
        self._open_group: StagedGroup | None = None
        self._file: IO[bytes] | None = None  # file of the open group; one at a time, because there may be many groups
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self.left_out: list[int] = []
        self._journal = (folder / JOURNAL_FILE).open("a", encoding="utf-8")
        self._resume(folder / JOURNAL_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._journal:
            if self._file is not None:
                self._file.close()

    def add(self, position: int, name: str, image: Decoded, digest: str, crc: int) -> None:
        """Adds the next image of the listing to its group.

        Args:
            position: Position of the image in the listing.
            name: Name of the image.
            image: The decoded image.
            digest: Hash of the pixels.
            crc: Checksum of the pixels.

        Raises:
            DataError: There are too many groups.
        """
        entry: list[object] = [digest, crc]
        group = self._groups.get(image.description)
        if group is None:
            first = (name, image.description, image.pixels.dtype.name, image.pixels.shape, image.channel_names)
            group = self._groups[image.description] = StagedGroup(self._folder / f"group{len(self._groups)}", *first)
            entry += first
            if len(self._groups) > MAX_GROUPS:
                raise self._no_majority_error()
        elif group.disagreement is None and image.channel_names != group.channel_names:
            has, first_has = (
                joined(names or ["without names"]) for names in (image.channel_names, group.channel_names)
            )
            group.disagreement = f"{name} has the channels {has}, but {group.name} has {first_has}"
            entry.append(group.disagreement)
        if group is not self._open_group or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file, self._open_group = group.file.open("ab", buffering=self._buffer), group
        self._file.write(image.pixels.data)
        group.append(position, digest, crc)
        self._journal.write(json.dumps([group.file.name, *entry]) + "\n")

    def skip(self, position: int, reason: str) -> None:
        """Records why the next image of the listing is in no group."""
        self.unreadable[position] = reason
        self._journal.write(json.dumps(reason) + "\n")

    def leave_out(self, position: int) -> None:
        """Records that the next image of the listing is a tile that is left out."""
        self.left_out.append(position)
        self._journal.write("null\n")

    def majority(self) -> tuple[StagedGroup | None, dict[int, str]]:
        """Returns the group with more than half of the images.

        Returns:
            The group, or None if there are no images; and the reasons why the images of other groups are skipped, by
            position in the listing.

        Raises:
            DataError: No group has more than half of the images.
        """
        if not self._groups:
            return None, {}
        group = max(self._groups.values(), key=lambda group: len(group.positions))
        others = [other for other in self._groups.values() if other is not group]
        if len(group.positions) <= sum(len(other.positions) for other in others):
            raise self._no_majority_error()
        return group, {
            position: f"the image has {other.description}, but most images have {group.description}"
            for other in others
            for position in other.positions
        }

    def _no_majority_error(self) -> DataError:
        first, second, *_ = self._groups.values()
        return DataError(
            f"{first.name} has {first.description}, but {second.name} has {second.description}. Images of a store must "
            "have the same channels and dtype, and the same size unless image_size is given. A few exceptions are "
            "skipped, but here no format is shared by more than half of the images. Use one format or separate folders."
        )

    def _resume(self, journal: Path) -> None:
        """Reads the journal up to the first image that is incomplete in it or in its group, and truncates the rest."""
        groups: dict[str, StagedGroup] = {}
        length = 0
        with journal.open("rb") as lines, ExitStack() as opened:
            files: dict[str, IO[bytes]] = {}
            for line in lines:
                try:
                    entry = json.loads(line[: line.rindex(b"\n")])
                    if entry is None:
                        self.left_out.append(self.done)
                    elif isinstance(entry, str):
                        self.unreadable[self.done] = entry
                    else:
                        file, digest, crc, *first = entry
                        disagreement = first.pop() if len(first) == 1 else None
                        if first:
                            files[file] = opened.enter_context((self._folder / file).open("rb"))
                        group = StagedGroup(self._folder / file, *first) if first else groups[file]
                        if checksum(np.frombuffer(files[file].read(group.nbytes), np.uint8)) != crc:
                            break
                        groups[file] = self._groups[group.description] = group
                        group.append(self.done, digest, crc)
                        group.disagreement = group.disagreement or disagreement
                except (ValueError, OSError):
                    break
                self.done += 1
                length += len(line)
        os.truncate(journal, length)
        for path in self._folder.glob("group*"):
            if path.name in groups:
                os.truncate(path, groups[path.name].nbytes * len(groups[path.name].positions))
            else:
                path.unlink()
