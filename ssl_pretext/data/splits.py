"""Hold-out split of labeled images, determined by their names and a seed and not by the order of files."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["holdout_split"]


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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may contain any bytes
