"""Intervals that cover seeds, labeled images and test images together, and the sentences that describe them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_pretext.errors import ArgumentError

__all__ = ["Interval", "Scores", "Spread", "describe_difference", "holm", "interval", "mean_interval", "pooled"]

# Numbers of images are finite: where all images agree, their variance is 0, but the next image may differ. Two images
# that differ are added, so that an interval without any reaches 2.8 / m, which is near the 3 / m of the "rule of three"
# (Hanley and Lippman-Hand 1983).
UNSEEN = 2


class Scores(NamedTuple):
    """Scores of a representation for each seed and test image, or differences between those of two representations.

    Attributes:
        full: Scores `(S, m)` of S seeds and m test images, such as hits.
        parts: Scores `(P, m)` of probes that are each trained on another part of the labels, if the seeds share labels.
            The parts are disjoint, so their spread shows the uncertainty that comes from the choice of the labels. None
            if the seeds already use disjoint labels, or if the labeled images are held fixed.
        prediction: Whether one network is compared with networks that are drawn for each seed. The interval then covers
            another draw of the one network, too.
    """

    full: NDArray[Any]
    parts: NDArray[Any] | None = None
    prediction: bool = False


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
    """The part of the variance of a mean that comes from the seeds: from probes, networks and labels.

    Attributes:
        variance: The variance without the part that is due to the finite number of test images, at least 0.
        scale: The variance with that part. Its relative error follows from the degrees of freedom.
        freedom: Degrees of freedom; infinite for a single seed, whose spread is unknown and counts as 0.
    """

    variance: float
    scale: float
    freedom: float

    @classmethod
    def of(cls, scores: Scores) -> "Spread":
        """Computes the spread of the mean of all scores.

        Seeds and images are crossed random effects, as readers and cases are in radiology: a seed's score on an image
        is the mean plus an effect of the seed, one of the image, and one of both together (Obuchowski and Rockette
        1995). The last one is estimated by the residuals, and subtracted from the variance between seeds.
        """
        found = [_between_seeds(values) for values in (scores.full, scores.parts) if values is not None]
        if scores.prediction:
            # The full scores show the spread of networks. The mean of S of them is compared with one.
            seeds = len(scores.full)
            first, *others = found
            return _sum([cls((1 + seeds) * first.variance, (1 + seeds) * first.scale, first.freedom), *others])
        # Probes on parts of the labels differ by all that the others differ by, and by their labels. So only the larger
        # of the two spreads counts; their sum would count the probes and the networks twice.
        return max(found, key=lambda spread: spread.variance)


def _between_seeds(scores: NDArray[Any]) -> Spread:
    """The spread of the mean of independent seeds."""
    seeds, images = scores.shape
    if seeds == 1:
        return Spread(0.0, 0.0, math.inf)
    of_seeds, of_images = scores.mean(axis=1, keepdims=True), scores.mean(axis=0)
    total = float(of_seeds.var(ddof=1))
    residuals = scores - of_seeds - of_images + scores.mean()
    due_to_images = float(np.square(residuals).sum()) / ((seeds - 1) * max(1, images - 1)) / images
    return Spread(max(0.0, total - due_to_images) / seeds, total / seeds, seeds - 1)


def _sum(spreads: Sequence[Spread]) -> Spread:
    """The spread of a sum of independent effects, with the degrees of freedom of Satterthwaite."""
    known = [spread for spread in spreads if spread.scale]
    if not known:
        return Spread(0.0, 0.0, math.inf)
    squares = sum(spread.scale**2 / spread.freedom for spread in known)
    scale = sum(spread.scale for spread in known)
    return Spread(sum(spread.variance for spread in known), scale, scale**2 / squares)


def pooled(spreads: Sequence[Spread]) -> Spread:
    """Averages the spreads of several comparisons, for tables with few seeds: it is known better than each of them."""
    count = len(spreads)
    return Spread(
        sum(spread.variance for spread in spreads) / count,
        sum(spread.scale for spread in spreads) / count,
        sum(spread.freedom for spread in spreads),
    )


def interval(scores: Scores, *, spread: Spread | None = None, confidence: float = 0.95) -> Interval:
    """Computes the mean of all scores with an interval that covers the seeds and the test images together.

    The variance is that of the seeds, as `Spread` describes it, plus that of the mean over the test images. The
    quantile is that of Student's t with the degrees of freedom of Satterthwaite (1946), as in Hillis (2007).

    Args:
        scores: Scores of all seeds and test images.
        spread: The variance that comes from the seeds, such as the `pooled` one of several comparisons; by default it
            is computed from the scores.
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
    variance = spread.variance + (float(np.square(of_images - mean).sum()) + UNSEEN) / len(of_images) ** 2
    freedom = variance**2 * spread.freedom / spread.scale**2 if spread.scale else math.inf
    error = math.sqrt(variance)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return Interval(mean, half, float(2 * t.sf(abs(mean) / error, freedom)))


def describe_difference(found: Interval, reference: str, basis: str = "") -> str:
    """Describes a difference of accuracies in percentage points; whether it is significant depends on the interval.

    Args:
        found: The difference, as a fraction, with its interval.
        reference: Name of the representation whose accuracy was subtracted.
        basis: What the interval covers and what was held fixed.

    Examples:
        >>> describe_difference(Interval(0.031, 0.011, 0.001), "pixels", "over 5 seeds")
        '3.1 points above pixels (95% interval +2.0 to +4.2 over 5 seeds)'
        >>> describe_difference(Interval(0.004, 0.011, 0.4), "pixels")
        'no significant difference from pixels (+0.4 points, 95% interval -0.7 to +1.5)'
    """
    low, high = 100 * (found.mean - found.half), 100 * (found.mean + found.half)
    span = f"95% interval {low:+.1f} to {high:+.1f}" + (f" {basis}" if basis else "")
    if not found.significant:
        return f"no significant difference from {reference} ({100 * found.mean:+.1f} points, {span})"
    return f"{100 * abs(found.mean):.1f} points {'above' if found.mean > 0 else 'below'} {reference} ({span})"


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
