"""The score of representations on held-out labeled images, all by the same folds."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_pretext.data import ImageStore, holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.controls import find_controls
from ssl_pretext.probes.linear import shrink
from ssl_pretext.probes.problem import ClassProblem
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.targets import Targets
from ssl_pretext.probes.twins import UntrainedTwins
from ssl_pretext.representations import Representation
from ssl_pretext.representations.extraction import extract_features

__all__ = ["FOLDS", "REPEATS", "Hits", "Judge"]

FOLDS, REPEATS = 5, 3

Hits = NDArray[np.bool_]  # whether each image is classified correctly in each repetition, `(REPEATS, N)`


class Judge:
    """Classifies labeled images by their features, each by a probe that was trained on the other folds.

    The images are divided into folds three times, stratified by class. All images of a group are in one fold.

    Args:
        images: Labeled images, none of them a test image.
        targets: Their classes.
        probe: Name of the probe.
        seed: Seed of the folds.
        device: Device to compute on.

    Raises:
        ArgumentError: There are too few images or groups of a class.
    """

    def __init__(self, images: ImageStore, targets: Targets, *, probe: str, seed: int, device: str) -> None:
        counts = [count for count in targets.images_per_name(len(targets.names)) if count]
        if len(counts) < 2 or min(counts) < 2:
            raise ArgumentError(
                "search() needs labeled images of at least two classes, and at least two of each class, got "
                f"{len(counts)} classes, the smallest with {min(counts, default=0)}"
            )
        self.images, self.targets, self.device = images, targets, device
        self.method = find_method(probe, None)
        self.folds = [_folds(images, targets, seed + repeat) for repeat in range(REPEATS)]

    @property
    def num_folds(self) -> int:
        """The smallest number of folds of a repetition."""
        return min(map(len, self.folds))

    def hits(self, representation: Representation | Sequence[Representation]) -> Hits:
        """Scores a representation, or another one in each repetition, such as differently drawn twins."""
        several = [representation] * REPEATS if isinstance(representation, Representation) else representation
        found = np.zeros((REPEATS, len(self.images)), dtype=bool)
        features: dict[Representation, torch.Tensor] = {}
        for row, (one, folds) in enumerate(zip(several, self.folds, strict=True)):
            if one not in features:
                features = {one: self.features(one)}
            for fold in folds:
                found[row, fold] = self._fold_hits(features[one], fold, seed=row)
        return found

    def features(self, representation: Representation) -> torch.Tensor:
        """Computes the features of all images, `(N, C, h, w)`, on the device."""
        parts = extract_features([representation], self.images, device=self.device, reduce=shrink)
        return representation.combine_parts(parts).to(self.device)

    def _fold_hits(self, features: torch.Tensor, fold: Sequence[int], seed: int) -> NDArray[np.bool_]:
        held_out = torch.zeros(len(features), dtype=torch.bool)
        held_out[fold] = True
        classes = self.targets.values
        train, test = classes[~held_out], classes[fold]
        problem = ClassProblem(train, test, len(self.targets.names), train.unique(), self.method.all_classes)
        tested = torch.tensor(fold) if problem.tested is None else torch.tensor(fold)[problem.tested]
        if not len(tested):  # no probe can predict the classes of these images
            return np.zeros(len(fold), dtype=bool)
        outputs = self.method.train(
            (features[~held_out], problem.train.to(self.device)),
            (features[tested], problem.test.to(self.device)),
            num_outputs=problem.num_outputs,
            epochs=self.method.epochs,
            seed=seed,
        ).outputs
        return (problem.predictions(outputs.cpu()).argmax(dim=1) == test).numpy()

    def controls(self, representation: Representation) -> dict[str, Representation]:
        """Returns the controls that all tasks share: pixels and, for photos, a color histogram."""
        wanted = ("pixels", "histogram")
        given = {representation.name: representation}
        return find_controls(given, self.images, wanted=wanted, reduce=shrink, device=self.device).added

    def twins(self, representation: Representation) -> list[Representation]:
        """Returns the strongest untrained twin for each repetition, each with other random weights."""
        given = {representation.name: representation}
        twins = UntrainedTwins(self.images, self.targets, device=self.device)
        return [twin for seed in range(REPEATS) for twin in twins.draw(given, seed).values()]


def _folds(images: ImageStore, targets: Targets, seed: int, count: int = FOLDS) -> list[list[int]]:
    """Divides the images into folds, fewer of them if there are too few groups."""
    try:
        return _divide(images, targets, seed, count)
    except ArgumentError:
        if images.groups is None or count == 2:
            raise
    return _folds(images, targets, seed, count - 1)


def _divide(images: ImageStore, targets: Targets, seed: int, count: int) -> list[list[int]]:
    left, folds = list(range(len(images))), []
    for number in range(count, 1, -1):
        groups = None if images.groups is None else [images.groups[i] for i in left]
        kept, held_out = holdout_split(
            [images.names[i] for i in left], targets.values[left], groups=groups, fraction=1 / number, seed=seed
        )
        folds.append([left[i] for i in held_out])
        left = [left[i] for i in kept]
    return [fold for fold in (*folds, left) if fold]  # the last one is empty if each class has fewer images
