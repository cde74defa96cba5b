"""Means over seeds with Student's t intervals."""

import math
import statistics
from collections.abc import Sequence

from ssl_pretext.errors import ArgumentError

__all__ = ["difference_in_words", "mean_interval", "paired_difference"]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float | None]:
    """The mean and the half width of its confidence interval.

    Args:
        values: One figure per seed.
        confidence: Of the interval.

    Returns:
        Mean and half width; the latter is None for a single value, which says nothing of its spread.

    Raises:
        ArgumentError: There are no values.

    Examples:
        >>> mean, half = mean_interval([0.1, 0.2, 0.3])
        >>> round(mean, 3), round(half, 3)
        (0.2, 0.248)
    """
    from scipy.stats import t

    if not values:
        raise ArgumentError("mean_interval needs at least one value")
    mean = statistics.fmean(values)
    if len(values) == 1:
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
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence=confidence)


def difference_in_words(mean: float, half: float | None, reference: str) -> str:
    """What a difference of accuracies says, in percentage points: the interval decides, not the mean.

    Args:
        mean: Of the paired differences, as a share.
        half: Half the width of its 95% interval; None for a single seed.
        reference: What was subtracted.

    Examples:
        >>> difference_in_words(0.031, 0.011, "pixels")
        '3.1 points above pixels (95% interval +2.0 to +4.2)'
        >>> difference_in_words(0.004, 0.011, "pixels")
        'no difference from pixels that these seeds could show (+0.4 points, 95% interval -0.7 to +1.5)'
    """
    points = 100 * mean
    if half is None:
        return f"{points:+.1f} points against {reference} with one seed, so without an interval"
    low, high = 100 * (mean - half), 100 * (mean + half)
    span = f"95% interval {low:+.1f} to {high:+.1f}"
    if not significant(mean, half):
        return f"no difference from {reference} that these seeds could show ({points:+.1f} points, {span})"
    return f"{abs(points):.1f} points {'above' if mean > 0 else 'below'} {reference} ({span})"


def significant(mean: float, half: float | None) -> bool:
    """Whether the interval `mean ± half` excludes zero; equal runs, which differ nowhere, are no difference."""
    return half is not None and abs(mean) > half
