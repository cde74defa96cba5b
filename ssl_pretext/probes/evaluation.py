"""`evaluate` and `label_efficiency`, which train and test small classifiers on frozen features."""

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.comparison import Comparison, EvaluateOptions, Given
from ssl_pretext.probes.efficiency import LabelEfficiency
from ssl_pretext.probes.label_budget import LabelBudget
from ssl_pretext.probes.report import ProbeReport
from ssl_pretext.registry import did_you_mean
from ssl_pretext.system.processes import on_rank_zero

__all__ = ["EvaluateOptions", "evaluate", "label_efficiency"]


def evaluate(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    label_fraction: float = 1.0,
    per_class: int | None = None,
    **options: Unpack[EvaluateOptions],
) -> ProbeReport:
    """Trains and tests a probe on each representation, once per seed.

    A seed determines the initial weights of the probe, the order of the images, and the weights of the untrained
    controls. If there is a budget, the seeds together determine the labels that each of them uses, so that they share
    as few images as possible. All representations share the seeds, so that differences can be computed seed by seed.
    Test images are never used to select anything: the settings of the linear probe are selected on training images,
    and the last epoch counts.

    Features are computed once, and all layers of a network in one pass over the images. Under `torchrun`, rank 0 does
    the work and all processes get its report.

    Args:
        representations: Frozen features by name. A sequence stands for one network per seed, such as networks that were
            pretrained from different seeds, so that the interval includes the variation between them.
        train: Labeled training images: an `ImageStore`, a Dataset of `(image, label)`, or a pair `(images, labels)`.
        test: Labeled test images of the same classes, in any of these forms.
        label_fraction: The fraction of each class's labels that is used, at least one image per class.
        per_class: The number of labeled images per class, in place of `label_fraction`.
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
    comparison = Comparison(representations, train, test, **options)
    return on_rank_zero("evaluate", lambda: comparison.reports([LabelBudget(label_fraction, per_class)])[0])


def label_efficiency(
    representations: Mapping[str, Given],
    train: Any,
    test: Any,
    *,
    per_class: Sequence[int] = (1, 2, 5, 10, 20),
    **options: Unpack[EvaluateOptions],
) -> LabelEfficiency:
    """Runs `evaluate` for several numbers of labels; for a given seed, smaller budgets are subsets of larger ones.

    Args:
        representations: Frozen features by name, as for `evaluate`.
        train: Labeled training images as for `evaluate`, at least as many of each class as the largest budget.
        test: Labeled test images as for `evaluate`, which are the same for all budgets.
        per_class: The numbers of labeled images per class.
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
    given: object = per_class  # text is a sequence, too, but not for a type checker
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ArgumentError(
            "per_class of label_efficiency() must be a sequence of at least one number of labels, such as [1, 5], got "
            f"{per_class!r}"
        )
    counts = sorted(whole_number("each number in per_class", count) for count in per_class)
    if len({*counts}) < len(counts):
        raise ArgumentError(f"per_class of label_efficiency() must have no number twice, got {per_class!r}")
    comparison = Comparison(representations, train, test, **options)
    budgets = [LabelBudget(per_class=count) for count in counts]
    reports = on_rank_zero("evaluate", lambda: comparison.reports(budgets))
    return LabelEfficiency(dict(zip(counts, reports, strict=True)))


def _check_options(function: str, options: Mapping[str, Any]) -> None:
    known = EvaluateOptions.__annotations__
    if unknown := sorted(options.keys() - known):
        raise ArgumentError(
            f"{function}() has no option {unknown[0]!r}.{did_you_mean(unknown[0], known)} Options: {', '.join(known)}"
        )
