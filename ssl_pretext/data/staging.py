"""Staging of decoded images: a folder that a killed build can resume, with the images grouped by their format."""

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

__all__ = ["StagedGroup", "Staging"]

MOST_GROUPS = 64  # a folder with more formats is not one of similar images with a few exceptions
BUFFER = 2**19
JOURNAL_FILE = "journal.jsonl"


class StagedGroup:
    """Images with the same channels, dtype and size, one after another in a file.

    Attributes:
        name: The name of the first image.
        about: What each image holds, in words.
        positions: The positions of the images in the listing.
        hashes: The hash of the pixels of each image.
        checksums: The checksum of the pixels of each image.
    """

    def __init__(self, file: Path, name: str, about: str, dtype: str, shape: Sequence[int]) -> None:
        self.file, self.name, self.about, self.dtype, self.shape = file, name, about, dtype, tuple(shape)
        self.nbytes = np.dtype(dtype).itemsize * int(np.prod(self.shape))
        self.positions: list[int] = []
        self.hashes: list[str] = []
        self.checksums: list[int] = []

    def append(self, position: int, hashed: str, summed: int) -> None:
        """Notes the next image."""
        self.positions.append(position)
        self.hashes.append(hashed)
        self.checksums.append(summed)


class Staging:
    """All decoded images of a listing, in one file per group, and a journal with a line for each image.

    If a killed process has left a staging folder, it is resumed from the first image of which something is missing.

    Args:
        folder: The folder of the files.

    Attributes:
        done: How many images were staged already when the folder was opened.
        unreadable: The reason why an image is in no group, by its position in the listing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups: dict[str, StagedGroup] = {}  # by what they hold
        self._open_group: StagedGroup | None = None
        self._file: IO[bytes] | None = None  # of the open group; only one at a time, since there may be many groups
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self._journal = (folder / JOURNAL_FILE).open("a", encoding="utf-8")
        self._resume(folder / JOURNAL_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._journal:
            if self._file is not None:
                self._file.close()

    def add(self, position: int, name: str, image: Decoded, hashed: str, summed: int) -> None:
        """Adds the next image of the listing to its group.

        Raises:
            DataError: There would be too many groups.
        """
        entry: list[object] = [hashed, summed]
        group = self._groups.get(image.about)
        if group is None:
            first = (name, image.about, image.pixels.dtype.name, image.pixels.shape)
            group = self._groups[image.about] = StagedGroup(self._folder / f"group{len(self._groups)}", *first)
            entry += first
            if len(self._groups) > MOST_GROUPS:
                raise self._disagreement()
        if group is not self._open_group or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file, self._open_group = group.file.open("ab", buffering=BUFFER), group
        self._file.write(image.pixels.data)
        group.append(position, hashed, summed)
        self._journal.write(json.dumps([group.file.name, *entry]) + "\n")

    def skip(self, position: int, reason: str) -> None:
        """Notes why the next image of the listing is in no group."""
        self.unreadable[position] = reason
        self._journal.write(json.dumps(reason) + "\n")

    def majority(self) -> tuple[StagedGroup | None, dict[int, str]]:
        """The group of more than half of the images, and the reason why each image of another group is left out.

        Raises:
            DataError: No group has so many.
        """
        if not self._groups:
            return None, {}
        group = max(self._groups.values(), key=lambda one: len(one.positions))
        others = [one for one in self._groups.values() if one is not group]
        if len(group.positions) <= sum(len(one.positions) for one in others):
            raise self._disagreement()
        return group, {
            position: f"it holds {one.about}, where most hold {group.about}"
            for one in others
            for position in one.positions
        }

    def _disagreement(self) -> DataError:
        first, second, *_ = self._groups.values()
        return DataError(
            f"{first.name} holds {first.about}, and {second.name} {second.about}. The images of a store have the same "
            "channels and dtype, and the same size unless image_size is given. A few exceptions are left out, but here "
            "no format is that of more than half of the images. Use one format, or separate folders."
        )

    def _resume(self, journal: Path) -> None:
        """Follows a journal until it or a group's file ends early, and cuts off what comes after."""
        groups: dict[str, StagedGroup] = {}
        length = 0
        with journal.open("rb") as lines, ExitStack() as opened:
            files: dict[str, IO[bytes]] = {}
            for line in lines:
                try:
                    entry = json.loads(line[: line.rindex(b"\n")])
                    if isinstance(entry, str):
                        self.unreadable[self.done] = entry
                    else:
                        file, hashed, summed, *first = entry
                        if first:
                            files[file] = opened.enter_context((self._folder / file).open("rb"))
                        group = StagedGroup(self._folder / file, *first) if first else groups[file]
                        if checksum(np.frombuffer(files[file].read(group.nbytes), np.uint8)) != summed:
                            break
                        groups[file] = self._groups[group.about] = group
                        group.append(self.done, hashed, summed)
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
