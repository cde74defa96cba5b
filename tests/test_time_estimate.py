"""The estimate of an evaluation's time counts what is computed, is measured, and leaves out what is in the cache."""

import logging
import re
import time

import pytest
import torch
from probing import two_classes
from torch import nn

from ssl_pretext.probes import evaluate, finetuning_time, time_estimate, twins
from ssl_pretext.probes.comparison import Comparison
from ssl_pretext.probes.finetuning_time import FinetuningTime
from ssl_pretext.probes.label_budget import LabelBudget
from ssl_pretext.probes.time_estimate import TimeEstimate, estimate_time
from ssl_pretext.representations import FrozenNetwork, Pixels, cache


class Block(nn.Module):
    """A residual block that starts as the identity, and does not end so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.norm.weight)

    def forward(self, maps):
        return maps + self.norm(self.conv(maps))


class Counting(nn.Module):
    """A network with BatchNorm that counts the images it computes, and can be slow."""

    images = 0
    seconds = 0.0  # per image

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.BatchNorm2d(8))
        self.block = Block()

    def forward(self, images):
        Counting.images += len(images)
        time.sleep(len(images) * Counting.seconds)
        return self.block(self.layers(images))


def network():
    torch.manual_seed(0)
    trained = Counting()
    nn.init.ones_(trained.block.norm.weight)
    return FrozenNetwork(trained).representation()


def comparison(given=None, *, size=4, **options):
    return Comparison(
        given or {"net": network()}, two_classes(90, size=size), two_classes(30, seed=1, size=size), **options
    )


def estimated(compared, *budgets):
    return estimate_time(compared, [b.draw(compared.targets["train"].strata, compared.seeds) for b in budgets])


@pytest.mark.parametrize("options", [{}, {"controls": False}, {"probe": "knn"}, {"probe": "conv", "epochs": 1}])
def test_the_images_and_the_probes_of_the_estimate_are_those_of_the_evaluation(options, monkeypatch):
    budgets = [LabelBudget(per_class=5), LabelBudget(per_class=40)]
    compared = comparison(seeds=3, size=16, **options)
    passes = time_estimate._passes(compared)
    found = estimated(compared, *budgets)
    runs, run = [], Comparison._run
    monkeypatch.setattr(Comparison, "_run", lambda *a: runs.append(1) or run(*a))
    Counting.images = 0
    report = compared.reports(budgets)[0]
    of_network = [each for backbone, each in passes.items() if backbone.module is not None]
    # Four versions are compared, two of them are measured, and the strongest may be measured for each seed.
    twins = 0 if options.get("controls") is False else (4 + 2) * 90 + 3 * 120 + 2 * 90
    assert sum(each.of_twins for each in of_network) == twins
    drawn = report.card["representations"].get("net (untrained)", [{"initialization": ""}])
    (strongest,) = {one["initialization"] for one in drawn}
    not_measured = 2 * 90 * bool(twins and "BatchNorm" not in strongest)
    assert Counting.images == twins + 120 - not_measured
    assert found.probes == len(runs)
    assert (found.networks, found.untrained) == (1, 0 if options.get("controls") is False else 3)
    assert found.fits > 0


def test_features_that_the_cache_gets_on_the_way_are_not_counted_twice(tmp_path, monkeypatch):
    given = {"net": FrozenNetwork("timm/resnet10t").representation()}
    compared = Comparison(given, two_classes(40, size=32), two_classes(20, size=32), seeds=2, cache=tmp_path)
    passes = time_estimate._passes(compared)
    counted, run, run_on_sample = [], cache.run_backbone, twins._run_on_sample

    def count(backbone, layers, images, **options):
        counted.append(len(images) if layers and backbone.module is not None else 0)
        return run(backbone, layers, images, **options)

    def count_sample(backbone, module, layers, sample, device):
        counted.append(len(sample))
        return run_on_sample(backbone, module, layers, sample, device)

    monkeypatch.setattr(cache, "run_backbone", count)
    monkeypatch.setattr(twins, "_run_on_sample", count_sample)
    (report,) = compared.reports([LabelBudget()])
    of_network = [each for backbone, each in passes.items() if backbone.module is not None]
    (untrained,) = (name for name in report.names if name.endswith("(untrained)"))
    strongest = report.card["representations"][untrained][1]["initialization"]
    not_measured = 40 * ("BatchNorm" not in strongest)  # that of the second seed; the estimate counts it in any case
    assert sum(each.own + each.of_twins for each in of_network) - not_measured == sum(counted)


def test_the_time_of_a_network_is_measured(monkeypatch):
    monkeypatch.setattr(Counting, "seconds", 0.004)
    compared = comparison(seeds=1, controls=False)
    found = estimated(compared, LabelBudget())
    start = time.perf_counter()
    compared.reports([LabelBudget()])
    assert 0.7 < (found.features + found.fits) / (time.perf_counter() - start) < 1.5


def test_the_time_of_a_probe_that_is_trained_in_epochs_grows_with_epochs_and_images(monkeypatch):
    monkeypatch.setattr(time_estimate, "_time_epoch", lambda *_: 1.0)
    found = estimated(
        comparison({"p": Pixels("rgb")}, size=16, probe="conv", epochs=7, seeds=1), LabelBudget(per_class=20)
    )
    assert found.fits == 7 * (3 * 40 + 30)


def test_the_probe_that_is_timed_has_the_most_labels(monkeypatch):
    """The time of a small one is mostly overhead, which does not grow."""
    seen = []
    monkeypatch.setattr(time_estimate, "_time_fit", lambda _, features, targets: seen.append(len(targets)) or 1.0)
    compared = comparison({"p": Pixels("rgb")}, controls=False, seeds=1)
    found = estimated(compared, LabelBudget(per_class=2), LabelBudget(per_class=40))
    assert seen == [80]
    assert 1.0 <= found.fits < 1.2, "the other one is much smaller"


def test_features_and_probes_in_the_cache_take_no_time(tmp_path):
    given = {"net": FrozenNetwork("timm/resnet10t").representation()}
    images, test = two_classes(40, size=32), two_classes(20, seed=1, size=32)
    options = {"seeds": 2, "cache": tmp_path, "controls": ("untrained", "histogram")}
    first = estimated(Comparison(given, images, test, **options), LabelBudget())
    evaluate(given, images, test, **options)
    again = estimated(Comparison(given, images, test, **options), LabelBudget())
    knn = estimated(Comparison(given, images, test, probe="knn", **options), LabelBudget())
    assert (first.networks, first.untrained) == (1, 2)
    assert (again.networks, again.untrained, again.probes, again.fits) == (0, 0, 0, 0)
    assert (knn.networks, knn.untrained, knn.probes) == (0, 0, first.probes)


def test_the_line_appears_before_the_work_if_it_is_long_and_somebody_sees_it(caplog, monkeypatch):
    data = two_classes(90), two_classes(30, seed=1)
    with caplog.at_level(logging.INFO):
        evaluate({"net": network()}, *data, seeds=2)
    assert not caplog.messages, "it takes less than ten seconds"
    monkeypatch.setattr(time_estimate, "LEAST", 0.0)
    monkeypatch.setattr(Counting, "seconds", 0.002)
    with caplog.at_level(logging.INFO):
        evaluate({"net": network()}, *data, seeds=2, controls=["untrained"])
    networks = "1 network and 2 untrained networks"
    line = rf"about \d+ s: features of 120 images by {networks} \(\d+ s\), 8 linear probes \(\d+ s\)"
    assert re.fullmatch(line, caplog.messages[0])
    Counting.images = 0
    evaluate({"net": network()}, *data, seeds=1, controls=False)
    assert Counting.images == 90 + 30, "nothing is timed if nobody sees it"


def test_the_first_network_that_is_fine_tuned_shows_how_long_the_others_take(caplog, monkeypatch):
    monkeypatch.setattr(finetuning_time, "READING", 0.0)
    monkeypatch.setattr(finetuning_time, "LEAST", 0.0)
    monkeypatch.setattr(Counting, "seconds", 0.002)
    train, test = two_classes(40, size=16), two_classes(20, seed=1, size=16)
    start = time.perf_counter()
    with caplog.at_level(logging.INFO):
        options = {"probe": "finetune", "epochs": 5, "seeds": 3, "per_class": 10, "controls": ["untrained", "pixels"]}
        evaluate({"net": network()}, train, test, **options)
    (line,) = [message for message in caplog.messages if "fine-tuned" in message]
    found = re.fullmatch(r"a network was fine-tuned in \d+ s; about (\d+) s are left for the others", line)
    assert 0.4 < (int(found[1]) + 1) / (time.perf_counter() - start) < 1.5


def test_what_is_read_from_the_cache_shows_no_time(caplog):
    with caplog.at_level(logging.INFO):
        seen = FinetuningTime(labels=1_000)
        for labels, seconds in ((100, 0.01), (100, 60.0), (100, 60.0)):
            seen.add(labels, seconds)
    assert caplog.messages == ["a network was fine-tuned in 1 min 0 s; about 8 min 0 s are left for the others"]


def test_the_line_names_what_there_is():
    assert str(TimeEstimate(0, 90, 0, 0, 61, 30, "knn")) == "about 1 min 1 s: 30 knn probes (1 min 1 s)"
    assert (
        str(TimeEstimate(12, 90, 0, 1, 0, 0, "knn"))
        == "about 12 s: features of 90 images by 1 untrained network (12 s)"
    )
