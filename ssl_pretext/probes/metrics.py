"""Metrics of probes, each with a score per test image, so that its interval covers the choice of the test images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import did_you_mean

__all__ = ["ACCURACY", "METRICS", "Metric", "class_scores", "find_metrics", "image_scores"]

BINS = 15  # of the calibration error, as in Guo et al. 2017 (1706.04599)


Value = Callable[[Tensor, Tensor, Tensor], Tensor]  # of outputs, true targets and weights of the images
Moments = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Metric:
    """A metric of the outputs of a probe on test images.

    Attributes:
        name: The name by which it is selected, such as `"balanced_accuracy"`.
        of: Function from outputs, true targets and a weight for each image `(m,)` to the metric. Only the ratios of the
            weights matter, and the metric is differentiable in them.
        percent: Whether it is shown in percent, and its differences in percentage points.
        higher_is_better: Whether larger values are better.
        step: How much one more image that is predicted wrongly would change its score: 1 if the metric counts images,
            0 if errors are small or large, as those of numbers and masks are.
        usual: Whether it is reported without being asked for.
        per_class: Function like `of` to the values `(K,)` for each class, label, number or map, of which the metric is
            the mean; NaN where a value is undefined. None if the metric is no such mean.
        per_class_name: What one of these values is called, such as `"accuracy"`; by default the name.
        has_units: Whether these values have units of their own, so that their mean means nothing.
        class_name: Name of the class if the metric is that of one class, as `for_class` returns it.
    """

    name: str
    of: Value
    percent: bool = True
    higher_is_better: bool = True
    step: float = 1.0
    usual: bool = True
    per_class: Value | None = None
    per_class_name: str = ""
    has_units: bool = False
    class_name: str | None = None

    @classmethod
    def mean_of(cls, name: str, per_class: Value, **options: Any) -> "Metric":
        """Returns the metric that is the mean of a value for each class, label, number or map, where it is defined."""

        def mean(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
            values = per_class(outputs, truth, weights)
            return values[~values.isnan()].mean()

        return cls(name, mean, per_class=per_class, **options)

    def for_class(self, name: str, step: float) -> "Metric":
        """Returns the metric of one class, label, number or map, with the step of its scores."""
        return replace(self, class_name=name, step=step)

    @property
    def label(self) -> str:
        """The name in words, such as `balanced accuracy`, or `accuracy of cat` for a single class."""
        if self.class_name is None:
            return self.name.replace("_", " ")
        return f"{self.label_per_class} of {self.class_name}"

    @property
    def label_per_class(self) -> str:
        """The name of the value of one class in words, such as `average precision`."""
        return (self.per_class_name or self.name).replace("_", " ")

    @property
    def heading(self) -> str:
        """The name with its unit, for a column of a table."""
        return f"test {self.label}, %" if self.percent else f"test {self.label}"

    @property
    def factor(self) -> int:
        """The factor from a value to the number that is shown."""
        return 100 if self.percent else 1

    def text(self, mean: float, half: float | None = None, *, sign: bool = False) -> str:
        """Formats a value or a difference with half the width of its interval, if it has one.

        Percentages have one decimal, and other values have as many as show two digits of the interval.

        Examples:
            >>> accuracy, r2 = find_metrics("class")[0], find_metrics("numbers")[0]
            >>> accuracy.text(0.123, 0.004), accuracy.text(0.02, sign=True), r2.text(0.4321, 0.0123)
            ('12.3 ± 0.4', '+2.0', '0.432 ± 0.012')
        """
        size = abs(half or mean)
        decimals = 1 if self.percent else (1 - math.floor(math.log10(size)) if 0 < size < math.inf else 2)
        decimals = max(0, decimals)
        found = f"{self.factor * mean:{'+' if sign else ''}.{decimals}f}"
        return found if half is None else f"{found} ± {self.factor * half:.{decimals}f}"


def image_scores(metric: Metric, outputs: Tensor, truth: Tensor) -> Tensor:
    """Divides a metric into a score for each test image; their mean is the metric.

    A score is the metric plus the influence of the image: the number of images times the derivative with respect to the
    weight of the image. The variance of the scores over their number is the variance of the metric over the choice of
    the test images, by the infinitesimal jackknife (Jaeckel 1972, Efron 1982). The scores of accuracy are the hits.

    Args:
        metric: The metric.
        outputs: Outputs for m test images, `(m, ...)`, in the form that the metric takes.
        truth: True targets, `(m, ...)`.

    Returns:
        Scores `(m,)` of type float64.

    Examples:
        >>> (accuracy,) = find_metrics("class", ["accuracy"])
        >>> image_scores(accuracy, torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1])).tolist()
        [1.0, 0.0]
    """
    with torch.enable_grad():
        weights = _ones(truth)
        return _scores(metric.of(outputs.detach(), truth, weights), weights)


def class_scores(metric: Metric, outputs: Tensor, truth: Tensor) -> Iterator[Tensor | None]:
    """Yields the scores of the test images, as `image_scores`, for each class, label, number or map of a metric.

    Args:
        metric: A metric that is a mean over classes, labels, numbers or maps.
        outputs: Outputs for m test images, `(m, ...)`, in the form that the metric takes.
        truth: True targets, `(m, ...)`.

    Yields:
        Scores `(m,)` of type float64, or None where the value is undefined, such as for a class without test images.
    """
    if metric.per_class is None:
        raise ArgumentError(f"the metric {metric.name} is no mean over classes")
    with torch.enable_grad():
        weights = _ones(truth)
        values = metric.per_class(outputs.detach(), truth, weights)
    for value in values:
        yield None if value.isnan() else _scores(value, weights)


def _ones(truth: Tensor) -> Tensor:
    return torch.ones(len(truth), dtype=torch.float64, device=truth.device, requires_grad=True)


def _scores(value: Tensor, weights: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value, weights, retain_graph=True)
    return value.detach() + len(weights) * slope


def find_metrics(kind: str, names: Sequence[str] | None = None) -> list[Metric]:
    """Returns metrics of a kind of target by name; by default the usual ones, of which the first is the main one.

    Raises:
        UnknownNameError: The kind has no such metric.
        ArgumentError: The names are not a sequence.
    """
    known = {metric.name: metric for metric in METRICS[kind]}
    if isinstance(names, str) or not isinstance(names, Sequence | None):
        raise ArgumentError(f"metrics must be a list of names such as {list(known)}, got {names!r}")
    for name in names or ():
        if name not in known:
            raise UnknownNameError(
                f"there is no metric {name!r} of {kind} targets.{did_you_mean(name, known)} Metrics: {', '.join(known)}"
            )
    return [known[name] for name in names] if names else [metric for metric in METRICS[kind] if metric.usual]


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def _hits(outputs: Tensor, truth: Tensor) -> Tensor:
    return (outputs.argmax(dim=1) == truth).double()


def _accuracy(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return _mean(_hits(outputs, truth), weights)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divides, with NaN where the divisor is 0; the gradients stay finite."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), torch.nan)


def _class_accuracies(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The accuracy on the images of each class, which is its recall."""
    zeros = weights.new_zeros(outputs.shape[1])
    right = zeros.index_add(0, truth, weights * _hits(outputs, truth))
    return _ratio(right, zeros.index_add(0, truth, weights))


def _class_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The F1 of each class that is true or predicted."""
    predicted = outputs.argmax(dim=1)
    zeros = weights.new_zeros(outputs.shape[1])
    both = zeros.index_add(0, truth, weights * (truth == predicted))
    return _ratio(2 * both, zeros.index_add(0, truth, weights) + zeros.index_add(0, predicted, weights))


def _calibration_error(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean distance between confidence and accuracy over bins of equal width, weighted by their images."""
    confidence = outputs.amax(dim=1).double()
    bins = (confidence * BINS).ceil().sub(1).clamp(0, BINS - 1).long()
    gaps = weights.new_zeros(BINS).index_add(0, bins, weights * (confidence - _hits(outputs, truth)))
    return gaps.abs().sum() / weights.sum()


def _average_precisions(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The area under the precision-recall curve of each label that applies to an image, as scikit-learn defines it."""
    found = []
    for scores, true in zip(outputs.T, truth.T, strict=True):
        known = ~true.isnan()
        is_defined = bool((true[known] == 1).any())
        found.append(
            _average_precision(scores[known], true[known], weights[known])
            if is_defined
            else weights.new_tensor(math.nan)
        )
    return torch.stack(found)


def _average_precision(scores: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    ordered, order = scores.sort(descending=True)
    chosen, positive = weights[order], (weights * truth)[order]
    # Images of the same score are found together, so the curve has a point only where the score changes.
    last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    all_found, true_found = chosen.cumsum(0)[last], positive.cumsum(0)[last]
    steps = true_found.diff(prepend=true_found.new_zeros(1))
    return (steps * true_found / all_found).sum() / positive.sum()


def _counts(outputs: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted numbers of true positives, and of predicted plus true ones, of each label `(K,)`."""
    known = ~truth.isnan()
    predicted, true = ((outputs > 0.5) & known).double(), truth.nan_to_num(0).double()
    return weights @ (predicted * true), weights @ (predicted + true)


def _label_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    both, sums = _counts(outputs, truth, weights)
    return 2 * both / torch.where(sums > 0, sums, 1.0)  # labels that are neither true nor predicted count as 0


def _label_micro_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    both, sums = _counts(outputs, truth, weights)
    return 2 * both.sum() / sums.sum().clamp(min=1e-12)


def _moments(outputs: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean squared error and the variance of each number `(K,)`, over the images where it is known."""
    known = ~truth.isnan()
    share = weights[:, None] * known
    share = share / share.sum(dim=0).clamp(min=1e-12)
    true = truth.nan_to_num(0).double()
    mean = (share * true).sum(dim=0)
    error = (outputs.double() - true).square()
    return (share * error).sum(dim=0), (share * (true - mean).square()).sum(dim=0)


def _map_moments(outputs: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same of each map, over all known pixels.

    The outputs are the sums of the squared errors of each image, `(m, K)`, and the true targets are the numbers of
    known pixels and the sums of their values and of the squares, `(m, K, 3)`.
    """
    errors, pixels, values, squares = ((weights[:, None] * sums).sum(dim=0) for sums in (outputs, *truth.unbind(dim=2)))
    pixels = pixels.clamp(min=1e-12)
    return errors / pixels, squares / pixels - (values / pixels).square()


def _r2(moments: Moments) -> Value:
    def r2(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        error, variance = moments(outputs, truth, weights)
        return 1 - _ratio(error, variance)

    return r2


def _rmse(moments: Moments) -> Value:
    def rmse(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        error, _ = moments(outputs, truth, weights)
        return error.clamp(min=1e-300).sqrt()

    return rmse


def _ious(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The intersection over union of each class that is true or predicted anywhere.

    The outputs are the numbers of pixels of each class that are found and that are predicted, `(m, K, 2)`, and the true
    targets are the numbers of pixels that truly have the class, `(m, K)`.
    """
    found, predicted, true = (weights @ counts.double() for counts in (*outputs.unbind(dim=2), truth))
    return _ratio(found, predicted + true - found)


def _pixel_accuracy(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return (weights @ outputs[:, :, 0].double()).sum() / (weights @ truth.double()).sum()


def _number_metrics(moments: Moments) -> tuple[Metric, Metric]:
    return (
        Metric.mean_of("r2", _r2(moments), percent=False, step=0.0),
        Metric.mean_of("rmse", _rmse(moments), percent=False, higher_is_better=False, step=0.0, has_units=True),
    )


ACCURACY = Metric("accuracy", _accuracy)
# The metrics of each kind of target; the first is the main one.
METRICS = {
    "class": (
        ACCURACY,
        Metric.mean_of("balanced_accuracy", _class_accuracies, per_class_name="accuracy"),
        Metric.mean_of("macro_f1", _class_f1, per_class_name="f1", usual=False),
        Metric("calibration_error", _calibration_error, higher_is_better=False, usual=False),
    ),
    "labels": (
        Metric.mean_of("mean_average_precision", _average_precisions, per_class_name="average_precision"),
        Metric.mean_of("macro_f1", _label_f1, per_class_name="f1"),
        Metric("micro_f1", _label_micro_f1),
    ),
    "numbers": _number_metrics(_moments),
    "mask": (
        Metric.mean_of("mean_iou", _ious, per_class_name="IoU", step=0.0),
        Metric("pixel_accuracy", _pixel_accuracy, step=0.0),
    ),
    "map": _number_metrics(_map_moments),
}
