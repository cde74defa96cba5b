"""Decoded images put apart by what they hold, until it is known what most of them are."""

from pathlib import Path
from types import TracebackType
from typing import IO, Any

from typing_extensions import Self

from ssl_pretext.data.decode import Decoded
from ssl_pretext.errors import DataError

__all__ = ["Pile", "Piles"]

MOST_PILES = 64  # beyond it a folder is not one of like images with a few others among them
BUFFER = 2**19


class Pile:
    """Images that agree in channels, kind of number and size, one after another in a file.

    Attributes:
        name: Of the first one.
        about: What each of them holds, in words.
        places: Of the images in the folder's listing.
        hashes: Of their pixels.
        checksums: Of their pixels.
    """

    def __init__(self, file: Path, name: str, image: Decoded) -> None:
        self.file, self.name, self.about = file, name, describe(image)
        self.dtype, self.shape = image.pixels.dtype.name, image.pixels.shape
        self.places: list[int] = []
        self.hashes: list[str] = []
        self.checksums: list[int] = []


class Piles:
    """All piles of a folder, in files that `close` leaves there.

    Args:
        folder: Where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._piles: dict[tuple[str, tuple[int, ...]], Pile] = {}
        self._last: Pile | None = None
        self._file: IO[bytes] | None = None  # of the last one; one at a time, since there may be many

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, place: int, name: str, image: Decoded, hashed: str, summed: int) -> None:
        """Puts an image onto the pile of those like it.

        Raises:
            DataError: There would be too many piles.
        """
        key = (image.kind, image.pixels.shape)
        pile = self._piles.get(key)
        if pile is None:
            pile = self._piles[key] = Pile(self._folder / f"pile{len(self._piles)}", name, image)
            if len(self._piles) > MOST_PILES:
                raise self._disagreement()
        if pile is not self._last or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file, self._last = pile.file.open("ab", buffering=BUFFER), pile
        self._file.write(image.pixels.data)
        pile.places.append(place)
        pile.hashes.append(hashed)
        pile.checksums.append(summed)

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


def describe(image: Any) -> str:
    """What an image holds, in words."""
    channels, height, width = image.pixels.shape
    return f"{channels} channels of {image.kind}, {height}×{width} pixels"
