"""The ablation: each change is compared with the documented pretraining, without test images."""

import json
from dataclasses import replace

import pytest

import ssl_pretext as sp
from benchmarks import ablation
from benchmarks.food101.protocol import open_data
from benchmarks.networks import SMALL_CNN
from benchmarks.result_page import publish


@pytest.fixture
def small(monkeypatch):
    plain = {"losses": {"smooth_l1": 1.0}, "encoder": f"{SMALL_CNN}[width=0.25]", "output_stride": 4}
    monkeypatch.setattr(ablation, "TASK", ablation.TASK | plain)  # needs no LPIPS weights, and is fast
    tasks = [
        ablation.change(ablation.DOCUMENTED),
        ablation.change("learning rate 1e-3", learning_rate=1e-3),
        ablation.change("wider", {"encoder": f"{SMALL_CNN}[width=0.5]"}),
    ]
    readouts = {"latent": ablation.COMPARISON.readouts["latent"]}
    monkeypatch.setattr(ablation, "COMPARISON", replace(ablation.COMPARISON, tasks=tasks, readouts=readouts))
    preset = replace(ablation.PRESETS["smoke"], seeds=2)
    return open_data(None, preset, seed=0), preset


def test_spare_images_have_no_other_role(small):
    data, _ = small
    others = [data.pretrain, data.validation, data.excluded, *data.probe_train.values(), *data.probe_test.values()]
    for domain, spare in data.spare.items():
        assert len(spare) > 0
        assert not set(spare.names) & {name for store in others for name in store.names}
        assert set(spare.labels.tolist()) == set(data.probe_test[domain].labels.tolist())


def test_changes_are_evaluated_without_test_images_saved_and_published(small, tmp_path, monkeypatch):
    data, preset = small
    without_test = replace(data, probe_test={})
    found = ablation.run(without_test, preset, tmp_path / "run", "cpu")
    assert [(row["row"], row["seed"]) for row in found["rows"]] == [
        (name, 0) for name in ("as documented", "learning rate 1e-3", "wider")
    ]
    report = sp.ProbeReport.from_dict(found["reports"]["latent"]["in"])
    assert len(report.card["representations"]["wider"]) == 1, "one pretraining"
    assert len(report.card["representations"]["wider (untrained)"]) == 2, "an untrained network for each seed"
    monkeypatch.setattr("benchmarks.harness.fit", lambda *_a, **_k: pytest.fail("a change was pretrained twice"))
    assert ablation.run(without_test, preset, tmp_path / "run", "cpu") == found

    results = found | {
        "command": "python -m benchmarks.ablation",
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    publish(tmp_path / "run" / "results.json", tmp_path / "docs" / "ablation")
    page = (tmp_path / "docs" / "ablation.md").read_text()
    assert "classes never seen in pretraining: validation accuracy, %" in page
    assert "Difference from the row *as documented*" in page
    assert "| as documented (untrained) |" in page
