"""Comparisons: each row is saved when it is finished, and pages are made from the stored results alone."""

import json
from dataclasses import replace

import pytest
from test_structure import ROOT

import ssl_pretext as sp
from benchmarks import color_losses
from benchmarks.food101.protocol import open_data
from benchmarks.harness import PRESETS, TaskComparison, TaskSpec, linear_probes
from benchmarks.networks import SMALL_CNN
from benchmarks.result_page import PAGES, draw, page, publish, remark_of
from ssl_pretext.errors import CheckpointError

OPTIONS = {"source": "lab:L", "target": "lab:ab", "encoder": f"{SMALL_CNN}[width=0.25]", "output_stride": 4}
STORED = sorted(file.parent.name for file in (ROOT / PAGES).glob("*/results.json"))


@pytest.fixture
def comparison():
    tasks = [TaskSpec("trained", "cross_channel", OPTIONS)]
    of_both = ("colorfulness", "mean_a", "mean_b", "hue_blue")
    quality = ["psnr", "ssim", "auc_raw", "auc_rebalanced", *of_both, *(f"{key}_truth" for key in of_both)]
    return TaskComparison(
        "A comparison",
        tasks,
        linear_probes(["conv1", None], {"pixels RGB": "rgb"}),
        lambda _task, _data: {"quality": dict.fromkeys(quality, 1.0)},
    )


def test_finished_rows_are_not_measured_again(comparison, tmp_path, monkeypatch):
    preset = PRESETS["smoke"]
    data = open_data(None, preset, seed=0)
    first = comparison.run(data, preset, out=tmp_path / "run", device="cpu")
    assert [(row["row"], row["seed"], len(row["history"])) for row in first["rows"]] == [("trained", 0, preset.epochs)]
    assert set(first["reports"]) == {"conv1", "encoder"}
    report = sp.ProbeReport.from_dict(first["reports"]["conv1"]["in"])
    assert report.names == ["trained", "trained (untrained)", "pixels RGB"]
    monkeypatch.setattr("benchmarks.harness.fit", lambda *_a, **_k: pytest.fail("a row was pretrained twice"))
    assert comparison.run(data, preset, out=tmp_path / "run", device="cpu") == first
    with pytest.raises(CheckpointError, match="holds results of a run with other settings"):
        comparison.run(data, replace(preset, epochs=2), out=tmp_path / "run", device="cpu")

    results = first | {
        "command": "python -m benchmarks.it",
        "config": {"seeds": 1, "epochs": 1, "image_size": 32, "learning_rate": 1e-3},
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
        "gray": {"psnr": 17.7, "hue_blue": 0.0, "hue_blue_truth": 0.068},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    (tmp_path / "run" / "grid.png").write_bytes(b"png")
    target = tmp_path / "docs" / "it"
    publish(tmp_path / "run" / "results.json", target, "A remark.\n\nIn two paragraphs.")
    text = (tmp_path / "docs" / "it.md").read_text()
    assert "# A comparison\n\nA remark." in text
    assert f"| pixels RGB | {report.text('pixels RGB')} |" in text
    assert "| mean b | blue, % |" in text
    assert "| trained | 1.0 | 1.000 | 1.000 | 1.000 | 1.0 | 1.0 | 1.0 | 100.0 |" in text
    assert "| gray | 17.7 |  |  |  |  |  |  | 0.0 |" in text
    assert "| the true colors |  |  |  |  | 1.0 | 1.0 | 1.0 | 100.0 |" in text
    assert sorted(path.name for path in target.iterdir()) == ["grid.png", "results.json"]
    publish(target / "results.json", target)
    assert (tmp_path / "docs" / "it.md").read_text() == text, "a page that is written again keeps its remark"


def test_color_quality_uses_the_colors_of_the_training_images(monkeypatch):
    monkeypatch.setattr(color_losses, "trunks_on_disk", lambda: [])
    data = open_data(None, PRESETS["smoke"], seed=0)
    task = sp.create_task("colorization", **color_losses.options({"l2": 1.0})).eval()
    quality = color_losses.quality(task, data)["quality"]
    assert 0 < quality["auc_rebalanced"] < 1
    assert quality["colorfulness_truth"] > 0
    assert {"colored", "hue_blue", "hue_blue_truth"} <= set(quality)


@pytest.mark.parametrize("name", STORED)
def test_the_committed_pages_follow_from_the_committed_results(name):
    text = (ROOT / PAGES / f"{name}.md").read_text()
    results = json.loads((ROOT / PAGES / name / "results.json").read_text())
    assert page(results, ROOT / PAGES / name, remark_of(text)) == text


@pytest.mark.parametrize("name", ["recipe", "food101"])
def test_the_plots_can_be_drawn_again(name, tmp_path):
    draw(json.loads((ROOT / PAGES / name / "results.json").read_text()), tmp_path)
    committed = {file.name for file in (ROOT / PAGES / name).glob("*.png")}
    assert {file.name for file in tmp_path.iterdir()} == committed
