"""Intervals over seeds, labels and test images: their formula, their coverage, and the sentences that describe them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import Interval, Scores, describe_difference, holm, interval, mean_interval
from ssl_pretext.probes.statistics import Spread, moderated


def differences(seeds: int, images: int, *, luck: float, noise: float = 0.8, rng: np.random.Generator) -> np.ndarray:
    """Differences of hits of two classifiers of equal quality, which share how difficult an image is.

    Args:
        seeds: Number of seeds.
        images: Number of test images.
        luck: How much the quality varies between seeds.
        noise: How much the result for one image varies between seeds.
        rng: Source of randomness.
    """
    difficulty = 1.5 * rng.normal(size=images)

    def hits() -> np.ndarray:
        own = difficulty + 0.7 * rng.normal(size=images)
        return own + luck * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, images)) > 0

    return hits().astype(int) - hits()


# The formula


def test_the_variance_is_that_of_obuchowski_and_rockette() -> None:
    scores = differences(6, 4_000, luck=0.2, rng=np.random.default_rng(3))
    covariance = np.cov(scores)
    between_images = covariance[~np.eye(6, dtype=bool)].mean() / 4_000
    variance = scores.mean(axis=1).var(ddof=1) / 6 + between_images
    freedom = variance**2 / ((scores.mean(axis=1).var(ddof=1) / 6) ** 2 / 5)
    found = interval(Scores(scores))
    assert found.mean == pytest.approx(scores.mean())
    assert found.half == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5, rel=1e-3)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(scores.mean()) / variance**0.5, freedom), rel=1e-2)


def test_seeds_that_agree_leave_the_uncertainty_of_the_test_images() -> None:
    hits = np.arange(400) % 4 == 0
    found = interval(Scores(np.stack([hits] * 5)))
    error = (0.25 * 0.75 / 400 + 2 / 400**2) ** 0.5
    assert (found.mean, found.half) == pytest.approx((0.25, stats.norm.ppf(0.975) * error))
    assert interval(Scores(hits[None])) == found


def test_images_that_all_agree_do_not_make_an_interval_of_no_width() -> None:
    found = interval(Scores(np.ones((3, 200))))
    assert 0.75 * 3 / 200 < found.half < 3 / 200, "near the rule of three"
    assert not interval(Scores(np.zeros((3, 200)))).significant


def test_one_network_against_draws_has_a_prediction_interval() -> None:
    accuracies = np.array([0.1, 0.14, 0.19, 0.12])
    scores = (np.arange(100_000) < 100_000 * accuracies[:, None]).astype(int)
    s = accuracies.std(ddof=1)
    found = interval(Scores(scores, prediction=True))
    assert found.half == pytest.approx(stats.t.ppf(0.975, 3) * s * (1 + 1 / 4) ** 0.5, rel=1e-4)
    assert found.p == pytest.approx(2 * stats.t.sf(accuracies.mean() / s / (1 + 1 / 4) ** 0.5, 3), rel=1e-4)
    assert interval(Scores(scores)).half == pytest.approx(stats.t.ppf(0.975, 3) * s / 2, rel=0.01)


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_a_network_that_is_a_draw_like_the_others_is_seldom_told_apart(seeds: int) -> None:
    rng, claims = np.random.default_rng(2), []
    for _ in range(300):
        difficulty = 1.5 * rng.normal(size=500)
        quality, own = 0.2 * rng.normal(size=(seeds + 1, 1)), 0.7 * rng.normal(size=(seeds + 1, 500))
        one, *draws = difficulty + own + quality > 0
        claims.append(interval(Scores(one.astype(int) - np.array(draws), prediction=True)).significant)
    assert 0.01 <= np.mean(claims) <= 0.09


def test_the_spread_of_disjoint_parts_of_the_labels_counts_where_it_is_larger() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(differences(1, 2_000, luck=0, rng=rng), 5, axis=0)
    parts = differences(5, 2_000, luck=0.5, rng=rng)
    found = interval(Scores(same, parts))
    assert found.mean == pytest.approx(same.mean())
    assert found.half > 2 * interval(Scores(same)).half
    assert Spread.of(Scores(same, parts)) == Spread.of(Scores(parts)) == Spread.of(Scores(parts, same))


def test_an_interval_of_noise_does_not_explode() -> None:
    """All of the spread between two seeds is noise here: the formula's degrees of freedom would be far below 1."""
    scores = np.zeros((2, 200))
    scores[0, :110] = scores[1, 110:] = 1
    assert interval(Scores(scores)).half < 1
    assert interval(Scores(scores[:, ::-1])).half < 1


def test_moderated_spreads_follow_the_formula_of_smyth() -> None:
    # With d degrees of freedom each, z = log(s²) has the variance trigamma(d / 2) + trigamma(d0 / 2).
    totals, freedom = [0.1, 0.2, 1.5, 2.0, 0.15, 1.8], 3
    excess = np.var(np.log(totals), ddof=1) - polygamma(1, freedom / 2)
    prior = 2 * brentq(lambda x: polygamma(1, x) - excess, 1e-3, 1e3)
    center = np.exp(
        np.mean(np.log(totals) - digamma(freedom / 2) + np.log(freedom / 2)) + digamma(prior / 2) - np.log(prior / 2)
    )
    found = moderated([Spread(total, 0.1, freedom) for total in totals])
    expected = [(prior * center + freedom * total) / (prior + freedom) for total in totals]
    assert [one.total for one in found] == pytest.approx(expected)
    assert {one.noise for one in found} == {0.1}
    assert [one.freedom for one in found] == pytest.approx([prior + freedom] * 6)
    assert prior + freedom < 6 * freedom


def test_spreads_that_differ_no_more_than_by_chance_are_replaced_by_their_mean() -> None:
    found = moderated([Spread(total, 0.0, 2) for total in (1.0, 1.1, 0.9, 1.05)])
    assert len({one.total for one in found}) == 1
    assert {one.freedom for one in found} == {8}


def test_a_spread_that_is_far_larger_than_the_others_is_not_moderated() -> None:
    spreads = [Spread(total, 0.0, 2) for total in (1.0, 1.3, 0.8, 1.1, 9.0)]
    found = moderated(spreads)
    assert found[-1] == spreads[-1]
    assert found[0].freedom > 2
    assert moderated(spreads[:2]) == spreads[:2], "two comparisons say too little about the distribution"
    single = [Spread(0.0, 0.0, math.inf)] * 4
    assert moderated(single) == single


def test_scores_without_images_raise_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"at least one seed and image .* shape \(2, 0\) and confidence=0.95"):
        interval(Scores(np.zeros((2, 0))))
    with pytest.raises(ArgumentError, match="confidence=1"):
        interval(Scores(np.zeros((2, 3))), confidence=1)


# Coverage


@pytest.mark.parametrize(("seeds", "images"), [(3, 200), (5, 1_000), (10, 300)])
@pytest.mark.parametrize("luck", [0.0, 0.1, 0.3])
def test_no_difference_is_claimed_more_often_than_allowed(seeds: int, images: int, luck: float) -> None:
    rng = np.random.default_rng(1)
    claims = [interval(Scores(differences(seeds, images, luck=luck, rng=rng))).significant for _ in range(400)]
    assert 0.01 <= np.mean(claims) <= 0.09


def test_an_interval_over_seeds_alone_claims_differences_that_are_not_there() -> None:
    rng = np.random.default_rng(1)
    means = [list(differences(5, 1_000, luck=0, rng=rng).mean(axis=1)) for _ in range(400)]
    claims = [abs(mean) > half for mean, half in map(mean_interval, means)]
    assert np.mean(claims) > 0.13


# Several comparisons


def test_the_correction_of_holm_follows_its_paper() -> None:
    # Ordered, the p-values are multiplied by 4, 3, 2, 1 and made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_correction_keeps_the_order_and_never_makes_a_claim_stronger(p: list[float]) -> None:
    found = holm(p)
    assert all(raw <= corrected <= 1 for raw, corrected in zip(p, found, strict=True))
    assert [found[i] for i in np.argsort(p, kind="stable")] == sorted(found)


# Means over seeds alone


def test_mean_interval_is_that_of_scipy() -> None:
    values = [0.31, 0.35, 0.28, 0.40]
    low, high = stats.t.interval(0.9, 3, loc=stats.tmean(values), scale=stats.sem(values))
    mean, half = mean_interval(values, confidence=0.9)
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2)


def test_one_value_has_no_interval_and_no_values_raise_an_error() -> None:
    assert mean_interval([0.5]) == (0.5, None)
    mean, half = mean_interval([0.5, math.nan])
    assert math.isnan(mean)
    assert half is None
    with pytest.raises(ArgumentError, match="at least one value .* got 0 values and confidence=0.95"):
        mean_interval([])
    with pytest.raises(ArgumentError, match=r"a confidence in \(0, 1\), got 1 values and confidence=1"):
        mean_interval([0.5], confidence=1)


# Sentences


def test_the_description_depends_on_the_interval() -> None:
    assert describe_difference(Interval(0.031, 0.011, 0), "x") == "3.1 points above x (95% interval +2.0 to +4.2)"
    assert describe_difference(Interval(-0.031, 0.011, 0), "x", "over 5 seeds") == (
        "3.1 points below x (95% interval -4.2 to -2.0 over 5 seeds)"
    )
    assert describe_difference(Interval(0.031, 0.032, 0.1), "x") == (
        "no significant difference from x (+3.1 points, 95% interval -0.1 to +6.3)"
    )
