"""Means over seeds with Student's t intervals."""

import math
import statistics
from collections.abc import Sequence

from ssl_pretext.errors import ArgumentError

__all__ = ["mean_interval", "paired_difference"]


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
