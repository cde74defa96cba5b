from dataclasses import replace

import numpy as np
import pytest

import ssl_pretext as sp
from benchmarks.evidence import __main__ as benchmark
from benchmarks.evidence.page import sections
from benchmarks.evidence.studies import STUDIES, Row, folders
from ssl_pretext.system.files import read_json

ENCODER = "timm/resnet10t[layer=layer1]"


@pytest.fixture
def cells(tmp_path):
    """Drawn cells of two classes, whose stain is half of the bright field."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("G1", "G2")):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for number in range(12):
            bright = generator.uniform(400 + 200 * label, 900, (16, 16))
            cell = np.stack([bright, bright / 2, generator.uniform(0, 100, (16, 16))])
            np.save(tmp_path / "cells" / name / f"{number}.npy", cell.astype(np.uint16))
    return tmp_path


def test_a_study_runs_writes_its_page_and_computes_nothing_twice(cells, monkeypatch) -> None:
    study = STUDIES["cells"]
    space = study.space
    assert space is not None

    def predict() -> sp.PretextTask:
        return sp.create_task(
            "cross_channel", source=space["bright field", "dark field"], target=space["DNA"], encoder=ENCODER
        )

    rows = [Row("to DNA", predict, readings=("map", "gap"))]
    small = replace(
        study, split=folders(16), published=(), rows=rows, per_class=(2, 8), finetuned=(2,),
        views={"by layer": {"layer": "layer1"}}, tried=[Row("to DNA", predict), Row("again", predict, epochs=2)],
    )  # fmt: skip
    monkeypatch.setitem(STUDIES, "cells", small)
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(cells / "cache"))
    out = cells / "run"
    request = ["evidence", "cells", "--data", str(cells / "cells"), "--out", str(out), "--seeds", "2", "--epochs", "1"]
    monkeypatch.setattr("sys.argv", [*request, "--tried", "--device", "cpu"])
    assert benchmark.main() == 0
    page, results = (out / "page.md").read_text(), read_json(out / "results.json")
    assert [report["card"]["probe"] for report in results["evidence"]["reports"][""].values()] == ["linear", "linear"]
    assert all(
        text in page
        for text in (
            "to DNA (untrained)",
            "to DNA, averaged over positions",
            "to DNA, with the prediction",
            "## Fine-tuned",
            "- With 2 labels per class, ",
            "| again |",
            "| by layer |",
            "Pearson",
        )
    )
    assert results["evidence"]["counts"] == {"pretraining": 18, "test": 6, "classes": 2}
    assert results["tried"]["counts"]["test"] < 6
    assert ([*results["evidence"]["reports"][""]], [*results["tried"]["reports"][""]]) == (["2", "8"], ["2"])
    assert all(-1 <= r <= 1 for values in results["evidence"]["predicted"].values() for r in values)

    twice = results["evidence"] | {"reports": dict.fromkeys(("Seen", "Unseen"), results["evidence"]["reports"][""])}
    body = "\n".join(sections(results | {"evidence": twice}))
    assert all(f"### {kind}" in body and f"{kind}, with 8 labels per class" in body for kind in ("Seen", "Unseen"))
    assert "for these 8 comparisons" in body

    monkeypatch.setattr(benchmark, "fit", None)  # would fail if it were called
    assert benchmark.main() == 0
    assert read_json(out / "results.json")["evidence"] == results["evidence"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_a_study_is_a_task_on_its_images(name) -> None:
    study = STUDIES[name]
    for row in (*study.rows, *study.tried):
        task = row.create()
        assert task.image_space.image_channels == (13 if name == "satellite-bands" else 3)
        assert row.epochs > 0
