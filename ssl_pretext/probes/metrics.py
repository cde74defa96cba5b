"""Metrics of probes, each with a score per test image, so that its interval covers the choice of the test images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import did_you_mean

__all__ = ["ACCURACY", "METRICS", "Metric", "find_metrics", "image_scores"]

BINS = 15  # of the calibration error, as in Guo et al. 2017 (1706.04599)


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
    """

    name: str
    of: Callable[[Tensor, Tensor, Tensor], Tensor]
    percent: bool = True
    higher_is_better: bool = True
    step: float = 1.0
    usual: bool = True

    @property
    def label(self) -> str:
        """The name in words, such as `balanced accuracy`."""
        return self.name.replace("_", " ")

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
        weights = torch.ones(len(truth), dtype=torch.float64, device=outputs.device, requires_grad=True)
        value = metric.of(outputs.detach(), truth, weights)
        (slope,) = torch.autograd.grad(value, weights)
    return value.detach() + len(truth) * slope


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


def _balanced_accuracy(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean over the classes of the test images of the accuracy on the images of the class."""
    classes, labels = truth.unique(return_inverse=True)
    zeros = weights.new_zeros(len(classes))
    right = zeros.index_add(0, labels, weights * _hits(outputs, truth))
    return (right / zeros.index_add(0, labels, weights)).mean()


def _macro_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean F1 over all classes that are true or predicted."""
    predicted = outputs.argmax(dim=1)
    classes, places = torch.cat([truth, predicted]).unique(return_inverse=True)
    true, found = places.tensor_split(2)
    zeros = weights.new_zeros(len(classes))
    both = zeros.index_add(0, true, weights * (truth == predicted))
    return (2 * both / (zeros.index_add(0, true, weights) + zeros.index_add(0, found, weights))).mean()


def _calibration_error(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean distance between confidence and accuracy over bins of equal width, weighted by their images."""
    confidence = outputs.double().amax(dim=1)
    bins = (confidence * BINS).ceil().sub(1).clamp(0, BINS - 1).long()
    gaps = weights.new_zeros(BINS).index_add(0, bins, weights * (confidence - _hits(outputs, truth)))
    return gaps.abs().sum() / weights.sum()


def _mean_average_precision(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean over the labels of the area under the precision-recall curve, as scikit-learn defines it."""
    found = []
    for scores, true in zip(outputs.T, truth.T, strict=True):
        known = ~true.isnan()
        if (true[known] == 1).any():
            found.append(_average_precision(scores[known], true[known], weights[known]))
    return torch.stack(found).mean()


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


def _label_macro_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    both, sums = _counts(outputs, truth, weights)
    used = sums > 0  # labels that are neither true nor predicted count as 0
    return (2 * both[used] / sums[used]).sum() / len(sums)


def _label_micro_f1(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    both, sums = _counts(outputs, truth, weights)
    return 2 * both.sum() / sums.sum().clamp(min=1e-12)


def _moments(outputs: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean squared error and the variance of each target `(K,)`, over the images where it is known."""
    known = ~truth.isnan()
    share = weights[:, None] * known
    share = share / share.sum(dim=0).clamp(min=1e-12)
    true = truth.nan_to_num(0).double()
    mean = (share * true).sum(dim=0)
    error = (outputs.double() - true).square()
    return (share * error).sum(dim=0), (share * (true - mean).square()).sum(dim=0)


def _r2(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    error, variance = _moments(outputs, truth, weights)
    varies = variance > 0
    return (1 - error[varies] / variance[varies]).mean()


def _rmse(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    error, _ = _moments(outputs, truth, weights)
    return error.clamp(min=1e-300).sqrt().mean()


def _mean_iou(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean intersection over union, over all classes that are true or predicted anywhere.

    The outputs are the numbers of pixels of each class that are found and that are predicted, `(m, K, 2)`, and the true
    targets are the numbers of pixels that truly have the class, `(m, K)`.
    """
    found, predicted, true = (weights @ counts.double() for counts in (*outputs.unbind(dim=2), truth))
    union = predicted + true - found
    return (found[union > 0] / union[union > 0]).mean()


def _pixel_accuracy(outputs: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return (weights @ outputs[:, :, 0].double()).sum() / (weights @ truth.double()).sum()


ACCURACY = Metric("accuracy", _accuracy)
# The metrics of each kind of target; the first is the main one.
METRICS = {
    "class": (
        ACCURACY,
        Metric("balanced_accuracy", _balanced_accuracy),
        Metric("macro_f1", _macro_f1, usual=False),
        Metric("calibration_error", _calibration_error, higher_is_better=False, usual=False),
    ),
    "labels": (
        Metric("mean_average_precision", _mean_average_precision),
        Metric("macro_f1", _label_macro_f1),
        Metric("micro_f1", _label_micro_f1),
    ),
    "numbers": (
        Metric("r2", _r2, percent=False, step=0.0),
        Metric("rmse", _rmse, percent=False, higher_is_better=False, step=0.0),
    ),
    "mask": (Metric("mean_iou", _mean_iou, step=0.0), Metric("pixel_accuracy", _pixel_accuracy, step=0.0)),
}
