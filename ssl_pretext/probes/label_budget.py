"""Label budgets: how many labeled images of each class are used, and which ones for each seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_pretext.arguments import whole_number
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError

__all__ = ["LabelBudget"]


@dataclass(frozen=True)
class LabelBudget:
    """The labels that a probe may use: a fraction of each class, or a number of images per class.

    Attributes:
        fraction: The fraction of each class's labels that is used, at least one image per class.
        per_class: The number of labeled images per class, in place of `fraction`.

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

    def check(self, images: ImageStore) -> None:
        """Checks that each class has enough labeled images.

        Raises:
            ArgumentError: A class has fewer images than `per_class`.
        """
        for label, count in zip(*images.labels.unique(return_counts=True), strict=True):
            if self.per_class is not None and count < self.per_class:
                raise ArgumentError(
                    f"class {images.classes[label]!r} has {count} labeled images, fewer than per_class={self.per_class}"
                )

    def indices(self, labels: Tensor, seed: int) -> Tensor | None:
        """Draws the images that are used with a seed.

        For a given seed, the images of a smaller budget are a subset of those of a larger one.

        Args:
            labels: Labels `(N,)` of all images.
            seed: Seed of the draw.

        Returns:
            The indices of the images in ascending order; None if all images are used.
        """
        if self.fraction == 1 and self.per_class is None:
            return None
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        parts = [order[labels[order] == label] for label in labels.unique()]
        counts = [self.per_class or max(1, round(self.fraction * len(part))) for part in parts]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).sort().values
