"""Splits of labeled images: a hold-out split by names and a seed, and folders that are splits and not classes."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["find_splits", "holdout_split"]

SPLIT = re.compile(r"(?<![a-z])(?:(train)|(val|dev)|(test|eval|holdout))(?:ing|id|idation|uation|set)?(?![a-z])", re.I)
FILLERS = {"data", "dataset", "image", "images", "photos", "pictures", "seg", "set", "split"}  # as in `seg_train`


def holdout_split(
    names: Sequence[str], labels: Sequence[int] | Tensor, *, fraction: float = 0.1, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Holds out a fraction of each class.

    Within a class, images are ranked by a hash of the seed and their name, so the split is the same on every machine
    and for every order of the files.

    Args:
        names: Distinct names of the images.
        labels: Class of each image.
        fraction: Fraction of each class to hold out. At least one image is held out of a class with two or more.
        seed: Seed of the split.

    Returns:
        The indices of the remaining images and those of the held-out images, both ascending.

    Raises:
        ArgumentError: Names repeat, the lengths differ, or the fraction is not between 0 and 1.

    Examples:
        >>> kept, held_out = holdout_split([f"image {i}" for i in range(20)], [0] * 10 + [1] * 10)
        >>> len(kept), len(held_out)
        (18, 2)
    """
    if len(names) != len(labels):
        raise ArgumentError(f"holdout_split got {len(names)} names and {len(labels)} labels")
    if len(set(names)) != len(names):
        raise ArgumentError("holdout_split needs distinct names, because they determine the split")
    if not 0 < fraction < 1:
        raise ArgumentError(f"fraction of holdout_split must be between 0 and 1, got {fraction}")
    classes: dict[int, list[int]] = defaultdict(list)
    # The elements of a tensor are distinct dictionary keys even if equal, so every image would become a class.
    for index, label in enumerate(labels.tolist() if isinstance(labels, Tensor) else labels):
        classes[label].append(index)
    held_out: set[int] = set()
    for members in classes.values():
        ranked = sorted(members, key=lambda index: hashlib.sha256(_bytes(f"{seed}:{names[index]}")).digest())
        held_out.update(ranked[: max(round(fraction * len(members)), int(len(members) > 1))])
    return [i for i in range(len(names)) if i not in held_out], sorted(held_out)


def find_splits(names: Iterable[str]) -> list[str]:
    """Finds the outermost folders of a data set that are splits, such as `train` and `test`, and not classes.

    Classes may have such names too: a data set of vehicles has trains. Folders count as splits if they are named like
    different splits and contain the same class folders, or if all folders are named like nothing but a split.

    Args:
        names: Paths of the images relative to the data set, such as `train/soup/1.jpg`.

    Returns:
        The folders in the order of training, validation and test; none if the folders are classes.

    Examples:
        >>> find_splits(["test/soup/1.jpg", "test/cake/1.jpg", "train/soup/2.jpg", "train/cake/2.jpg"])
        ['train', 'test']
        >>> find_splits(["bus/1.jpg", "train/1.jpg"])
        []
    """
    classes: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, *inside = name.split("/")[:-1] or [""]
        classes[folder].update(inside[:1])
    roles = {folder: found.lastindex for folder in classes if (found := SPLIT.search(folder))}
    ordered = sorted(roles, key=lambda folder: (roles[folder] or 0, folder))
    shared = {
        folder
        for folder in ordered
        for other in ordered
        if roles[folder] != roles[other] and classes[folder] & classes[other]
    }
    if shared:
        return [folder for folder in ordered if folder in shared]
    plain = all(set(re.findall("[a-z]+", SPLIT.sub("", folder).lower())) <= FILLERS for folder in ordered)
    several = len(ordered) > 1 or any(classes[folder] for folder in ordered)
    return ordered if plain and several and len(ordered) == len(classes) else []


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may contain any bytes
