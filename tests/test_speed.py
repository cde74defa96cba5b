"""The speed benchmarks: variants take turns, only equal results are compared, and each part runs."""

import json

import pytest
import torch

from benchmarks.speed.__main__ import PARTS, SCALING, main
from benchmarks.speed.peaks import count_flop, seconds_at_bandwidth, seconds_at_peak
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn
from benchmarks.speed.training import memory_limit
from ssl_pretext.errors import ArgumentError


def test_a_measurement_has_the_ratio_of_each_variant_to_ours():
    measurement = Measurement(
        work="work", variants={OURS: [1.0, 2.0, 9.0], "other": [5.0, 6.0, 7.0]}, goals={"other": 4}
    )
    ours, other = measurement.rows()
    assert (ours["median"], ours["times_ours"], "goal" in ours) == (2.0, 1.0, False)
    assert (other["times_ours"], other["met"], other["least"], other["most"]) == (3.0, False, 5.0, 7.0)


def test_a_measurement_has_the_share_of_the_peak():
    rows = Measurement(work="work", variants={OURS: [2.0], "other": [4.0]}, seconds_at_peak=1.0).rows()
    assert [row["share_of_peak"] for row in rows] == [0.5, 0.25]


def test_operations_are_those_of_products_and_convolutions_and_peaks_are_speeds():
    image, conv = torch.rand(1, 3, 8, 8), torch.nn.Conv2d(3, 5, 3, padding=1)
    assert count_flop(lambda: conv(image)) == 2 * 8 * 8 * 3 * 3 * 3 * 5
    assert seconds_at_peak(2e9) == pytest.approx(2 * seconds_at_peak(1e9))
    assert seconds_at_bandwidth(1e9) > 0


def test_variants_are_timed_in_turn():
    calls = []
    taken = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, least_seconds=0)
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3}
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3


def test_different_results_are_not_compared():
    one = torch.ones(3)
    assert check_equal("same", one, one, within=0.0) == 0
    for other in (one * 1.1, torch.full((3,), torch.nan)):
        with pytest.raises(
            ArgumentError,
            match="the result of other differs from that of ssl_pretext by .*, more than 0.001; only equal results",
        ):
            check_equal("other", one, other, within=1e-3)
    few = torch.zeros(1_000)
    few[:2] = 1
    assert check_equal("few", torch.zeros(1_000), few, within=0.0, except_fraction=2e-3) == 0
    for fraction in (0.0, 1e-3):
        with pytest.raises(ArgumentError, match="the result of few differs"):
            check_equal("few", torch.zeros(1_000), few, within=0.0, except_fraction=fraction)


def test_a_store_of_four_times_the_allowed_memory_works():
    # The process that measures it fails if the limit has no effect.
    ours, store = memory_limit(RunOptions(small=True)).rows()
    assert store["median"] == 4 * 80
    assert 0 < ours["median"] < 80
    assert store["met"]


def test_an_unknown_part_is_refused(capsys):
    assert main(["warp"]) == 2
    assert "no part 'warp'; known: rgb_to_lab" in capsys.readouterr().err


QUICK = ("rgb_to_lab", "lab_to_rgb", "lab_gradients", "soft_encoding", "color_loss")
SLOW = [
    name for name in (*PARTS, SCALING) if name not in (*QUICK, "lpips", "reading")
]  # these two need weights or data


@pytest.mark.parametrize("part", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_each_part_runs_and_writes_its_page(part, tmp_path):
    for library in ("kornia", "cv2") if "lab" in part else ():
        pytest.importorskip(library)
    out = tmp_path / "speed.json"
    assert main([part, "--small", "--rounds", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["parts"][part]["rows"]
    assert all(row["seconds" if part == SCALING else "median"] > 0 for row in rows)
    page = out.with_suffix(".md").read_text()
    assert f"## {part.replace('_', ' ')}" in page
    assert ("![" in page) == (tmp_path / "speed-scaling.png").exists() == (part == SCALING)
