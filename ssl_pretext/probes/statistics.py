"""Means over seeds with Student's t intervals."""

import math
import statistics
import sys
from collections.abc import Sequence
from typing import cast

from ssl_pretext.errors import ArgumentError

__all__ = ["describe_difference", "mean_interval", "paired_difference"]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float | None]:
    """The mean and the half width of its confidence interval.

    Args:
        values: One figure per seed.
        confidence: Of the interval.

    Returns:
        Mean and half width; the latter is None for a single value, which says nothing of its spread, and for values
        that are not finite.

    Raises:
        ArgumentError: There are no values, or the confidence does not lie between 0 and 1.

    Examples:
        >>> mean, half = mean_interval([0.1, 0.2, 0.3])
        >>> round(mean, 3), round(half, 3)
        (0.2, 0.248)
    """
    from scipy.stats import t

    if not values or not 0 < confidence < 1:
        raise ArgumentError(f"mean_interval needs at least one value and a confidence in (0, 1), got {confidence}")
    mean = statistics.fmean(values)
    if len(values) == 1 or not math.isfinite(mean):
        return mean, None
    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float | None]:
    """`mean_interval` of `first - second`, seed by seed; narrower than two intervals where seeds share their luck.

    Raises:
        ArgumentError: The lengths differ.
    """
    if len(first) != len(second):
        raise ArgumentError(f"paired_difference needs the same seeds on both sides, got {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, half = mean_interval(differences, confidence=confidence)
    # 0.3 - 0.2 and 0.2 - 0.1 are as many images, and are not the same number.
    rounding = 4 * sys.float_info.epsilon * max(map(abs, (*first, *second)))
    return mean, 0.0 if half is not None and max(differences) - min(differences) <= rounding else half


def describe_difference(mean: float, half: float | None, reference: str) -> str:
    """What a difference of accuracies says, in percentage points: the interval decides, not the mean.

    Args:
        mean: Of the paired differences, as a share.
        half: Half the width of its 95% interval; None for a single seed, 0 where all seeds agree to the image.
        reference: What was subtracted.

    Examples:
        >>> describe_difference(0.031, 0.011, "pixels")
        '3.1 points above pixels (95% interval +2.0 to +4.2)'
        >>> describe_difference(0.004, 0.011, "pixels")
        'no difference from pixels that these seeds could show (+0.4 points, 95% interval -0.7 to +1.5)'
    """
    points = 100 * mean
    if not half:
        why = "with one seed" if half is None else "the same for every seed"
        return f"{points:+.1f} points against {reference}, {why}, so without an interval"
    low, high = 100 * (mean - half), 100 * (mean + half)
    span = f"95% interval {low:+.1f} to {high:+.1f}"
    if not significant(mean, half):
        return f"no difference from {reference} that these seeds could show ({points:+.1f} points, {span})"
    return f"{abs(points):.1f} points {'above' if mean > 0 else 'below'} {reference} ({span})"


def significant(mean: float, half: float | None) -> bool:
    """Whether the interval `mean ± half` excludes zero.

    Seeds that agree to the image say nothing of the spread that there is, so that nothing follows from them.
    """
    return bool(half) and abs(mean) > cast(float, half)
