"""The prediction problem that a probe solves: its training and test targets, and its predictions in their terms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.targets import MISSING, Targets

__all__ = ["ClassProblem", "MapProblem", "NumberProblem", "Problem", "check_classes", "check_targets"]


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
        rest = (0, *range(2, train.dim()))  # images, and the pixels of maps
        count = known.sum(dim=rest, keepdim=True).clamp(min=1)
        mean = train.nan_to_num(0).sum(dim=rest, keepdim=True, dtype=torch.float64) / count
        centered = train - mean.to(train.dtype)
        std = (centered.nan_to_num(0).square().sum(dim=rest, keepdim=True, dtype=torch.float64) / count).sqrt()
        std = torch.where(std > 0, std, 1.0)
        self._mean, self._std = mean.flatten(), std.flatten()
        of_test = (test - mean.to(test.dtype)) / std.to(test.dtype)
        super().__init__(centered / std.to(train.dtype), of_test, num_outputs)

    @override
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self._std + self._mean

    @torch.no_grad()
    def in_units(self, layer: nn.Linear) -> None:
        """Changes the last layer of a network so that its outputs are in the units of the targets."""
        std, mean = (values.to(layer.weight) for values in (self._std, self._mean))
        layer.weight.mul_(std[:, None])
        layer.bias.mul_(std).add_(mean)


class MapProblem(NumberProblem):
    """Maps are standardized as numbers are; the predictions of a probe are its squared errors `(m, K)`."""

    @override
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs * self._std.square()


def check_targets(train: Targets, test: Targets, unseen_classes: bool = False) -> list[str]:
    """Raises unless training and test images have the same targets; returns their names."""
    short, long = sorted((test.names, train.names), key=len)
    is_numbered = all(name == str(label) for label, name in enumerate(long))
    starts_alike = is_numbered and long[: len(short)] == short  # numbers as classes may lack the last classes
    may_lack = {"class": long == train.names or unseen_classes, "mask": True}.get(train.kind.name, False)
    if train.names != test.names and not (starts_alike and may_lack):
        what = {"class": "classes"}.get(train.kind.each, f"{train.kind.each}s")
        lacking = _describe_missing(train.names, test.names, train.kind.each, what)
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
    if train.kind.each in ("number", "map"):
        for split, targets in (("train", train), ("test", test)):
            for name, values in zip(targets.names, targets.values.unbind(dim=1), strict=True):
                known = values[~values.isnan()]
                if not len(known) or known.min() == known.max():
                    raise ArgumentError(
                        f"the {train.kind.each} {name!r} must take at least two values among the {split} images; leave "
                        "it out"
                    )
    return long


def _describe_missing(train: Sequence[str], test: Sequence[str], one: str, what: str) -> str:
    """Names what the training or the test images lack; empty if they differ only in their order."""
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
    if train.names == ["unlabeled"]:
        raise ArgumentError(
            "evaluate() needs labels, and the training images have none: give from_arrays() labels, from_folder() a "
            "folder with one subfolder per class, or read a table with from_table()"
        )
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
