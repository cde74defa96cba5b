"""Which labeled images a seed uses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_pretext.arguments import whole_number
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError

__all__ = ["LabelBudget"]


@dataclass(frozen=True)
class LabelBudget:
    """A share of each class's labels, at least one image, or a number of images of each class.

    Raises:
        ArgumentError: Both are given, or one is out of range.
    """

    fraction: float = 1.0
    per_class: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, float | int) or not 0 < self.fraction <= 1:
            raise ArgumentError(f"label_fraction lies in (0, 1], got {self.fraction!r}")
        if self.per_class is not None:
            object.__setattr__(self, "per_class", whole_number("per_class", self.per_class))  # JSON-ready
            if self.fraction != 1:
                raise ArgumentError(f"per_class takes the place of label_fraction, got both: {self}")

    def check(self, images: ImageStore) -> None:
        """Refuses a class with too few images."""
        for label, count in zip(*images.labels.unique(return_counts=True), strict=True):
            if self.per_class is not None and count < self.per_class:
                raise ArgumentError(
                    f"class {images.classes[label]!r} has {count} labeled images, fewer than per_class={self.per_class}"
                )

    def indices(self, labels: Tensor, seed: int) -> Tensor | None:
        """The images of a seed in order; None for all of them. Those of a smaller budget are among a larger one's."""
        if self.fraction == 1 and self.per_class is None:
            return None
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        parts = [order[labels[order] == label] for label in labels.unique()]
        counts = [self.per_class or max(1, round(self.fraction * len(part))) for part in parts]
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).sort().values
