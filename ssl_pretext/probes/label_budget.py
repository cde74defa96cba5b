"""Label budgets: how many labeled images of each class are used, and which ones by each seed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.targets import Targets

__all__ = ["LabelBudget", "LabelSets", "indices_sha256"]


@dataclass(frozen=True)
class LabelSets:
    """The labeled images that each seed uses, as ascending indices.

    Attributes:
        full: Indices of the images for each seed.
        parts: Disjoint parts of all labeled images, at most one for each seed, if the seeds share images. The spread of
            probes on these parts shows what the choice of the labeled images contributes to the uncertainty.
        kind: `"disjoint"` if no two seeds share an image, `"parts"` if there are parts, and `"fixed"` if neither is
            possible, so that the effect of the choice of the labeled images stays unknown.
    """

    full: list[Tensor]
    parts: list[Tensor]
    kind: str


@dataclass(frozen=True)
class LabelBudget:
    """The labels that a probe may use: a fraction of each class, or a number of images per class.

    Attributes:
        fraction: The fraction of each class's labels that is used, at least one image per class.
        per_class: The number of labeled images per class, in place of `fraction`; the number of all labeled images if
            the targets are no classes.

    Raises:
        ArgumentError: Both are given, or one of them is out of range.
    """

    fraction: float = 1.0
    per_class: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, float | int) or not 0 < self.fraction <= 1:
            raise ArgumentError(f"label_fraction must be in (0, 1], got {self.fraction!r}")
        if self.per_class is not None:
            # As an int, which JSON can hold, unlike NumPy's integers.
            object.__setattr__(self, "per_class", whole_number("per_class", self.per_class))
            if self.fraction != 1:
                raise ArgumentError(
                    f"pass per_class or label_fraction, not both; got per_class={self.per_class} and "
                    f"label_fraction={self.fraction}"
                )

    def check(self, targets: Targets) -> None:
        """Checks that each class has enough labeled images.

        Raises:
            ArgumentError: A class has fewer images than `per_class`.
        """
        for label, count in zip(*targets.strata.unique(return_counts=True), strict=True):
            if self.per_class is not None and count < self.per_class:
                if targets.kind.name == "class":
                    raise ArgumentError(
                        f"class {targets.names[label]!r} has {count} labeled images, fewer than "
                        f"per_class={self.per_class}"
                    )
                raise ArgumentError(f"there are {count} labeled images, fewer than num_labels={self.per_class}")

    def draw(self, labels: Tensor, seeds: Sequence[int]) -> LabelSets:
        """Draws the labeled images of each seed.

        The images of each class are put into a random order on a circle. Each seed uses the next ones after its own
        starting point, and the starting points are evenly spaced. So the seeds share as few images as possible: none if
        there are enough. For a given seed, the images of a smaller budget are among those of a larger one.

        Args:
            labels: Labels `(N,)` of all images.
            seeds: The seeds; the first one determines the random order.
        """
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seeds[0]))
        classes = [order[labels[order] == label] for label in labels.unique()]
        counts = [self.per_class or max(1, round(self.fraction * len(images))) for images in classes]
        full = _windows(classes, counts, len(seeds))
        if len(seeds) == 1:
            return LabelSets(full, [], "fixed")
        if all(count <= len(images) // len(seeds) for images, count in zip(classes, counts, strict=True)):
            return LabelSets(full, [], "disjoint")
        # One class in ten may have fewer images than there are parts, which then share them. If more classes have only
        # one image, nothing shows how much another choice of it would change.
        smallest = sorted(len(images) for images in classes)[len(classes) // 10]
        parts = min(len(seeds), smallest)
        if parts < 2:
            return LabelSets(full, [], "fixed")
        return LabelSets(full, _windows(classes, [max(1, len(images) // parts) for images in classes], parts), "parts")


def _windows(classes: Sequence[Tensor], counts: Sequence[int], number: int) -> list[Tensor]:
    """For each of a number of starting points, the next images of each class, in ascending order."""
    return [
        torch.cat(
            [
                images.roll(-(start * len(images) // number))[:count]
                for images, count in zip(classes, counts, strict=True)
            ]
        )
        .sort()
        .values
        for start in range(number)
    ]


def indices_sha256(indices: Tensor) -> str:
    """Identifies a set of images in a cache."""
    return hashlib.sha256(indices.numpy().tobytes()).hexdigest()[:16]
