"""The comparison of pretext tasks: it covers every task, and its sentences follow from the intervals."""

import json
from dataclasses import replace

import pytest
import torch
from probing import made_up_report

import ssl_pretext as sp
from benchmarks.food101.protocol import open_data
from benchmarks.harness import step_seconds
from benchmarks.pretext import __main__ as pretext
from benchmarks.pretext.page import answer
from benchmarks.result_page import publish

COLUMNS = ["linear, all layers"]


def test_every_task_has_a_row():
    assert sorted({row.task for row in pretext.COMPARISON.tasks}) == sp.list_tasks()
    for row in pretext.COMPARISON.tasks:
        task = sp.create_task(row.task, **row.options)
        size = (64, 8, 8) if task.name == "masked_patches" else (128, 4, 4)
        assert task.eval().features(torch.zeros(1, 3, 32, 32)).shape[1:] == size, (
            "two encoders have as many features together"
        )


def test_rows_are_saved_and_published(tmp_path, monkeypatch):
    chosen = [row for row in pretext.COMPARISON.tasks if row.name == "relative_patch"]
    monkeypatch.setattr(pretext, "COMPARISON", replace(pretext.COMPARISON, tasks=chosen))
    preset = replace(pretext.PRESETS["smoke"], seeds=2)
    data = open_data(None, preset, seed=0)
    found = pretext.run(data, preset, tmp_path / "run", "cpu")
    assert [(row["row"], row["seed"]) for row in found["rows"]] == [("relative_patch", 0), ("relative_patch", 1)]
    assert list(found["reports"]) == COLUMNS
    assert (found["rows"][1]["sees"], found["rows"][1]["network"]) == ("rgb", "CNN")
    monkeypatch.setattr("benchmarks.harness.fit", lambda *_a, **_k: pytest.fail("a row was pretrained twice"))
    assert pretext.run(data, preset, tmp_path / "run", "cpu") == found

    results = found | {
        "command": "python -m benchmarks.pretext",
        "config": {"seeds": 2, "epochs": 1, "image_size": 32, "learning_rate": 1e-3, "batch_size": 32},
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    publish(tmp_path / "run" / "results.json", tmp_path / "docs" / "pretext", "A remark.")
    page = (tmp_path / "docs" / "pretext.md").read_text()
    assert found["answer"] in page
    assert "| relative_patch | rgb | CNN | 242,720 |" in page
    assert "| row | linear, all layers |" in page
    assert page.count("| pixels 8×8 |") == 2
    assert {file.name for file in (tmp_path / "docs" / "pretext").iterdir()} == {
        "results.json", "gains_in.png", "gains_out.png"
    }  # fmt: skip


def results(**accuracies):
    """Results of two domains with the given accuracies of each task, one per seed; those of the twins are 10%."""
    seeds = len(next(iter(accuracies.values())))
    tasks = {name: [f"{name} (untrained)"] for name in accuracies}
    twins = {twin: [0.1] * seeds for (twin,) in tasks.values()}
    stored = made_up_report(accuracies | twins, tasks).to_dict()
    return {"reports": {"linear": {"in": stored, "out": stored}}}


def test_the_answer_follows_from_the_intervals():
    found = results(
        good=[0.30, 0.31, 0.321], near=[0.30, 0.33, 0.29], none=[0.09, 0.11, 0.1], worse=[0.04, 0.031, 0.041]
    )
    assert answer(found) == (
        "Each task is compared with its untrained encoder in 2 ways (2 domains × 1 readouts). After the correction of "
        "Holm for the 4 comparisons of a domain, the gain is significant in all for good and near, in none for none "
        "and worse; a loss is significant in all for worse. Without a correction, 6 of the 8 differences would be "
        "significant. In-domain, the highest mean accuracy is 31.0 ± 3.1% (good; linear); it is not significantly "
        "better than near. Out-of-domain, the highest mean accuracy is 31.0 ± 3.1% (good; linear); it is not "
        "significantly better than near."
    )
    assert "it is significantly better than all other tasks" in answer(
        results(good=[0.5, 0.51, 0.5], bad=[0.1, 0.11, 0.1])
    )
    assert answer(results(good=[0.9])) == (
        "With one seed, the intervals cover the choice of the test images alone, so no conclusion is drawn."
    )


def test_a_run_whose_steps_were_not_timed_has_no_step_seconds(tmp_path):
    assert step_seconds(tmp_path) is None
