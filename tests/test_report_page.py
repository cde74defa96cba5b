"""The card of a report says what its statistics say, and never more."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from probing import made_up_report, two_classes
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import ProbeReport
from ssl_pretext.probes.report_page import confusion_section, verdict_card
from ssl_pretext.representations import Concatenated, Pixels

TWIN = {"net": ["twin"]}


def made(net, *, controls=None):
    """A report of a network with three seeds, its twin at 50% and other controls."""
    around = [-0.002, 0.0, 0.002]
    values = {"net": net, "twin": 0.5, **(controls or {})}
    report = made_up_report({name: [value + d for d in around] for name, value in values.items()}, TWIN)
    report.card["against"]["net"] |= {name: name for name in controls or {}}
    return report


@pytest.mark.parametrize(
    ("net", "controls", "answer"),
    [
        (0.7, {}, "Yes"),
        (0.5, {}, "Not shown"),
        (0.3, {}, "No"),
        (0.7, {"histogram": 0.6}, "Yes"),
        (0.7, {"histogram": 0.7}, "Not shown"),
        (0.7, {"histogram": 0.8}, "No"),
    ],
)
def test_the_answer_follows_from_the_intervals(net, controls, answer):
    report = made(net, controls=controls)
    card = report.verdict()
    assert card.answer == answer
    rows = report.against_controls()
    assert (answer == "Yes") == all(row["significant"] and row["mean"] > 0 for row in rows)
    assert (answer == "No") == any(row["significant"] and row["mean"] < 0 for row in rows)
    text = " ".join(card.sentences)
    assert report.text("net") in text
    assert ("use " in text) == (answer == "No")
    assert ("That does not show which is better." in text) == (answer == "Not shown")
    assert ("No alternative comes closer." in text) == (answer == "Yes")
    if controls.get("histogram") == 0.8:
        assert "use histogram instead" in text


def test_many_comparisons_need_the_correction_of_holm(monkeypatch):
    report = made(0.7, controls=dict.fromkeys("abcd", 0.6))
    rows = [dict(row) for row in report.against_controls()]
    assert report.verdict().answer == "Yes"
    rows[2] |= {"p_holm": 0.06}
    monkeypatch.setattr(ProbeReport, "against_controls", lambda *_: rows)
    assert report.verdict().answer == "Not shown"


def test_a_metric_of_which_less_is_better_turns_the_answer_around(monkeypatch):
    monkeypatch.setattr(ProbeReport, "metric", lambda *_: sp.probes.find_metrics("class", ["calibration_error"])[0])
    report = made(0.3)
    for run in report.runs:
        run["scores"]["calibration_error"] = run["scores"]["accuracy"]
    assert report.verdict().answer == "Yes"


def test_a_single_network_and_no_controls_are_said():
    data = two_classes(40)
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2)).representation()
    one = sp.evaluate({"net": network}, data, data, seeds=2)
    assert any("One trained network was judged" in sentence for sentence in one.verdict().sentences)
    alone = sp.evaluate({"net": network}, data, data, seeds=2, controls=False).verdict()
    assert alone.answer == "Not shown"
    assert any("compared with nothing" in sentence for sentence in alone.sentences)


def test_what_joined_features_add_to_a_control_is_said(monkeypatch):
    data, pixels = two_classes(60), Pixels("rgb")
    network = sp.FrozenNetwork(nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh())).representation()
    report = sp.evaluate({"net": network, "both": Concatenated([network, pixels])}, data, data, seeds=2, probe="knn")
    rows = [dict(row) for row in report.against_controls()]
    worse = {"mean": -0.3, "significant": True, "p_holm": 0.0}
    wins = [row | worse for row in rows if row["representation"] == "net" and row["reference"] == "pixels rgb"]
    joined = next(row for row in rows if (row["representation"], row["reference"]) == ("both", "pixels rgb"))
    monkeypatch.setattr(ProbeReport, "against_controls", lambda *_: [*wins, joined])
    text = " ".join(verdict_card(report, "net").sentences)
    change = report.metric().text(joined["mean"], joined["ci95"], sign=True)
    assert "use the raw pixels instead." in text
    assert f"Joined as both, the features change it by {change} points" in text


def test_confusions_equal_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    data, test = two_classes(60), two_classes(40, seed=1, shuffled=True)
    report = sp.evaluate({"pixels": Pixels("rgb")}, data, test, probe="knn[k=1]", seeds=1, controls=False)
    train_images, test_images = (one[0].flatten(1).double() for one in (data, test))
    mean, std = train_images.mean(0), train_images.std(0, correction=0)
    a, b = (nn.functional.normalize((x - mean) / std) for x in (test_images, train_images))
    predicted = data[1][(a @ b.T).argmax(1)]
    assert np.array_equal(report.confusion("pixels"), metrics.confusion_matrix(test[1], predicted))
    assert "confusions" not in report.to_frame()
    numbers = sp.evaluate(
        {"pixels": Pixels("rgb")}, (data[0], torch.rand(60)), (test[0], torch.rand(40)), target="numbers", seeds=1
    )
    assert confusion_section(numbers) == []
    with pytest.raises(ArgumentError, match="needs classes as targets; this report has numbers"):
        numbers.confusion("pixels")


def test_many_classes_are_listed_by_their_most_frequent_confusions():
    images = torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8)
    train = sp.ImageStore.from_arrays(images, [i % 15 for i in range(60)])
    test = sp.ImageStore.from_arrays(images, [(i + 1) % 15 if i % 15 == 3 else i % 15 for i in range(60)])
    report = sp.evaluate({"pixels": Pixels("rgb")}, train, test.subset(range(60)), probe="knn[k=1]", seeds=1)
    (section,) = confusion_section(report, "pixels")
    assert section.table[0] == {"class": "4", "is taken for": "3", "of its test images, %": "50"}
    assert len(section.table) == 1


class Tags(HTMLParser):
    """Checks that every tag is closed in the right order."""

    def __init__(self, page):
        super().__init__()
        self.open = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, _attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path):
    data = two_classes(40)
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2)).representation()
    report = sp.evaluate({"net": network}, data, data, seeds=2)
    report.to_html(tmp_path / "page.html", lead="A line.")
    page = (tmp_path / "page.html").read_text()
    Tags(page)
    with pytest.raises(AssertionError):
        Tags(page.replace("</section>", "", 1))
    for absent in ("http:", "https:", "<script", "<link", "url(", "@import"):
        assert absent not in page
    for text in ("A line.", report.verdict().answer, "<svg", "Which classes are confused?", "linear probe"):
        assert text in page
