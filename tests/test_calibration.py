"""The calibration in short: intervals miss the truth about as often as they promise, and its table counts it."""

import json
from functools import partial

import pytest

from benchmarks.calibration import __main__ as calibration
from benchmarks.calibration.page import COVERAGE, LIMITS, sections
from benchmarks.calibration.worlds import Pool, Row, rows, two_views

SMALL = {"classes": 4, "labels": 20, "features": 12, "test": 200}


def rate(row: Row) -> dict[str, float]:
    claims = [claim for world in range(row.worlds) for claim in row.claims(Pool(), world)]
    return calibration.summarize(row, claims)


def test_two_equally_good_representations_are_seldom_told_apart() -> None:
    """The judge once claimed a difference in 12 to 70% of such cases."""
    found = rate(Row("all labels", partial(two_views, probe="knn", **SMALL), 100))
    assert LIMITS[0] <= found["missed"] <= LIMITS[1]
    assert found["missed"] == found["claimed"]
    assert found["missed_by_seeds_alone"] > 0.5, "an interval over the seeds alone must fail here"


def test_a_true_difference_is_covered() -> None:
    claims = partial(two_views, probe="knn", noise=(1.5, 3.0), options={"per_class": 4}, **SMALL)
    found = rate(Row("4 of 20 labels", claims, 80, different=True))
    assert found["true_difference"] > 0.05
    assert 1 - found["missed"] >= COVERAGE
    assert found["claimed"] > 0.5, "it must be seen, too"


def test_all_rows_run_and_are_published(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(calibration, "rows", lambda folder, worlds: [rows(folder, worlds)[i] for i in (6, 9, 12, 16)])
    assert calibration.main(["--worlds", "4", "--jobs", "1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["comparisons"] for row in results["calibration"]] == [4, 2, 4, 8]
    page = (tmp_path / "page.md").read_text()
    assert "| all 20 labels per class, knn | " in page
    assert sections(results)[0] in page
    monkeypatch.setattr(calibration, "ProcessPoolExecutor", lambda *_a, **_k: pytest.fail("a row was drawn twice"))
    assert calibration.main(["--worlds", "4", "--jobs", "1", "--out", str(tmp_path)]) == 0
    # Rows without one of these texts are those of before, with their commit.
    results["environment"]["commit"] = "before"
    for row in results["calibration"]:
        del row["commit"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert calibration.main(["--worlds", "4", "--only", "fine-tuning;8 tasks", "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "results.json").read_text())["calibration"]
    assert [row.pop("commit") == "before" for row in again] == [True, False, True, False]
    assert again == results["calibration"]
