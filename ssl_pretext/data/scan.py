"""Which images a folder holds, in an order that does not depend on the file system."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ssl_pretext.errors import ArgumentError, DataError

__all__ = ["Listing", "list_folder", "list_food101"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Listing:
    """Image files with their classes, sorted by name.

    Attributes:
        names: Of each image, relative to the folder and without its suffix where the data set has it so.
        paths: Its file.
        labels: Its class, an index into `classes`.
        classes: Names of the classes.
    """

    names: list[str]
    paths: list[Path]
    labels: list[int]
    classes: list[str]

    def fingerprint(self) -> str:
        """A hash of classes, names, labels, sizes and times of change: another one means that the images may differ."""
        lines = ["\t".join(self.classes)]
        for name, path, label in zip(self.names, self.paths, self.labels, strict=True):
            try:
                stat = path.stat()
                lines.append(f"{name}\t{label}\t{stat.st_size}\t{stat.st_mtime_ns}")
            except OSError:
                lines.append(f"{name}\t{label}\tunreadable")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_folder(folder: str | Path, *, labelled: bool = True) -> Listing:
    """Lists a folder with one folder of images per class.

    Args:
        folder: Its class folders may be nested; the outermost one is the class.
        labelled: False takes the images at any depth, the folder's own too, as the one class `"unlabelled"`.

    Raises:
        DataError: There is no such folder, it holds no images, or some of them are in no class folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no data folder {root}")
    found = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    )
    names, paths = [name for name, _ in found], [path for _, path in found]
    if not found:
        where = " in class folders" if labelled else ""
        raise DataError(
            f"{root} holds no images{where}; expected {root}/{'CLASS/' if labelled else ''}NAME.jpg "
            f"(or {', '.join(sorted(SUFFIXES))})"
        )
    if not labelled:
        return Listing(names, paths, [0] * len(found), ["unlabelled"])
    if loose := [name for name in names if "/" not in name]:
        raise DataError(
            f"{root} holds {len(loose)} of its {len(found)} images outside class folders, such as {loose[0]}; move "
            f"them to {root}/CLASS/, or take all images without classes by labelled=False"
        )
    classes = sorted({name.split("/")[0] for name in names})
    return Listing(names, paths, [classes.index(name.split("/")[0]) for name in names], classes)


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
