"""Intervals over seeds: of one mean, and of the difference of two runs that shared their seeds."""

import math
from collections.abc import Sequence

import numpy as np

from ssl_pretext.errors import ArgumentError

__all__ = ["mean_interval", "paired_difference"]


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The mean and the half width of its Student t interval.

    Args:
        values: One number per seed, taken as independent and about normal.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        `(mean, half_width)`. The half width is NaN for a single value, which says nothing about spread; reports
        write it as None, for JSON has no NaN.

    Raises:
        ArgumentError: There are no values, or `confidence` lies outside `(0, 1)`.

    Examples:
        >>> mean, half_width = mean_interval([0.5, 0.6, 0.7])
        >>> round(mean, 3), round(half_width, 3)
        (0.6, 0.248)
    """
    if len(values) == 0:
        raise ArgumentError("mean_interval needs at least one value, got none")
    if not 0 < confidence < 1:
        raise ArgumentError(f"mean_interval takes a confidence between 0 and 1, got {confidence}")
    numbers = np.asarray(values, dtype=np.float64)
    count = len(numbers)
    if count == 1:
        return float(numbers[0]), math.nan
    from scipy import stats  # most of a second to load, so not with the package

    quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    return float(numbers.mean()), quantile * float(numbers.std(ddof=1)) / math.sqrt(count)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The mean of `a - b` and the half width of its interval, paired by position.

    Runs that share a seed share the order of the images and the labels drawn, so their difference varies less
    than either of them.

    Args:
        a: One number per seed.
        b: As many, of the same seeds in the same order.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        `(mean, half_width)` as `mean_interval` of the differences.

    Raises:
        ArgumentError: The lengths differ, or as for `mean_interval`.

    Examples:
        >>> mean, half_width = paired_difference([0.5, 0.75], [0.25, 0.5])
        >>> mean, half_width
        (0.25, 0.0)
    """
    if len(a) != len(b):
        raise ArgumentError(f"paired_difference needs equally many values of both, got {len(a)} and {len(b)}")
    return mean_interval([first - second for first, second in zip(a, b, strict=True)], confidence)
