"""The prediction problem that a probe solves: its training and test targets, and its predictions in their terms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.targets import MISSING, Targets

__all__ = ["ClassProblem", "NumberProblem", "Problem", "check_classes", "check_targets"]


class Problem:
    """The targets that a probe is trained and tested on, and how its predictions become those of the targets."""

    tested: Tensor | None = None  # which test images the probe is tested on, `(m,)` of type bool; None stands for all

    def __init__(self, train: Tensor, test: Tensor, num_outputs: int) -> None:
        self.train, self.test, self.num_outputs = train, test, num_outputs

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns predictions of all test images, in the form that metrics take."""
        return outputs


class ClassProblem(Problem):
    """A probe learns only the classes that have training images, unless it is one that has an output for every class.

    Test images of other classes are not given to it; their predictions are spread over the classes that it knows, so
    that they count as errors.
    """

    def __init__(self, train: Tensor, test: Tensor, num_outputs: int, seen: Tensor, all_classes: bool) -> None:
        predictable = torch.isin(test, seen)
        if not predictable.all():
            self.tested, test = predictable, test[predictable]
        self._seen, self._all_classes, self._classes = seen, all_classes, num_outputs
        if not all_classes:
            train, test, num_outputs = torch.searchsorted(seen, train), torch.searchsorted(seen, test), len(seen)
        super().__init__(train, test, num_outputs)

    @override
    def predictions(self, outputs: Tensor) -> Tensor:
        if self.tested is None and (self._all_classes or len(self._seen) == self._classes):
            return outputs
        tested = torch.ones(len(outputs), dtype=torch.bool) if self.tested is None else self.tested
        spread = outputs.new_zeros(len(tested), self._classes)
        spread[:, self._seen] = 1 / len(self._seen)
        columns = torch.arange(self._classes) if self._all_classes else self._seen
        spread[tested.nonzero(), columns] = outputs
        return spread


class NumberProblem(Problem):
    """Numbers are standardized by the training images, so that their units have no effect on how they are learned."""

    def __init__(self, train: Tensor, test: Tensor, num_outputs: int) -> None:
        known = ~train.isnan()
        count = known.sum(dim=0).clamp(min=1)
        self._mean = train.nan_to_num(0).sum(dim=0) / count
        std = ((train - self._mean).nan_to_num(0).square().sum(dim=0) / count).sqrt()
        self._std = torch.where(std > 0, std, 1.0)
        super().__init__((train - self._mean) / self._std, (test - self._mean) / self._std, num_outputs)

    @override
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self._std + self._mean

    @torch.no_grad()
    def in_units(self, layer: nn.Linear) -> None:
        """Changes the last layer of a network so that its outputs are in the units of the targets."""
        std, mean = (values.to(layer.weight) for values in (self._std, self._mean))
        layer.weight.mul_(std[:, None])
        layer.bias.mul_(std).add_(mean)


def check_targets(train: Targets, test: Targets, unseen_classes: bool = False) -> list[str]:
    """Raises unless training and test images have the same targets; returns their names."""
    short, long = sorted((test.names, train.names), key=len)
    is_numbered = all(name == str(label) for label, name in enumerate(long))
    starts_alike = is_numbered and long[: len(short)] == short  # numbers as classes may lack the last classes
    may_lack = {"class": long == train.names or unseen_classes, "mask": True}.get(train.kind.name, False)
    if train.names != test.names and not (starts_alike and may_lack):
        what = "classes" if train.kind.name in ("class", "mask") else train.kind.name
        lacking = _describe_missing(train.names, test.names, what)
        raise ArgumentError(
            f"train and test must have the same {what} in the same order: "
            + (lacking or f"the order is {train.names[:5]} in train and {test.names[:5]} in test")
        )
    if train.kind.name == "mask" and (
        unseen := sorted({*test.values.unique().tolist()} - {*train.values.unique().tolist(), MISSING})
    ):
        raise ArgumentError(
            f"the masks of the test images have the class {long[unseen[0]]!r}, which no training image has, so that no "
            f"probe can predict it. Mark its pixels as unknown: {MISSING}"
        )
    if train.kind.name == "labels" and not (test.values == 1).any():
        raise ArgumentError("no test image has any of the labels, so there is no precision to measure")
    if train.kind.name == "numbers":
        for split, targets in (("train", train), ("test", test)):
            known = ~targets.values.isnan()
            constant = [
                name
                for name, column, is_known in zip(targets.names, targets.values.T, known.T, strict=True)
                if len(column[is_known].unique()) < 2
            ]
            if constant:
                raise ArgumentError(
                    f"the number {constant[0]!r} must take at least two values among the {split} images; leave it out"
                )
    return long


def _describe_missing(train: Sequence[str], test: Sequence[str], what: str) -> str:
    """Names what the training or the test images lack; empty if they differ only in their order."""
    one = {"classes": "class", "labels": "label", "numbers": "number"}[what]
    return ", and ".join(
        f"the {split} images have no {one} {', '.join(map(repr, missing[:5]))}"
        + f" and {len(missing) - 5} other {what} of the {other} images" * (len(missing) > 5)
        for split, other, missing in (
            ("test", "training", sorted({*train} - {*test})),
            ("training", "test", sorted({*test} - {*train})),
        )
        if missing
    )


def check_classes(train: Targets, test: Targets, unseen_classes: bool) -> list[str]:
    """Raises unless a probe can learn the classes; returns the classes that have no training image."""
    if len(train.values.unique()) < 2:
        raise ArgumentError("evaluate() needs training images of at least two classes, got one")
    names = max(train.names, test.names, key=len)
    have = {*train.values.tolist()}
    missing = sorted({*test.values.tolist()} - have)
    if missing and not unseen_classes:
        raise ArgumentError(
            f"{len(missing)} of the classes of the test images have no training image, such as "
            f"{names[missing[0]]!r}, so no probe can predict them. Leave these test images out; in Python, "
            "unseen_classes=True counts them as errors"
        )
    if not have & {*test.values.tolist()}:
        raise ArgumentError("no test image belongs to a class that has training images")
    return [name for label, name in enumerate(names) if label not in have]
