"""Comparisons: rows are kept one by one, and published without photographs."""

import json
from dataclasses import replace

import pytest

from benchmarks.food101.protocol import open_data
from benchmarks.harness import PRESETS, Comparison, Row, linear_probes
from benchmarks.networks import SMALL_CNN
from benchmarks.result_page import publish
from ssl_pretext.errors import CheckpointError

OPTIONS = {"source": "lab:L", "target": "lab:ab", "encoder": f"{SMALL_CNN}[width=0.25]", "output_stride": 4}


@pytest.fixture
def comparison():
    rows = [Row("untrained", "cross_channel", OPTIONS), Row("trained", "cross_channel", OPTIONS, control="untrained")]
    quality = dict.fromkeys(
        f"{key}{of}"
        for key in ("psnr", "ssim", "auc_raw", "auc_rebalanced", "colorfulness", "mean_a", "mean_b")
        for of in ("", "_truth")
    )
    return Comparison(
        "A comparison",
        rows,
        [linear_probes(["conv1", None])],
        lambda _task, _data: {"quality": dict.fromkeys(quality, 1.0)},
    )


def test_rows_are_kept_and_gone_on_with(comparison, tmp_path, monkeypatch):
    preset = PRESETS["smoke"]
    data = open_data(None, preset, seed=0)
    first = comparison.run(data, preset, out=tmp_path / "run", device="cpu")
    assert [(row["row"], row["control"], row["seed"]) for row in first] == [
        ("untrained", None, 0),
        ("trained", "untrained", 0),
    ]
    assert len(first[0]["history"]) == 0
    assert len(first[1]["history"]) == preset.epochs
    assert set(first[1]["accuracy"]["in"]) == {"conv1", "encoder"}
    monkeypatch.setattr("ssl_pretext.evaluate", lambda *_a, **_k: pytest.fail("a row was measured twice"))
    assert comparison.run(data, preset, out=tmp_path / "run", device="cpu") == first
    with pytest.raises(CheckpointError, match="holds rows of other settings"):
        comparison.run(data, replace(preset, epochs=2), out=tmp_path / "run", device="cpu")

    results = {
        "title": comparison.title,
        "command": "python -m benchmarks.it",
        "config": {"seeds": 1, "epochs": 1, "image_size": 32, "learning_rate": 1e-3},
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
        "rows": first,
        "pixels": {"pixels RGB": {"in": [0.5], "out": [0.25]}},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    (tmp_path / "run" / "grid.png").write_bytes(b"png")
    publish(tmp_path / "run" / "results.json", tmp_path / "docs" / "it", "A remark.")
    page = (tmp_path / "docs" / "it.md").read_text()
    assert "# A comparison\n\nA remark." in page
    assert "| pixels RGB | 50.0 |" in page
    assert "| trained | 1.0 | 1.000 | 1.000 | 1.000 | 1.0 | 1.0 | 1.0 |" in page
    assert sorted(path.name for path in (tmp_path / "docs" / "it").iterdir()) == ["grid.png", "results.json"]
