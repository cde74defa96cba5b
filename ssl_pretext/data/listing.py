"""Listing of the images in a folder, in an order that does not depend on the file system."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssl_pretext.errors import ArgumentError, DataError

__all__ = ["Listing", "list_folder", "list_food101"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp"}
HIDDEN = "the file or folder is hidden: its name starts with a dot, or is __MACOSX"
LINK = "the link points to a folder that is already included, or to a parent of the data folder"


@dataclass(frozen=True)
class Listing:
    """Image files with their classes, sorted by name.

    Attributes:
        names: Name of each image: its path relative to the folder, or the name that the data set gives it.
        paths: File of each image.
        labels: Class of each image, an index into `classes`.
        classes: Names of the classes.
        skipped: Files and folders that were skipped, as `{"name", "reason"}`.
    """

    names: list[str]
    paths: list[Path]
    labels: list[int]
    classes: list[str]
    skipped: list[dict[str, str]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """A hash of classes, names, labels, file sizes and modification times; it changes when images may differ."""
        lines = ["\t".join(self.classes), *(item["name"] for item in self.skipped)]
        for name, path, label in zip(self.names, self.paths, self.labels, strict=True):
            try:
                stat = path.stat()
                lines.append(f"{name}\t{label}\t{stat.st_size}\t{stat.st_mtime_ns}")
            except OSError:
                lines.append(f"{name}\t{label}\tunreadable")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_folder(folder: str | Path, *, labeled: bool = True) -> Listing:
    """Lists a folder that has one subfolder of images per class.

    Args:
        folder: The folder. Class folders may be nested; the outermost folder is the class.
        labeled: Whether the subfolders are classes. False takes all images at any depth, including those directly in
            the folder, as the single class `"unlabeled"`.

    Raises:
        DataError: The folder does not exist, it holds no images, or some images are not in a class folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no data folder {root}; check the path")
    search = _Search(root)
    found = sorted(search.images())
    names, paths = found, [root / name for name in found]
    skipped = sorted(search.skipped, key=lambda item: item["name"])
    if not found:
        where = " in class folders" if labeled else ""
        example = f"; skipped {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(
            f"{root} holds no images{where}; expected {root}/{'CLASS/' if labeled else ''}NAME.jpg "
            f"(or {', '.join(sorted(SUFFIXES))}){example}"
        )
    if not labeled:
        return Listing(names, paths, [0] * len(found), ["unlabeled"], skipped)
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{root} holds {len(loose)} of its {len(found)} images outside class folders, such as {loose[0]}; move "
            f"them to {root}/CLASS/, or pass labeled=False to take all images without classes"
        )
    classes = sorted({name.split("/")[0] for name in names})
    place = {name: label for label, name in enumerate(classes)}
    return Listing(names, paths, [place[name.split("/")[0]] for name in names], classes, skipped)


class _Search:
    """Finds the images below a folder; enters each folder once, even if links lead to it, and skips hidden ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: list[dict[str, str]] = []
        self._entered: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def images(self) -> Iterator[str]:
        """Yields the paths of the images relative to the root."""
        yield from self._walk(os.fspath(self.root))
        # Links to folders are followed last, so that images are listed under their real folder if it is below the root.
        parents = {_identity(folder) for folder in (self.root.resolve(), *self.root.resolve().parents)}
        while self._links:
            self._links.sort(reverse=True)
            link = self._links.pop()
            if _identity(link) in self._entered | parents:
                self._skip(link, LINK)
            else:
                yield from self._walk(link)

    def _walk(self, start: str) -> Iterator[str]:
        for folder, folders, files in os.walk(start, onerror=self._skip_folder):
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
                    self._skip(path, "the path is a folder, not an image file; the images inside it are included")
            for name in filter(_is_image, files):
                path = os.path.join(folder, name)
                if _hidden(name):
                    self._skip(path, HIDDEN)
                else:
                    yield self._name(path)

    def _skip_folder(self, error: OSError) -> None:
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
    """Lists the Food-101 data set in the layout of torchvision.

    Args:
        root: The folder that contains `food-101/`, or the folder `food-101` itself.
        split: `"train"` or `"test"`.
        download: Whether torchvision first downloads the data set (5 GB) into `root` if it is missing.

    Raises:
        ArgumentError: There is no such split.
        DataError: The folder does not exist or has another layout, or the download failed.
    """
    from torchvision.datasets import Food101

    if split not in ("train", "test"):
        raise ArgumentError(f"Food-101 has the splits 'train' and 'test', got {split!r}")
    root = Path(root)
    if root.absolute().name == "food-101" and (root / "meta").is_dir():  # absolute, so that "." has a name
        root = root.absolute().parent
    if not root.is_dir() and not download:
        raise DataError(f"there is no data folder {root}; pass the folder that contains food-101/, or use --download")
    try:
        data = Food101(root, split=split, download=download)
    except (RuntimeError, OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{root} does not hold Food-101 in the layout of torchvision, food-101/images/CLASS/ID.jpg and "
            f"food-101/meta/{split}.json ({error}); pass the folder that contains food-101/, or use --download"
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
