"""What holds the encoder back: each change judged beside the documented pretraining, without test images."""

import json
from dataclasses import replace

import pytest

from benchmarks import why
from benchmarks.food101.protocol import open_data
from benchmarks.networks import SMALL_CNN
from benchmarks.tables import publish


@pytest.fixture
def small(monkeypatch):
    plain = {"losses": {"smooth_l1": 1.0}, "encoder": f"{SMALL_CNN}[width=0.25]", "output_stride": 4}
    monkeypatch.setattr(why, "TASK", why.TASK | plain)  # no weights, little work
    monkeypatch.setattr(why, "READOUTS", {"conv4 at 2×2": ("conv4", 2), "latent": (why.OUTPUT, None)})
    wider = why.Change("wider", task={"encoder": f"{SMALL_CNN}[width=0.5]"})
    monkeypatch.setattr(why, "CHANGES", (*why.CHANGES[:2], wider))
    preset = replace(why.PRESETS["smoke"], seeds=2)
    return open_data(None, preset, seed=0), preset


def test_spare_images_are_used_for_nothing_else(small):
    data, _ = small
    others = [data.pretrain, data.validation, data.excluded, *data.probe_train.values(), *data.probe_test.values()]
    for domain, spare in data.spare.items():
        assert len(spare) > 0
        assert not set(spare.names) & {name for store in others for name in store.names}
        assert set(spare.labels.tolist()) == set(data.probe_test[domain].labels.tolist())


def test_changes_are_judged_without_test_images_kept_and_published(small, tmp_path, monkeypatch):
    data, preset = small
    unopened = replace(data, probe_test={})
    found = why.run(unopened, preset, tmp_path / "run", "cpu")
    assert [(row["row"], row["control"], row["seed"]) for row in found["rows"]] == [
        (name, control, seed)
        for name, control in (
            ("untrained", None), ("as documented", "untrained"), ("learning rate 1e-3", "as documented"),
            ("wider, untrained", None), ("wider", "wider, untrained"),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    monkeypatch.setattr(why, "pretrained", lambda *_a, **_k: pytest.fail("a change was pretrained twice"))
    assert why.run(unopened, preset, tmp_path / "run", "cpu") == found

    results = found | {
        "command": "python -m benchmarks.why",
        "environment": {"commit": "abc", "device": "cpu", "processor": "one", "cores": 2, "torch": "2"},
        "data": {"name": "photos", "note": "", "counts": {"pretraining": 7}},
    }
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    publish(tmp_path / "run" / "results.json", tmp_path / "docs" / "why")
    page = (tmp_path / "docs" / "why.md").read_text()
    assert "classes never seen in pretraining: validation accuracy, %" in page
    assert "| learning rate 1e-3 | as documented |" in page
