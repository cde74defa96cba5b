"""Intervals that cover seeds, labeled images and test images together, and the sentences that describe them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.metrics import ACCURACY, Metric

__all__ = ["Interval", "Scores", "Spread", "describe_difference", "holm", "interval", "mean_interval", "moderated"]

# Numbers of images are finite: where all images agree, their variance is 0, but the next image may differ. Two images
# that differ are added, so that an interval without any reaches 2.8 / m, which is near the 3 / m of the "rule of three"
# (Hanley and Lippman-Hand 1983).
UNSEEN = 2
# A variance of more than four times the median is not moderated. Without this limit, the interval of a comparison that
# truly varies six times as much as seven others missed the truth in 26% of simulated cases with three seeds.
OUTLIER = 4


class Scores(NamedTuple):
    """Scores of a representation for each seed and test image, or differences between those of two representations.

    Attributes:
        full: Scores `(S, m)` of S seeds and m test images, such as hits.
        parts: Scores `(P, m)` of probes that are each trained on another part of the labels, if the seeds share labels.
            The parts are disjoint, so their spread shows the uncertainty that comes from the choice of the labels. None
            if the seeds already use disjoint labels, or if the labeled images are held fixed.
        prediction: Whether one network is compared with networks that are drawn for each seed. The interval then covers
            another draw of the one network, too.
        step: How much the score of one image can change, by order of magnitude; 0 if that is unknown.
    """

    full: NDArray[Any]
    parts: NDArray[Any] | None = None
    prediction: bool = False
    step: float = 1.0


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, which is symmetric.

    Attributes:
        mean: The mean.
        half: Half the width of the interval.
        p: The p-value of the hypothesis that the true mean is 0.
    """

    mean: float
    half: float
    p: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half


@dataclass(frozen=True)
class Spread:
    """The variance of a mean that comes from the seeds: from probes, networks and labels.

    Attributes:
        total: The variance of the mean over independent seeds, as their spread shows it.
        noise: The part of it that is due to the finite number of test images, and not to the seeds.
        freedom: Degrees of freedom of the total; infinite for a single seed, whose spread is unknown and counts as 0.
    """

    total: float
    noise: float
    freedom: float

    @property
    def variance(self) -> float:
        """The variance without the noise, at least 0."""
        return max(0.0, self.total - self.noise)

    @classmethod
    def of(cls, scores: Scores) -> "Spread":
        """Computes the spread of the mean of all scores.

        Seeds and images are crossed random effects, as readers and cases are in radiology: a seed's score on an image
        is the mean plus an effect of the seed, one of the image, and one of both together (Obuchowski and Rockette
        1995). The last one is estimated by the residuals; it is the noise.
        """
        # Probes on parts of the labels differ by all that the others differ by, and by their labels. So only the larger
        # of the two spreads counts; their sum would count the probes and the networks twice.
        found = [_between_seeds(values) for values in (scores.full, scores.parts) if values is not None]
        return max(found, key=lambda spread: spread.variance)


def _between_seeds(scores: NDArray[Any]) -> Spread:
    """The spread of the mean of independent seeds."""
    seeds, images = scores.shape
    if seeds == 1:
        return Spread(0.0, 0.0, math.inf)
    of_seeds, of_images = scores.mean(axis=1, keepdims=True), scores.mean(axis=0)
    residuals = scores - of_seeds - of_images + scores.mean()
    noise = float(np.square(residuals).sum()) / ((seeds - 1) * max(1, images - 1)) / images
    return Spread(float(of_seeds.var(ddof=1)) / seeds, noise / seeds, seeds - 1)


def moderated(spreads: Sequence[Spread]) -> list[Spread]:
    """Moves the spreads of several comparisons toward their mean, for tables with few seeds.

    The variances are taken as draws from one distribution, which is estimated from all of them: the less they differ,
    the more each is moved, and the more degrees of freedom it gains (Smyth 2004, the moderated t-statistic of limma).
    A comparison with a far larger spread than most keeps its own.
    """
    from scipy.special import digamma, polygamma

    freedom = spreads[0].freedom
    totals = np.array([spread.total for spread in spreads])
    if len(spreads) < 3 or not np.isfinite(freedom) or not totals.any():
        return list(spreads)
    totals = np.maximum(totals, 1e-5 * np.median(totals[totals > 0]))  # as limma, because of the logarithm
    logs = np.log(totals) - digamma(freedom / 2) + math.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2))
    prior = 2 * _inverse_trigamma(excess) if excess > 0 else math.inf
    center = math.exp(float(logs.mean()) + (float(digamma(prior / 2)) - math.log(prior / 2) if excess > 0 else 0.0))
    weight = 1.0 if math.isinf(prior) else prior / (prior + freedom)
    # All comparisons together know no more than the degrees of freedom that they have.
    known = min(prior + freedom, len(spreads) * freedom)
    limit = OUTLIER * float(np.median(totals))
    return [
        spread if total > limit else Spread(float(weight * center + (1 - weight) * total), spread.noise, known)
        for spread, total in zip(spreads, totals, strict=True)
    ]


def _inverse_trigamma(value: float) -> float:
    """Solves trigamma(x) = value by Newton's method, as in the appendix of Smyth (2004)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x


def interval(scores: Scores, *, spread: Spread | None = None, confidence: float = 0.95) -> Interval:
    """Computes the mean of all scores with an interval that covers the seeds and the test images together.

    The variance is that of the seeds, as `Spread` describes it, plus that of the mean over the test images. The
    quantile is that of Student's t with the degrees of freedom of Satterthwaite (1946), as in Hillis (2007).

    If one network is compared with S draws, the interval is at least the prediction interval for one more draw, which
    has the half width `t s sqrt(1 + 1 / S)`. If the network is a draw like the others, it covers a difference of 0 with
    exactly the confidence level, whatever the test images are, because all networks see the same ones.

    Args:
        scores: Scores of all seeds and test images.
        spread: The spread of the seeds, such as a `moderated` one; by default it is computed from the scores.
        confidence: Confidence level of the interval, between 0 and 1.

    Raises:
        ArgumentError: There are no scores, or the confidence is not between 0 and 1.

    Examples:
        >>> hits = np.array([[1, 1, 0, 1], [1, 0, 0, 1]])
        >>> found = interval(Scores(hits))
        >>> found.mean, round(found.half, 2)
        (0.625, 0.81)
    """
    from scipy.stats import t

    if scores.full.size == 0 or not 0 < confidence < 1:
        raise ArgumentError(
            f"interval() needs scores of at least one seed and image and a confidence in (0, 1), got scores of shape "
            f"{scores.full.shape} and confidence={confidence}"
        )
    spread = spread or Spread.of(scores)
    of_images = scores.full.mean(axis=0)
    mean = float(of_images.mean())
    variance = (
        spread.variance + (float(np.square(of_images - mean).sum()) + UNSEEN * scores.step**2) / len(of_images) ** 2
    )
    # At least those of the spread: the formula would fall below if all of the spread is noise.
    freedom = max(spread.freedom, variance**2 * spread.freedom / spread.total**2 if spread.total else math.inf)
    errors = [(math.sqrt(variance), freedom)]
    if scores.prediction and len(scores.full) > 1:
        draws = _between_seeds(scores.full)
        errors.append((math.sqrt((1 + len(scores.full)) * draws.total), draws.freedom))
    half = max(float(t.ppf((1 + confidence) / 2, degrees)) * error for error, degrees in errors)
    p = max(float(2 * t.sf(abs(mean) / error, degrees)) if error else 0.0 for error, degrees in errors)
    return Interval(mean, half, p)


def describe_difference(
    found: Interval, reference: str, basis: str = "", *, kind: str = "95% interval", metric: Metric = ACCURACY
) -> str:
    """Describes a difference of a metric, in percentage points if it is shown in percent.

    Whether it is significant depends on the interval.

    Args:
        found: The difference with its interval.
        reference: Name of the representation whose value was subtracted.
        basis: What the interval covers and what was held fixed.
        kind: What the interval is called.
        metric: The metric.

    Examples:
        >>> describe_difference(Interval(0.031, 0.011, 0.001), "pixels", "over 5 seeds")
        '3.1 points above pixels (95% interval +2.0 to +4.2 over 5 seeds)'
        >>> describe_difference(Interval(0.004, 0.011, 0.4), "pixels")
        'no significant difference from pixels (+0.4 points, 95% interval -0.7 to +1.5)'
    """
    unit = " points" if metric.percent else ""
    span = describe_interval(found, basis, kind=kind, metric=metric)
    if not found.significant:
        return f"no significant difference from {reference} ({metric.text(found.mean, sign=True)}{unit}, {span})"
    size, where = metric.text(abs(found.mean)), "above" if found.mean > 0 else "below"
    return f"{size}{unit} {where} {reference} ({span})"


def describe_interval(
    found: Interval, basis: str = "", *, kind: str = "95% interval", metric: Metric = ACCURACY
) -> str:
    """Describes the interval of a difference; the arguments are those of `describe_difference`.

    Examples:
        >>> describe_interval(Interval(0.031, 0.011, 0.001), "over 5 seeds")
        '95% interval +2.0 to +4.2 over 5 seeds'
    """
    # A difference of two percentages is at most 100 points; an interval may reach beyond that if there are few images.
    most = 1.0 if metric.percent else math.inf
    bounds = (min(most, max(-most, found.mean + sign * found.half)) for sign in (-1, 1))
    low, high = (metric.text(value, sign=True) for value in bounds)
    return f"{kind} {low} to {high}" + (f" {basis}" if basis else "")


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values for several comparisons, so that all claims together are right with 95% (Holm 1979).

    A comparison is significant if its corrected p-value is below 0.05.

    Examples:
        >>> [round(value, 3) for value in holm([0.04, 0.01, 0.03])]
        [0.06, 0.03, 0.06]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [1.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float | None]:
    """Computes the mean and half the width of its confidence interval over the values alone, by Student's t.

    Args:
        values: One value per seed.
        confidence: Confidence level of the interval, between 0 and 1.

    Returns:
        The mean and half the width of the interval, which is None for a single value, whose spread is unknown, and for
        values that are not finite.

    Raises:
        ArgumentError: There are no values, or the confidence is not between 0 and 1.

    Examples:
        >>> mean, half = mean_interval([0.1, 0.2, 0.3])
        >>> round(mean, 3), round(half, 3)
        (0.2, 0.248)
    """
    from scipy.stats import t

    if not values or not 0 < confidence < 1:
        raise ArgumentError(
            f"mean_interval() needs at least one value and a confidence in (0, 1), got {len(values)} values and "
            f"confidence={confidence}"
        )
    mean = statistics.fmean(values)
    if len(values) == 1 or not math.isfinite(mean):
        return mean, None
    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))
