"""Rankings: which representation is best, and whether its lead is more than chance."""

from itertools import combinations

import pytest
from probing import made_up_report

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.ranking import answer, rank

CLEAR = {"a": [0.50, 0.52, 0.51, 0.51], "b": [0.80, 0.81, 0.79, 0.80], "c": [0.70, 0.71, 0.69, 0.70]}
TIED = {"a": [0.52, 0.47, 0.53, 0.48], "b": [0.51, 0.49, 0.52, 0.47], "c": [0.20, 0.21, 0.20, 0.20]}


def by_hand(p):
    """The correction of Holm: each p-value, from the smallest on, times the number of those that are not smaller."""
    order = sorted(p)
    return [max(min(1, (len(p) - i) * q) for i, q in enumerate(order) if q <= value) for value in p]


def test_the_best_is_first_and_all_pairs_are_corrected_together():
    reports = {"5": made_up_report(TIED, {}), "10": made_up_report(CLEAR, {})}
    found = rank(reports)
    assert found["10"].names == ["b", "c", "a"]
    assert found["10"].is_clear
    pairs = [(key, *pair) for key in reports for pair in combinations("abc", 2)]
    corrected = by_hand([reports[key].difference(name, other)["p"] for key, name, other in pairs])
    expected = {(key, *sorted((name, other))): p for (key, name, other), p in zip(pairs, corrected, strict=True)}
    for key, ranking in found.items():
        for row in ranking.rows:
            assert row["p_holm"] == pytest.approx(expected[(key, *sorted((ranking.best, row["reference"])))])
            assert row["mean"] == pytest.approx(reports[key].difference(ranking.best, row["reference"])["mean"])
    assert found["5"].ties == ["b"]
    assert not found["5"].is_clear


def test_the_answer_says_which_is_best_by_how_much_and_against_what():
    first, second, third = answer(rank({"5 labels": made_up_report(TIED, {}), "10 labels": made_up_report(CLEAR, {})}))
    assert first.startswith("With 10 labels, b is best: 10.0 points above c (95% interval +")
    assert first.endswith("), the next one, and better than all others.")
    assert second.startswith(
        "With 5 labels, no difference is shown between a and b: a scores best, +0.2 points from b,"
    )
    assert "which may be chance (95% interval -" in second
    assert "It is 29.8 points above c (95% interval +" in second
    assert third == "These claims are corrected for all 6 pairs that were compared (Holm 1979)."


def test_two_equal_ones_have_no_best():
    (only,) = answer(rank({"all labels": made_up_report({name: TIED[name] for name in "ab"}, {})}))
    assert only.startswith("With all labels, no difference is shown between the two: a scores best, +0.2 points from b")


def test_a_lead_that_the_number_of_pairs_explains_is_no_difference():
    """The interval of one pair excludes 0, but there are ten pairs."""
    values = {name: [0.50, 0.50, 0.51, 0.50] for name in "bcde"} | {"a": [0.505, 0.53, 0.54, 0.535]}
    ranking = rank({"x": made_up_report(values, {}, images=100_000)})["x"]
    row = ranking.rows[0]
    assert row["p"] < 0.05 < row["p_holm"]
    assert not ranking.is_clear
    assert "which may be chance (95% interval +" in ranking.describe(row)


def test_one_representation_is_no_ranking():
    with pytest.raises(ArgumentError, match="a ranking needs reports of at least two representations"):
        rank({"x": made_up_report({"a": [0.5, 0.5]}, {})})
