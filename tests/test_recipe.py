"""The recipe: selected without test images, evaluated with its controls, published with its plots."""

import json
from dataclasses import replace

import pytest

import ssl_pretext as sp
from benchmarks import recipe
from benchmarks.food101.protocol import open_data
from benchmarks.result_page import publish


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(recipe, "CANDIDATES", recipe.CANDIDATES[1:2] + recipe.CANDIDATES[3:4])
    monkeypatch.setattr(recipe, "READOUTS", dict(list(recipe.READOUTS.items())[-2:]))
    reference = sp.Pixels("lab:ab", size=2)  # in place of a network whose weights may not be installed
    monkeypatch.setattr(recipe, "imagenet_reference", lambda: reference)
    preset = replace(recipe.PRESETS["smoke"], seeds=2)
    return open_data(None, preset, seed=0), preset


def test_selection_uses_no_test_images_and_is_saved(small, tmp_path, monkeypatch):
    data, preset = small
    without_test = replace(data, probe_test={})
    rows = recipe.validate_candidates(without_test, preset, tmp_path, "cpu")
    assert {row["trained"] for row in rows} == {True, False}
    assert {row["candidate"] for row in rows} == {"ab → L (cl)", "split-brain (reg, reg)"}
    assert len(rows) == 2 * 2 * 2
    monkeypatch.setattr(recipe, "pretrain_or_load", lambda *_a, **_k: pytest.fail("a candidate was pretrained twice"))
    assert recipe.validate_candidates(without_test, preset, tmp_path, "cpu") == rows


def test_the_best_candidate_is_evaluated_with_several_seeds_and_published(small, tmp_path):
    data, preset = small
    found = recipe.run(data, preset, tmp_path / "run", "cpu")
    best = max((row for row in found["validation"] if row["trained"]), key=lambda row: row["accuracy"])
    assert found["chosen"] == best
    report = sp.ProbeReport.from_dict(found["reports"][best["readout"]]["in"])
    assert {"recipe", "recipe (untrained)", "pixels 8×8", "pixels rgb", "color histogram"} <= {*report.names}
    assert len(report.card["representations"]["recipe"]) == 2, "each seed has its own network"
    results = found | {
        "command": "python -m benchmarks.recipe",
        "config": {"seeds": 2, "epochs": 1, "image_size": 32, "learning_rate": 1e-3},
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    publish(tmp_path / "run" / "results.json", tmp_path / "docs" / "recipe")
    page = (tmp_path / "docs" / "recipe.md").read_text()
    assert f"The best recipe is **{best['candidate']}**, read out from {best['readout']}." in page
    assert "| recipe (untrained) |" in page
    assert {file.name for file in (tmp_path / "docs" / "recipe").iterdir()} == {
        "results.json", "differences_in.png", "differences_out.png"
    }  # fmt: skip
