"""Splits of labeled images: a hold-out split by names and a seed, and folders that are splits and not classes."""

import hashlib
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["Role", "find_splits", "holdout_split", "split_role", "stated_split"]

log = logging.getLogger(__name__)

Role = Literal["train", "val", "test"]

SPLIT = re.compile(r"(?<![a-z])(?:(train)|(val|dev)|(test|eval|holdout))(?:ing|id|idation|uation|set)?(?![a-z])", re.I)
TOLERANCE = 1e-9  # smaller changes are those of rounding
FILLERS = {"data", "dataset", "image", "images", "photos", "pictures", "seg", "set", "split"}  # as in `seg_train`


def holdout_split(
    names: Sequence[str],
    labels: Sequence[int] | Tensor | None = None,
    *,
    groups: Sequence[str] | None = None,
    fraction: float = 0.1,
    seed: int = 0,
) -> tuple[list[int], list[int]]:
    """Holds out a fraction of each class, and never only a part of a group.

    Images, or groups of them, are ranked by a hash of the seed and their name, so that the split is the same on every
    machine and for every order of the files. In this order, they are held out, or put back, as long as that brings the
    classes closer to the fraction, in squares of the differences relative to the sizes of the classes. If all groups of
    a class are too large for that, the one that fits best is held out. `ImageStore.split` does the same for a store.

    Args:
        names: Distinct names of the images.
        labels: Class of each image.
        groups: Group of each image, such as its scene, patient or plate, whose images look alike; by default, each
            image stands alone.
        fraction: Fraction of each class to hold out. At least one image is held out of a class with two or more; with
            groups, this needs a group that leaves other images of its classes.
        seed: Seed of the split.

    Returns:
        The indices of the remaining images and those of the held-out images, both ascending.

    Raises:
        ArgumentError: Names repeat, the lengths differ, a group is missing, no group can be held out, or the fraction
            is not between 0 and 1.

    Examples:
        >>> kept, held_out = holdout_split([f"image {i}" for i in range(20)], [0] * 10 + [1] * 10)
        >>> len(kept), len(held_out)
        (18, 2)
        >>> holdout_split(["a1", "a2", "b1", "c1"], [0, 0, 0, 0], groups=["a", "a", "b", "c"], fraction=0.5)
        ([2, 3], [0, 1])
    """
    if labels is None:
        raise ArgumentError(
            "holdout_split needs the names and the labels of the images, holdout_split(store.names, store.labels); for "
            "an ImageStore, store.split(0.1) returns both parts"
        )
    if len(names) != len(labels):
        raise ArgumentError(f"holdout_split got {len(names)} names and {len(labels)} labels")
    if len(set(names)) != len(names):
        raise ArgumentError("holdout_split needs distinct names, because they determine the split")
    if not 0 < fraction < 1:
        raise ArgumentError(f"fraction of holdout_split must be between 0 and 1, got {fraction}")
    if groups is not None:
        _check_groups(names, groups)
    # The elements of a tensor are distinct dictionary keys even if equal, so every image would become a class.
    classes = labels.tolist() if isinstance(labels, Tensor) else labels
    members: dict[str, Counter[int]] = defaultdict(Counter)  # number of images of each class by group
    for group, label in zip(names if groups is None else groups, classes, strict=True):
        members[group][label] += 1
    held_out = _held_out(members, Counter(classes), fraction, seed)
    if groups is not None and not held_out:
        raise ArgumentError(
            "no group can be held out, because each has all images of a class; pass other groups, or more of them"
        )
    sides: tuple[list[int], list[int]] = ([], [])
    for index, group in enumerate(names if groups is None else groups):
        sides[group in held_out].append(index)
    return sides


def _check_groups(names: Sequence[str], groups: Sequence[str]) -> None:
    if len(groups) != len(names):
        raise ArgumentError(f"there are {len(names)} images and {len(groups)} groups; there must be one for each image")
    if missing := [name for name, group in zip(names, groups, strict=True) if group in (None, "")]:
        raise ArgumentError(
            f"the group of {len(missing)} of {len(names)} images is missing, such as that of {missing[0]}; images "
            "without a group could be on both sides of a split"
        )


def _held_out(members: dict[str, Counter[int]], sizes: Counter[int], fraction: float, seed: int) -> set[str]:
    """Chooses the groups that are held out; see `holdout_split`."""
    wanted = {label: max(round(fraction * count), int(count > 1)) for label, count in sizes.items()}
    most = {label: max(wanted[label], count - 1) for label, count in sizes.items()}  # so that some images remain
    ranked = sorted(members, key=lambda group: hashlib.sha256(_bytes(f"{seed}:{group}")).digest())
    held: Counter[int] = Counter()
    chosen: set[str] = set()

    def change(group: str) -> float:
        """The change of the sum of squares if the group changes its side; infinite if too few images would remain."""
        sign = -1 if group in chosen else 1
        if sign > 0 and any(held[label] + count > most[label] for label, count in members[group].items()):
            return math.inf
        return math.fsum(  # whose exact sum does not depend on the order of the classes
            count * (count + sign * 2 * (held[label] - wanted[label])) / sizes[label]
            for label, count in members[group].items()
        )

    def move(group: str) -> None:
        (held.subtract if group in chosen else held.update)(members[group])
        chosen.symmetric_difference_update([group])

    moved = True
    while moved:
        moved = False
        for group in ranked:
            if change(group) < -TOLERANCE:
                move(group)
                moved = True
    for label in sorted(sizes):
        if wanted[label] and not held[label]:
            changes = {group: change(group) for group in ranked if label in members[group]}
            if min(changes.values()) < math.inf:
                move(min(changes, key=lambda group: changes[group]))
    return chosen


def split_role(name: str) -> Role | None:
    """Returns what a split is for, by its name; None if the name is not that of a split.

    Examples:
        >>> split_role("Training"), split_role("valid"), split_role("test2017"), split_role("trainer")
        ('train', 'val', 'test', None)
    """
    found = SPLIT.search(name)
    roles: tuple[Role, ...] = ("train", "val", "test")
    return None if found is None or found.lastindex is None else roles[found.lastindex - 1]


def stated_split(splits: Sequence[Role], groups: Sequence[str] | None = None) -> tuple[list[int], list[int]]:
    """Returns the indices of the images for training and for testing, of a split that a data set states.

    Validation images are the test images if there are no others, and are left out otherwise.

    Args:
        splits: What each image is for.
        groups: Group of each image. A group on both sides is logged as a warning.

    Raises:
        ArgumentError: There are no images for training, or none for testing.
    """
    tested = "test" if "test" in splits else "val"
    kept, held_out = ([i for i, split in enumerate(splits) if split == role] for role in ("train", tested))
    if not kept or not held_out:
        given = ", ".join(f"{splits.count(role)} {role}" for role in sorted({*splits}))
        raise ArgumentError(f"a split needs images for training and for testing; it has {given or 'no images'}")
    if groups is not None and (both := {groups[i] for i in kept} & {groups[i] for i in held_out}):
        log.warning(
            "%d of %d groups have images for training and for testing, such as %s; results will look too good",
            *(len(both), len({*groups}), min(both)),
        )
    return kept, held_out


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
