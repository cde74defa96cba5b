"""Intervals and paired differences, compared with SciPy, and the sentences that describe them."""

import math

import pytest
from scipy import stats

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import describe_difference, mean_interval, paired_difference


def test_mean_interval_is_that_of_scipy() -> None:
    values = [0.31, 0.35, 0.28, 0.40]
    low, high = stats.t.interval(0.9, 3, loc=stats.tmean(values), scale=stats.sem(values))
    mean, half = mean_interval(values, confidence=0.9)
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2)


def test_paired_difference_is_that_of_scipy() -> None:
    a, b = [0.5, 0.62, 0.55, 0.7, 0.61], [0.4, 0.5, 0.47, 0.6, 0.52]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    mean, half = paired_difference(a, b)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))


def test_differences_that_are_equal_up_to_rounding_have_no_spread() -> None:
    mean, half = paired_difference([0.3, 0.2], [0.2, 0.1])
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert mean == pytest.approx(0.1)
    assert half == 0
    assert "the difference is the same for every seed" in describe_difference(mean, half, "pixels")
    _, one_in_a_million = paired_difference([0.3, 0.2], [0.2, 0.1 - 1e-6])
    assert one_in_a_million == pytest.approx(stats.t.ppf(0.975, 1) * 1e-6 / 2, rel=1e-6)


def test_one_value_has_no_interval_and_no_values_raise_an_error() -> None:
    assert mean_interval([0.5]) == (0.5, None)
    mean, half = mean_interval([0.5, math.nan])
    assert math.isnan(mean)
    assert half is None
    with pytest.raises(ArgumentError, match="at least one value .* got 0 values and confidence=0.95"):
        mean_interval([])
    with pytest.raises(ArgumentError, match=r"a confidence in \(0, 1\), got 1 values and confidence=1"):
        mean_interval([0.5], confidence=1)
    with pytest.raises(ArgumentError, match="got 2 and 1 values"):
        paired_difference([1.0, 2.0], [1.0])


def test_the_description_depends_on_the_interval() -> None:
    assert describe_difference(0.031, 0.011, "x") == "3.1 points above x (95% interval +2.0 to +4.2)"
    assert describe_difference(-0.031, 0.011, "x") == "3.1 points below x (95% interval -4.2 to -2.0)"
    assert describe_difference(0.031, 0.032, "x") == (
        "no significant difference from x (+3.1 points, 95% interval -0.1 to +6.3)"
    )
    assert describe_difference(0.031, None, "x") == (
        "+3.1 points compared with x, without an interval because there is only one seed"
    )
