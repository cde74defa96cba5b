"""Results of single classes, labels, numbers and maps: values, intervals, tables and the data frame."""

import math

import pytest
import torch
from sklearn.metrics import f1_score, recall_score, root_mean_squared_error

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.representations import ColorHistogram, Pixels, Representation

NAMES = ["apple", "bread", "cheese"]


def photos(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise, of which those of the last class are always bright and the others alike."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=draw)
    pixels = torch.randint(0, 120, (count, 3, 4, 4), generator=draw) + 120 * (labels == 2).view(-1, 1, 1, 1)
    return pixels.to(torch.uint8), labels


def store(count: int, seed: int) -> sp.ImageStore:
    return sp.ImageStore.from_arrays(*photos(count, seed), classes=NAMES)


@pytest.fixture(scope="module")
def report() -> sp.ProbeReport:
    metrics = ["accuracy", "macro_f1", "balanced_accuracy"]
    both = {"pixels": Pixels("rgb"), "histogram": ColorHistogram()}
    return sp.evaluate(both, store(90, 0), store(120, 1), probe="knn", metrics=metrics, seeds=2, controls=False)


def predictions(test: torch.Tensor) -> torch.Tensor:
    """The classes that the knn probe predicts, from its votes."""
    train, labels = photos(90, 0)
    probe = sp.probes.KNNProbe(3, 3).remember(train.float() / 127.5 - 1, labels)
    return probe.votes(test.float() / 127.5 - 1).argmax(dim=1)


def test_the_values_are_those_of_scikit_learn_for_the_predictions(report) -> None:
    test, labels = photos(120, 1)
    predicted = predictions(test)
    for metric, reference in (("balanced_accuracy", recall_score), ("macro_f1", f1_score)):
        rows = [row for row in report.per_class(metric) if row["representation"] == "pixels"]
        assert [row["class"] for row in rows] == NAMES
        assert [row["test_images"] for row in rows] == labels.bincount().tolist()
        assert [row["mean"] for row in rows] == pytest.approx(reference(labels, predicted, average=None), abs=1e-6)
        assert sum(row["mean"] for row in rows) / 3 == pytest.approx(report.values("pixels", metric)[0])


def test_the_interval_of_a_class_is_that_of_its_own_images(report) -> None:
    """With seeds that agree, an accuracy on n images has the normal interval of n images, and two images more."""
    chosen = {row["class"]: row for row in report.per_class("balanced_accuracy") if row["representation"] == "pixels"}
    for row in chosen.values():
        p, n = row["mean"], row["test_images"]
        assert row["ci95"] >= 1.9599 * math.sqrt((p * (1 - p) * n + 2) / n**2)
    assert chosen["apple"]["ci95"] > chosen["cheese"]["ci95"], "the bright class is never mistaken"


def test_a_class_in_brackets_is_a_metric_with_tables_and_differences(report) -> None:
    assert report.table("macro_f1[bread]").startswith("| representation | test f1 of bread, % |\n")
    row = report.difference("pixels", "histogram", metric="balanced_accuracy[cheese]")
    values = [report.values(name, "balanced_accuracy[cheese]")[0] for name in ("pixels", "histogram")]
    assert row["mean"] == pytest.approx(values[0] - values[1])
    with pytest.raises(UnknownNameError, match=r"no class 'chese'. Did you mean 'cheese'\?"):
        report.interval("pixels", "macro_f1[chese]")
    with pytest.raises(ArgumentError, match=r"accuracy has no value for a single class.*macro_f1"):
        report.per_class("accuracy")
    lines = report.class_table().splitlines()
    assert lines[0] == "| class | test images | pixels | histogram |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in NAMES]


def test_a_class_without_test_images_has_no_accuracy() -> None:
    test = store(120, 1)
    kept = test.subset((test.labels != 1).nonzero().flatten())
    found = sp.evaluate({"pixels": Pixels("rgb")}, store(90, 0), kept, seeds=1, probe="knn", controls=False)
    values = [row["mean"] for row in found.per_class()]
    assert math.isnan(values[1])
    assert sum(values[::2]) / 2 == pytest.approx(found.values("pixels", "balanced_accuracy")[0])
    assert found.class_rows()[1] == {"class": "bread", "test images": 0, "pixels": ""}


def test_each_number_has_an_error_in_its_own_unit(tmp_path) -> None:
    train, test = (photos(count, seed)[0] for count, seed in ((60, 0), (50, 1)))
    made = [
        {"mean": pixels.float().mean(dim=(1, 2, 3)), "meters": pixels[:, 0].float().std(dim=(1, 2)) * 1e4}
        for pixels in (train, test)
    ]
    part = Representation("half", lambda batch: batch[:, :1].float())
    data = (train, made[0]), (test, made[1])
    found = sp.evaluate({"half": part}, *data, target="numbers", probe="knn[k=3]", seeds=1, controls=False)
    probe_bank, queries = (pixels[:, :1].float().flatten(1) for pixels in (train, test))
    for number, values in made[0].items():
        predicted = sp.probes.knn.neighbor_means(probe_bank, values[:, None].double(), queries, k=3)[:, 0]
        expected = root_mean_squared_error(made[1][number], predicted)
        assert found.values("half", f"rmse[{number}]")[0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ArgumentError, match=r"unit of its own for each number, so there is no mean over them"):
        found.values("half", "rmse")
    with pytest.raises(ArgumentError, match=r"it cannot be the main metric; name another one first, such as r2"):
        sp.evaluate({"half": part}, *data, target="numbers", metrics=["rmse"], seeds=1)
    frame = found.to_frame()
    assert {"r2", "rmse[mean]", "rmse[meters]"} <= {*frame.columns}
    assert "rmse" not in frame.columns
    found.to_json(tmp_path / "report.json")
    assert sp.ProbeReport.from_json(tmp_path / "report.json").per_class("rmse") == found.per_class("rmse")


def test_a_label_efficiency_is_a_data_frame() -> None:
    curve = sp.label_efficiency(
        {"p": Pixels("rgb")}, store(90, 0), store(120, 1), per_class=[2, 9], probe="knn", seeds=2
    )
    frame = curve.to_frame()
    assert frame.columns[0] == "per_class"
    assert frame["per_class"].value_counts().to_dict() == {2: 2, 9: 2}, "two seeds"
    assert frame[frame["per_class"] == 9]["labels"].unique().tolist() == [27]
    rows = frame[(frame["per_class"] == 9) & (frame["representation"] == "p")]
    assert rows["accuracy"].tolist() == pytest.approx(curve.reports[9].values("p"))
