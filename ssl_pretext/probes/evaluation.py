"""`evaluate` and `label_efficiency`, which train and test small classifiers on frozen features."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from typing_extensions import Unpack

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.comparison import ONE_AT_A_TIME, Comparison
from ssl_pretext.probes.efficiency import LabelEfficiency
from ssl_pretext.probes.given import Given, One
from ssl_pretext.probes.label_budget import LabelBudget
from ssl_pretext.probes.options import EvaluateOptions
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.probes.time_estimate import log_estimate
from ssl_pretext.registry import did_you_mean

__all__ = ["evaluate", "label_efficiency"]

PER_CLASS, NUM_LABELS = (1, 2, 5, 10, 20), (10, 20, 50, 100, 200)

T = TypeVar("T")


def evaluate(
    representations: Mapping[str, Given] | One,
    train: Any,
    test: Any,
    *,
    label_fraction: float = 1.0,
    per_class: int | None = None,
    num_labels: int | None = None,
    **options: Unpack[EvaluateOptions],
) -> ProbeReport:
    """Trains and tests a probe on each representation, once per seed.

    A seed determines the initial weights of the probe, the order of the images, and the weights of the untrained
    controls. If there is a budget, the seeds together determine the labels that each of them uses, so that they share
    as few images as possible. All representations share the seeds, so that differences can be computed seed by seed.
    Test images are never used to select anything: the settings of the linear probe are selected on training images,
    and the last epoch counts.

    Features are computed once, and all layers of a network in one pass over the images. Under `torchrun`, the
    processes share this work, rank 0 trains the probes, and all processes get its report.

    Args:
        representations: What to compare, by name: tasks, networks (`FrozenNetwork`, or any module that takes RGB images
            normalized to about `[-1, 1]`), names of encoders such as `"timm/resnet18[pretrained=true]"`, or
            representations such as one layer of a task. One of them alone is called by its own name. All are frozen.
            A sequence stands for one network per seed, such as networks that were pretrained from different seeds, so
            that the interval includes the variation between them.
        train: Training images with their targets: an `ImageStore`, a dataset or a loader of samples (see
            `ssl_pretext.data.Samples`), or a pair `(images, targets)`; see `EvaluateOptions.target`.
        test: Test images with targets of the same kind, in any of these forms.
        label_fraction: The fraction of each class's labels that is used, at least one image per class.
        per_class: The number of labeled images per class, in place of `label_fraction`.
        num_labels: The number of labeled images, in place of `label_fraction`, if the targets are no classes.
        options: The probe (`"linear"` by default), seeds, controls and more; see `EvaluateOptions`.

    Returns:
        The report, with `table()`, `summary()`, `differences()`, `to_json()` and `plot()`.

    Raises:
        ArgumentError: The data or an option cannot be used; the message says why.

    Examples:
        >>> import torch
        >>> from ssl_pretext.representations import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> report = evaluate({"pixels": Pixels("rgb")}, data, data, epochs=1, seeds=2)
        >>> report.summary()[0]["representation"]
        'pixels'
    """
    _check_options("evaluate", options)
    with ONE_AT_A_TIME:
        comparison = Comparison(representations, train, test, **options)
    count = _label_count(comparison, per_class, num_labels)
    if num_labels is not None:
        whole_number("num_labels", num_labels)
    return comparison.reports([LabelBudget(label_fraction, count)], before=log_estimate)[0]


def label_efficiency(
    representations: Mapping[str, Given] | One,
    train: Any,
    test: Any,
    *,
    per_class: Sequence[int] | None = None,
    num_labels: Sequence[int] | None = None,
    **options: Unpack[EvaluateOptions],
) -> LabelEfficiency:
    """Runs `evaluate` for several numbers of labels; for a given seed, smaller budgets are subsets of larger ones.

    Args:
        representations: Frozen features by name, as for `evaluate`.
        train: Labeled training images as for `evaluate`, at least as many of each class as the largest budget.
        test: Labeled test images as for `evaluate`, which are the same for all budgets.
        per_class: The numbers of labeled images per class, by default 1, 2, 5, 10 and 20.
        num_labels: The numbers of labeled images if the targets are no classes, by default 10, 20, 50, 100 and 200.
        options: The probe, seeds, controls and more; see `EvaluateOptions`.

    Raises:
        ArgumentError: The data or an option cannot be used, or a class has too few images.

    Examples:
        >>> import torch
        >>> from ssl_pretext.representations import Pixels
        >>> data = (torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), [0, 1] * 4)
        >>> curve = label_efficiency({"pixels": Pixels("rgb")}, data, data, per_class=[1, 4], probe="knn", seeds=2)
        >>> list(curve.reports)
        [1, 4]
    """
    _check_options("label_efficiency", options)
    with ONE_AT_A_TIME:
        comparison = Comparison(representations, train, test, **options)
    name, default = ("per_class", PER_CLASS) if comparison.kind.name == "class" else ("num_labels", NUM_LABELS)
    given: object = _label_count(comparison, per_class, num_labels)
    given = default if given is None else given
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ArgumentError(
            f"{name} of label_efficiency() must be a sequence of at least one number of labels, such as [1, 5], got "
            f"{given!r}"
        )
    counts = sorted(whole_number(f"each number in {name}", count) for count in given)
    if len({*counts}) < len(counts):
        raise ArgumentError(f"{name} of label_efficiency() must have no number twice, got {given!r}")
    budgets = [LabelBudget(per_class=count) for count in counts]
    reports = comparison.reports(budgets, before=log_estimate)
    return LabelEfficiency(dict(zip(counts, reports, strict=True)))


def _label_count(comparison: Comparison, per_class: T, num_labels: T) -> T:
    """Returns the number of labels that belongs to the kind of target, and refuses the other one."""
    if comparison.kind.name == "class":
        given, other, wanted, refused = per_class, num_labels, "per_class", "num_labels"
    else:
        given, other, wanted, refused = num_labels, per_class, "num_labels", "per_class"
    if other is not None:
        raise ArgumentError(f"for target={comparison.kind.name!r}, pass {wanted} in place of {refused}")
    return given


def _check_options(function: str, options: Mapping[str, Any]) -> None:
    known = EvaluateOptions.__annotations__
    if unknown := sorted(options.keys() - known):
        raise ArgumentError(
            f"{function}() has no option {unknown[0]!r}.{did_you_mean(unknown[0], known)} Options: {', '.join(known)}"
        )
