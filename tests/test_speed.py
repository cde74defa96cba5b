import json

import pytest
import torch

from benchmarks.speed.__main__ import PARTS, SCALING, main
from benchmarks.speed.race import OURS, Finding, Size, check_equal, race
from benchmarks.speed.training import limited
from ssl_pretext.errors import ArgumentError


def test_a_finding_says_how_many_times_ours_each_side_takes():
    finding = Finding(work="work", sides={OURS: [1.0, 2.0, 9.0], "other": [5.0, 6.0, 7.0]}, goals={"other": 4})
    ours, other = finding.rows()
    assert (ours["median"], ours["times_ours"], "goal" in ours) == (2.0, 1.0, False)
    assert (other["times_ours"], other["met"], other["least"], other["most"]) == (3.0, False, 5.0, 7.0)


def test_sides_are_timed_in_turn():
    calls = []
    taken = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, least_seconds=0)
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3}
    assert calls == ["a", "a", "b", "b"] + ["a", "b"] * 3


def test_what_differs_is_not_compared():
    one = torch.ones(3)
    assert check_equal("same", one, one, within=0.0) == 0
    for other in (one * 1.1, torch.full((3,), torch.nan)):
        with pytest.raises(ArgumentError, match="other differs from ssl_pretext by"):
            check_equal("other", one, other, within=1e-3)
    few = torch.zeros(1_000)
    few[:2] = 1
    assert check_equal("few", torch.zeros(1_000), few, within=0.0, apart_from=2e-3) == 0
    for share in (0.0, 1e-3):
        with pytest.raises(ArgumentError, match="few differs"):
            check_equal("few", torch.zeros(1_000), few, within=0.0, apart_from=share)


def test_a_store_four_times_as_large_as_the_memory_allowed_works():
    # The child itself fails where the limit does not hold.
    ours, store = limited(Size(small=True)).rows()
    assert store["median"] == 4 * 80
    assert 0 < ours["median"] < 80
    assert store["met"]


def test_an_unknown_part_is_refused(capsys):
    assert main(["warp"]) == 2
    assert "no part 'warp'; known: rgb_to_lab" in capsys.readouterr().err


QUICK = ("rgb_to_lab", "lab_to_rgb", "lab_gradients", "soft_encoding", "color_loss")
SLOW = [name for name in (*PARTS, SCALING) if name not in (*QUICK, "lpips", "reading")]  # those need weights and data


@pytest.mark.parametrize("part", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_each_part_agrees_and_is_measured(part, tmp_path):
    for library in ("kornia", "cv2") if "lab" in part else ():
        pytest.importorskip(library)
    out = tmp_path / "speed.json"
    assert main([part, "--small", "--rounds", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["parts"][part]["rows"]
    assert all(row["seconds" if part == SCALING else "median"] > 0 for row in rows)
    page = out.with_suffix(".md").read_text()
    assert f"## {part.replace('_', ' ')}" in page
    assert ("![" in page) == (tmp_path / "speed-scaling.png").exists() == (part == SCALING)
