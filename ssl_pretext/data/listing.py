"""Listing of the images in a folder, in an order that does not depend on the file system."""

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssl_pretext.data.photo import format_by_suffix
from ssl_pretext.data.readers.registry import ReaderTable, find_suffix, is_dicom, reader_suffixes
from ssl_pretext.data.sources import Source
from ssl_pretext.data.splits import find_splits
from ssl_pretext.data.temporary import is_readable, temporary_error
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.registry import joined
from ssl_pretext.system.files import json_sha256
from ssl_pretext.system.processes import rank_info

__all__ = [
    "Listing",
    "file_version",
    "find_images",
    "image_suffixes",
    "is_image",
    "list_files",
    "list_folder",
    "list_food101",
    "why_not_read",
]

HIDDEN = "the file or folder is hidden: its name starts with a dot, or is __MACOSX"
LINK = "the link points to a folder that is already included, or to a parent of the data folder"
# What to do with files that hold images which are not read, by suffix. Pillow knows other such suffixes.
NOT_READ = {
    suffix: advice
    for suffixes, advice in (
        (".heic .heics .heif .heifs .hif", "it is not read without pillow-heif: pip install pillow-heif"),
        (".jxl", "it is not read without pillow-jxl-plugin: pip install pillow-jxl-plugin"),
        (".avif .avifs", "it is not read by this version of Pillow: pip install --upgrade pillow"),
        (".arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .rw2 .srw", "raw photographs are not read; save them as .tif"),
        (".czi .exr .hdr .mat .nc .nd2 .ndpi .npz .svs", "the format is not read; save it as .npy or .tif"),
        (".svg .xcf", "the format is not read; save it as .png"),
        (".7z .rar .zip", "archives are not read; unpack them"),
        (".tar .tgz", "archives in a folder are not read; unpack them, or name them as shards, such as '{00..09}.tar'"),
    )
    for suffix in suffixes.split()
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """Image files with their classes, sorted by name.

    Attributes:
        folder: Folder of the data set.
        names: Name of each image: its path relative to the folder, or the name that the data set gives it.
        sources: What each image is read from.
        labels: Class of each image, an index into `classes`.
        classes: Names of the classes.
        skipped: Files and folders that were skipped, as `{"name", "reason"}`.
        groups: Group of each image, if it is known.
        file_channels: What each file of an image shows, if an image has several; the same for all images.
    """

    folder: Path
    names: list[str]
    sources: list[Source]
    labels: list[int]
    classes: list[str]
    skipped: list[dict[str, str]] = field(default_factory=list)
    groups: list[str] | None = None
    file_channels: tuple[str, ...] | None = None

    def subset(self, positions: Sequence[int]) -> "Listing":
        """Returns a listing of some of the images."""
        return replace(
            self,
            names=[self.names[i] for i in positions],
            sources=[self.sources[i] for i in positions],
            labels=[self.labels[i] for i in positions],
            groups=None if self.groups is None else [self.groups[i] for i in positions],
        )

    def fingerprint(self) -> str:
        """A hash of the folder, classes, names, labels and versions of the files; it changes when images may differ."""
        read = [([file_version(file) for file in source.files], *source[1:]) for source in self.sources]
        return json_sha256([os.path.realpath(self.folder), self.classes, self.skipped, self.names, self.labels, read])


def file_version(path: str | os.PathLike[str]) -> list[int] | None:
    """What the file system tells about the content of a file; None if this process cannot read it.

    The time of the last change of the file's status (`ctime`) cannot be set, so that a change is seen even if the time
    of the file is set back. The number of the device is left out, because it is another one after each mount.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not is_readable(path):
        return None
    version = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    if stat.S_ISDIR(status.st_mode):  # such as a zarr
        inside = sorted(os.path.join(folder, name) for folder, _, files in os.walk(path) for name in files)
        version.append(
            int(json_sha256([[os.path.relpath(file, path), file_version(file)] for file in inside])[:15], 16)
        )
    return version


def image_suffixes() -> set[str]:
    """Returns the suffixes of the files that are read as images, in lower case."""
    return {*format_by_suffix(), *reader_suffixes()}


def list_folder(folder: str | Path, *, labeled: bool = True) -> Listing:
    """Lists a folder that has one subfolder of images per class.

    Args:
        folder: The folder. Class folders may be nested; the outermost folder is the class.
        labeled: Whether the subfolders are classes. False takes all images at any depth, including those directly in
            the folder, as the single class `"unlabeled"`.

    Raises:
        DataError: The folder does not exist, it holds no images, some images are not in a class folder, or its
            subfolders are splits, such as `train` and `test`, and not classes.
        ReadError: A part of the folder cannot be listed now, for another reason than missing rights.
    """
    listing = _list_files(Path(folder), *((" in class folders", "CLASS/") if labeled else ("", "")))
    root, names = listing.folder, listing.names
    splits = find_splits(names)
    if not labeled:
        if splits and rank_info().rank == 0:
            log.warning("%s holds %s, which are named like splits; the images of all are used", root, joined(splits))
        return listing
    if splits:
        error = DataError(
            f"the folders {joined(splits)} in {root} are splits of a data set and not classes; pass the folder of one "
            f"split, such as {root / splits[0]}, which has one subfolder per class"
        )
        error.splits = [root / name for name in splits]
        raise error
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{root} holds {len(loose)} of its {len(names)} images outside class folders, such as {loose[0]}; move "
            f"them to {root}/CLASS/, because the folder of an image is its class"
        )
    classes = sorted({name.split("/")[0] for name in names})
    place = {name: label for label, name in enumerate(classes)}
    return replace(listing, labels=[place[name.split("/")[0]] for name in names], classes=classes)


def list_files(folder: str | Path) -> Listing:
    """Lists all images of a folder at any depth as the single class `"unlabeled"`, whatever its subfolders are.

    Args:
        folder: The folder.

    Raises:
        DataError: The folder does not exist, or it holds no images.
        ReadError: A part of the folder cannot be listed now, for another reason than missing rights.
    """
    return _list_files(Path(folder), "", "")


def _list_files(root: Path, where: str, class_folder: str) -> Listing:
    names, skipped = find_images(root)
    if not names:
        example = f"; skipped {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(
            f"{root} holds no images{where}; expected {root}/{class_folder}NAME.jpg "
            f"(or {', '.join(sorted(image_suffixes()))}){example}"
        )
    return Listing(root, names, [Source((root / name,)) for name in names], [0] * len(names), ["unlabeled"], skipped)


def find_images(root: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Finds the image files of a folder at any depth.

    Args:
        root: The folder. If no name in it is that of an image, DICOM files are found by their first bytes.

    Returns:
        The paths of the images relative to the folder, and what was skipped, as `{"name", "reason"}`; both are sorted.

    Raises:
        DataError: The folder does not exist.
        ReadError: A part of the folder cannot be listed now, for another reason than missing rights.
    """
    if not root.is_dir():
        raise DataError(_no_folder(root))
    search = _Search(root)
    names = [*search.images()] or [name for name in search.others if is_dicom(root / name)]
    return sorted(names), sorted(search.skipped, key=lambda item: item["name"])


def _no_folder(root: Path) -> str:
    if not root.exists():
        return f"there is no data folder {root}; check the path"
    reason = why_not_read(root.name) or "pass the folder that contains the images"
    return f"{root} is a file and not a data folder; {reason}"


class _Search:
    """Finds the images below a folder; enters each folder once, even if links lead to it, and skips hidden ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.readers = ReaderTable()
        self.skipped: list[dict[str, str]] = []
        self.others: list[str] = []  # files that their names do not show to be images, and that are not hidden
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
                elif (reader := self.readers.find(name)) is not None and reader.folders:
                    folders.remove(name)
                    yield self._name(path)
                elif os.path.islink(path):
                    self._links.append(path)
                elif is_image(name):
                    self._skip(path, "the path is a folder, not an image file; the images inside it are included")
            for name in files:
                path = os.path.join(folder, name)
                if not is_image(name):
                    if not _hidden(name) and (reason := why_not_read(name)):
                        self._skip(path, reason)
                    elif not _hidden(name):
                        self.others.append(self._name(path))
                elif _hidden(name):
                    self._skip(path, HIDDEN)
                else:
                    yield self._name(path)

    def _skip_folder(self, error: OSError) -> None:
        # Folders without the right to read them are tried again whenever the folder is listed.
        if not isinstance(error, PermissionError) and (failure := temporary_error(error, error.filename)):
            raise failure from error
        self._skip(error.filename, f"{type(error).__name__}: {error}")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append({"name": self._name(path), "reason": reason})

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return _suffix(name) in format_by_suffix() or find_suffix(name) is not None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def why_not_read(name: str) -> str | None:
    """Returns the reason for which a file is skipped that has the suffix of another kind of image, or None.

    Args:
        name: Name of the file.
    """
    from PIL import Image

    suffix = ".tar" if ".tar." in name.lower() else _suffix(name)
    other = None if is_image(name) else Image.registered_extensions().get(suffix)
    return NOT_READ.get(suffix) or (other and f"the format {other} is not read; save it as .png, .tif or .npy")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


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
        data._base_folder,
        [name for name, _, _ in listed],
        [Source((path,)) for _, path, _ in listed],
        [label for *_, label in listed],
        data.classes,
    )
