"""Decoded images put apart by what they hold, until it is known what most of them are."""

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

__all__ = ["Pile", "Piles"]

MOST_PILES = 64  # beyond it a folder is not one of like images with a few others among them
BUFFER = 2**19
JOURNAL_FILE = "journal.jsonl"


class Pile:
    """Images that agree in channels, kind of number and size, one after another in a file.

    Attributes:
        name: Of the first one.
        about: What each of them holds, in words.
        places: Of the images in the folder's listing.
        hashes: Of their pixels.
        checksums: Of their pixels.
    """

    def __init__(self, file: Path, name: str, about: str, dtype: str, shape: Sequence[int]) -> None:
        self.file, self.name, self.about, self.dtype, self.shape = file, name, about, dtype, tuple(shape)
        self.nbytes = np.dtype(dtype).itemsize * int(np.prod(self.shape))
        self.places: list[int] = []
        self.hashes: list[str] = []
        self.checksums: list[int] = []

    def put(self, place: int, hashed: str, summed: int) -> None:
        """Takes note of the next image."""
        self.places.append(place)
        self.hashes.append(hashed)
        self.checksums.append(summed)


class Piles:
    """All piles of a folder, in files that stay there, and a journal with a line for each image of a listing.

    Where they were begun by a process that was killed, they go on from the first image of which something is missing.

    Args:
        folder: Where they are written.

    Attributes:
        done: How many images the piles began with.
        unreadable: Why images lie on no pile, by their place in the listing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._piles: dict[str, Pile] = {}  # by what they hold
        self._last: Pile | None = None
        self._file: IO[bytes] | None = None  # of the last one; one at a time, since there may be many
        self.done = 0
        self.unreadable: dict[int, str] = {}
        self._journal = (folder / JOURNAL_FILE).open("a", encoding="utf-8")
        self._take_up(folder / JOURNAL_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._journal:
            if self._file is not None:
                self._file.close()

    def add(self, place: int, name: str, image: Decoded, hashed: str, summed: int) -> None:
        """Puts the next image of the listing onto the pile of those like it.

        Raises:
            DataError: There would be too many piles.
        """
        entry: list[object] = [hashed, summed]
        pile = self._piles.get(image.about)
        if pile is None:
            first = (name, image.about, image.pixels.dtype.name, image.pixels.shape)
            pile = self._piles[image.about] = Pile(self._folder / f"pile{len(self._piles)}", *first)
            entry += first
            if len(self._piles) > MOST_PILES:
                raise self._disagreement()
        if pile is not self._last or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file, self._last = pile.file.open("ab", buffering=BUFFER), pile
        self._file.write(image.pixels.data)
        pile.put(place, hashed, summed)
        self._journal.write(json.dumps([pile.file.name, *entry]) + "\n")

    def leave_out(self, place: int, reason: str) -> None:
        """Takes note of why the next image of the listing lies on no pile."""
        self.unreadable[place] = reason
        self._journal.write(json.dumps(reason) + "\n")

    def most(self) -> tuple[Pile | None, dict[int, str]]:
        """The pile of more than half of the images, and why each of the others does not lie on it.

        Raises:
            DataError: No pile has so many.
        """
        if not self._piles:
            return None, {}
        pile = max(self._piles.values(), key=lambda one: len(one.places))
        others = [one for one in self._piles.values() if one is not pile]
        if len(pile.places) <= sum(len(one.places) for one in others):
            raise self._disagreement()
        return pile, {
            place: f"it holds {one.about}, where most hold {pile.about}" for one in others for place in one.places
        }

    def _disagreement(self) -> DataError:
        first, second, *_ = self._piles.values()
        return DataError(
            f"{first.name} holds {first.about}, and {second.name} {second.about}; the images of one store agree in "
            "channels and kind of number, and in size unless image_size is given. A few others among many are left "
            "out, but here no kind is that of most. Bring them to one, or apart."
        )

    def _take_up(self, journal: Path) -> None:
        """Follows a journal until it or a pile ends early, and cuts off what lies behind."""
        piles: dict[str, Pile] = {}
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
                        pile = Pile(self._folder / file, *first) if first else piles[file]
                        if checksum(np.frombuffer(files[file].read(pile.nbytes), np.uint8)) != summed:
                            break
                        piles[file] = self._piles[pile.about] = pile
                        pile.put(self.done, hashed, summed)
                except (ValueError, OSError):
                    break
                self.done += 1
                length += len(line)
        os.truncate(journal, length)
        for path in self._folder.glob("pile*"):
            if path.name in piles:
                os.truncate(path, piles[path.name].nbytes * len(piles[path.name].places))
            else:
                path.unlink()
