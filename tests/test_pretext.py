"""The comparison of pretext tasks: it covers every task, and its sentences follow from the intervals."""

import json
from dataclasses import replace

import pytest
import torch

import ssl_pretext as sp
from benchmarks.food101.protocol import open_data
from benchmarks.harness import step_seconds
from benchmarks.pretext import __main__ as pretext
from benchmarks.pretext.page import answer, gains
from benchmarks.result_page import publish

COLUMNS = ["linear, output", "linear, all layers", "conv, output"]


def test_every_task_has_a_row_and_a_control():
    rows = {row.name: row for row in pretext.COMPARISON.tasks}
    trained = [row for row in rows.values() if row.control]
    assert sorted(row.task for row in trained) == sp.list_tasks()
    for row in trained:
        task, control = (sp.create_task(spec.task, **spec.options) for spec in (row, rows[row.control]))
        assert str(task.encoder) == str(control.encoder), "the control is the same network"
        assert (task.encoder_channels, task.options()["encoder"]) == (
            control.encoder_channels,
            control.options()["encoder"],
        )
        assert rows[row.control].control is None
        size = (64, 8, 8) if task.name == "masked_patches" else (128, 4, 4)
        assert task.eval().features(torch.zeros(1, 3, 32, 32)).shape[1:] == size, (
            "two encoders have as many features together"
        )


def test_rows_are_saved_and_published(tmp_path, monkeypatch):
    chosen = [
        row for row in pretext.COMPARISON.tasks if "relative_patch" in row.name or row.name == pretext.RGB_UNTRAINED
    ]
    monkeypatch.setattr(pretext, "COMPARISON", replace(pretext.COMPARISON, tasks=chosen))
    preset = replace(pretext.PRESETS["smoke"], seeds=2)
    data = open_data(None, preset, seed=0)
    found = pretext.run(data, preset, tmp_path / "run", "cpu")
    assert [(row["row"], row["seed"], list(row["accuracy"]["out"])) for row in found["rows"]] == [
        (name, seed, COLUMNS) for seed in (0, 1) for name in (pretext.RGB_UNTRAINED, "relative_patch")
    ]
    assert (found["rows"][1]["sees"], found["rows"][1]["network"]) == ("rgb", "CNN")
    for name in ("evaluate", "create_task"):
        monkeypatch.setattr(sp, name, lambda *_a, **_k: pytest.fail("a row was measured twice"))
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
    assert "| row | linear, output | linear, all layers | conv, output |" in page
    assert page.count("| pixels 8×8 |") == 2
    assert {file.name for file in (tmp_path / "docs" / "pretext").iterdir()} == {
        "results.json", "gains_in.png", "gains_out.png"
    }  # fmt: skip


def results(**accuracies):
    """Results with the given accuracies of each row in both domains, one per seed; `untrained` is the control."""
    rows = [
        {
            "row": row,
            "control": None if row == "untrained" else "untrained",
            "seed": seed,
            "accuracy": {domain: {"linear": value} for domain in ("in", "out")},
        }
        for row, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return {"rows": rows}


def test_the_answer_follows_from_the_intervals():
    found = results(
        untrained=[0.10, 0.11, 0.12], good=[0.20, 0.21, 0.221], near=[0.20, 0.23, 0.19], none=[0.09, 0.13, 0.11],
        worse=[0.05, 0.061, 0.071],
    )  # fmt: skip
    assert [round(row["mean"], 3) for row in gains(found)[:4]] == [0.1, 0.097, 0.0, -0.049]
    assert answer(found) == (
        "Each task is compared with its untrained encoder in 2 ways (2 domains × 1 readouts). The 95% interval of the "
        "difference is above zero in all for good and near, in none for none and worse; it is below zero in all for "
        "worse. In-domain, the highest mean accuracy is 21.0 ± 2.6% (good; linear); it is not significantly better "
        "than near. Out-of-domain, the highest mean accuracy is 21.0 ± 2.6% (good; linear); it is not significantly "
        "better than near."
    )
    assert "it is significantly better than all other tasks" in answer(
        results(untrained=[0, 0.01], good=[0.5, 0.51], bad=[0.1, 0.11001])
    )
    assert answer(results(untrained=[0.1], good=[0.9])) == (
        "With one seed there are no intervals, so no conclusion can be drawn."
    )


def test_a_run_whose_steps_were_not_timed_has_no_step_seconds(tmp_path):
    assert step_seconds(tmp_path) is None
