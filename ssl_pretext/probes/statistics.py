"""Means and paired differences over seeds, with Student's t intervals."""

import math
import statistics
import sys
from collections.abc import Sequence
from typing import cast

from ssl_pretext.errors import ArgumentError

__all__ = ["describe_difference", "mean_interval", "paired_difference"]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float | None]:
    """Computes the mean and half the width of its confidence interval.

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


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float | None]:
    """Computes `mean_interval` of the differences `first - second`, seed by seed.

    The interval is narrower than those of `first` and `second` if a seed affects both of them in the same way.

    Args:
        first: One value per seed.
        second: The values to subtract, for the same seeds in the same order.
        confidence: Confidence level of the interval, between 0 and 1.

    Returns:
        The mean difference and half the width of its interval, as in `mean_interval`. The width is exactly 0 if the
        differences are equal up to rounding.

    Raises:
        ArgumentError: The lengths differ, there are no values, or the confidence is not between 0 and 1.
    """
    if len(first) != len(second):
        raise ArgumentError(
            f"paired_difference() needs values for the same seeds, got {len(first)} and {len(second)} values"
        )
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, half = mean_interval(differences, confidence=confidence)
    # 0.3 - 0.2 and 0.2 - 0.1 stand for the same number of images, but differ by a rounding error.
    rounding = 4 * sys.float_info.epsilon * max(map(abs, (*first, *second)))
    return mean, 0.0 if half is not None and max(differences) - min(differences) <= rounding else half


def describe_difference(mean: float, half: float | None, reference: str) -> str:
    """Describes a difference of accuracies in percentage points; whether it is significant depends on the interval.

    Args:
        mean: Mean of the paired differences, as a fraction.
        half: Half the width of the 95% interval; None for a single seed, 0 if the difference is the same for all seeds.
        reference: Name of the representation whose accuracy was subtracted.

    Examples:
        >>> describe_difference(0.031, 0.011, "pixels")
        '3.1 points above pixels (95% interval +2.0 to +4.2)'
        >>> describe_difference(0.004, 0.011, "pixels")
        'no significant difference from pixels (+0.4 points, 95% interval -0.7 to +1.5)'
    """
    points = 100 * mean
    if not half:
        reason = "there is only one seed" if half is None else "the difference is the same for every seed"
        return f"{points:+.1f} points compared with {reference}, without an interval because {reason}"
    low, high = 100 * (mean - half), 100 * (mean + half)
    span = f"95% interval {low:+.1f} to {high:+.1f}"
    if not significant(mean, half):
        return f"no significant difference from {reference} ({points:+.1f} points, {span})"
    return f"{abs(points):.1f} points {'above' if mean > 0 else 'below'} {reference} ({span})"


def significant(mean: float, half: float | None) -> bool:
    """Whether the interval `mean ± half` exists and excludes zero.

    An interval of width 0 counts as none: if the difference is the same for all seeds, they do not show its spread.
    """
    return bool(half) and abs(mean) > cast(float, half)
