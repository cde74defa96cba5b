"""Which images a folder holds, in an order that does not depend on the file system."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssl_pretext.errors import ArgumentError, DataError

__all__ = ["Listing", "list_folder", "list_food101"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp"}
HIDDEN = "it is hidden: its name starts with a dot, or is that of a folder for the notes of macOS"


@dataclass(frozen=True)
class Listing:
    """Image files with their classes, sorted by name.

    Attributes:
        names: Of each image, relative to the folder and without its suffix where the data set has it so.
        paths: Its file.
        labels: Its class, an index into `classes`.
        classes: Names of the classes.
        skipped: What looks like images and is left out, `{"name", "reason"}` each.
    """

    names: list[str]
    paths: list[Path]
    labels: list[int]
    classes: list[str]
    skipped: list[dict[str, str]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """A hash of classes, names, labels, sizes and times of change: another one means that the images may differ."""
        lines = ["\t".join(self.classes), *(item["name"] for item in self.skipped)]
        for name, path, label in zip(self.names, self.paths, self.labels, strict=True):
            try:
                stat = path.stat()
                lines.append(f"{name}\t{label}\t{stat.st_size}\t{stat.st_mtime_ns}")
            except OSError:
                lines.append(f"{name}\t{label}\tunreadable")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_folder(folder: str | Path, *, labeled: bool = True) -> Listing:
    """Lists a folder with one folder of images per class.

    Args:
        folder: Its class folders may be nested; the outermost one is the class.
        labeled: False takes the images at any depth, the folder's own too, as the one class `"unlabeled"`.

    Raises:
        DataError: There is no such folder, it holds no images, or some of them are in no class folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no data folder {root}")
    search = _Search(root)
    found = sorted(search.images())
    names, paths = found, [root / name for name in found]
    skipped = sorted(search.skipped, key=lambda item: item["name"])
    if not found:
        where = " in class folders" if labeled else ""
        left_out = f"; left out: {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(
            f"{root} holds no images{where}; expected {root}/{'CLASS/' if labeled else ''}NAME.jpg "
            f"(or {', '.join(sorted(SUFFIXES))}){left_out}"
        )
    if not labeled:
        return Listing(names, paths, [0] * len(found), ["unlabeled"], skipped)
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{root} holds {len(loose)} of its {len(found)} images outside class folders, such as {loose[0]}; move "
            f"them to {root}/CLASS/, or take all images without classes by labeled=False"
        )
    classes = sorted({name.split("/")[0] for name in names})
    place = {name: label for label, name in enumerate(classes)}
    return Listing(names, paths, [place[name.split("/")[0]] for name in names], classes, skipped)


class _Search:
    """The images below a folder: each folder once, whatever links lead to it, and nothing that is hidden."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: list[dict[str, str]] = []
        self._entered: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def images(self) -> Iterator[str]:
        """Names relative to the root."""
        yield from self._walk(os.fspath(self.root))
        # Links to folders come last, so that none takes the place of the folder itself.
        around = {_identity(folder) for folder in (self.root.resolve(), *self.root.resolve().parents)}
        while self._links:
            self._links.sort(reverse=True)
            link = self._links.pop()
            if _identity(link) in self._entered | around:
                self._skip(link, "it links to a folder whose images are taken already, or to one around this folder")
            else:
                yield from self._walk(link)

    def _walk(self, start: str) -> Iterator[str]:
        for folder, folders, files in os.walk(start, onerror=self._closed):
            if _identity(folder) in self._entered:
                folders.clear()
                continue
            self._entered.add(_identity(folder))
            for name in list(folders):
                path = os.path.join(folder, name)
                if _hidden(name):
                    folders.remove(name)
                    self._skip(path, HIDDEN)
                elif os.path.islink(path):
                    self._links.append(path)
                elif _is_image(name):
                    self._skip(path, "it is a folder; the images in it are taken as those of any other")
            for name in filter(_is_image, files):
                path = os.path.join(folder, name)
                if _hidden(name):
                    self._skip(path, HIDDEN)
                else:
                    yield self._name(path)

    def _closed(self, error: OSError) -> None:
        self._skip(error.filename, f"{type(error).__name__}: {error}")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append({"name": self._name(path), "reason": reason})

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: str | Path) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def list_food101(root: str | Path, split: str, *, download: bool = False) -> Listing:
    """Lists Food-101 by torchvision.

    Args:
        root: The folder that holds `food-101/`, or that folder itself.
        split: `"train"` or `"test"`.
        download: Let torchvision fetch the data set (5 GB) into `root` first, if it is not there.

    Raises:
        ArgumentError: There is no such split.
        DataError: The folder does not exist or is laid out otherwise, or the download failed.
    """
    from torchvision.datasets import Food101

    if split not in ("train", "test"):
        raise ArgumentError(f"Food-101 has the splits 'train' and 'test', got {split!r}")
    root = Path(root)
    if root.absolute().name == "food-101" and (root / "meta").is_dir():  # absolute, so that "." has a name
        root = root.absolute().parent
    if not root.is_dir() and not download:
        raise DataError(f"there is no data folder {root}; give the folder that holds food-101/, or --download it")
    try:
        data = Food101(root, split=split, download=download)
    except (RuntimeError, OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{root} does not hold Food-101 as torchvision lays it out, food-101/images/CLASS/ID.jpg and "
            f"food-101/meta/{split}.json ({error}); give the folder that holds food-101/, or --download it"
        ) from error
    listed = sorted(
        (f"{path.parent.name}/{path.stem}", path, label)
        for path, label in zip(data._image_files, data._labels, strict=True)
    )
    return Listing(
        [name for name, _, _ in listed],
        [path for _, path, _ in listed],
        [label for *_, label in listed],
        data.classes,
    )
