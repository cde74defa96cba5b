"""The probes: the documented classifier, paired seeds, controls, and the intervals made of them."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, UnknownNameError
from ssl_pretext.probes import (
    ConvProbe,
    LabelEfficiency,
    ProbeConfig,
    ProbeReport,
    create_probe,
    describe_difference,
    evaluate,
    label_efficiency,
    list_probes,
    mean_interval,
    paired_difference,
    register_probe,
)
from ssl_pretext.representations.base import (
    Backbone,
    Pixels,
    Representation,
)
from ssl_pretext.representations.network import (
    FrozenNetwork,
)
from ssl_pretext.tasks import Colorization, CrossChannelPrediction

Data = tuple[Tensor, Tensor]
PIXELS = {"pixels": Pixels("rgb")}


def data(count: int = 160, *, seed: int = 0, shuffled: bool = False, size: int = 4) -> Data:
    """Two classes, dark and bright noise; or the same images with labels that say nothing."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 120, (count, 3, size, size), generator=draw)
    images = (noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return images, labels[torch.randperm(count, generator=draw)] if shuffled else labels


def linear(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))


def projected(seed: int = 7) -> Representation:
    """A small network with an untrained twin, whose twin draws from the global generator, as careless code does."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = nn.Conv2d(3, 4, 2, stride=2)
    torch.set_rng_state(torch_state)

    def twin(again: int) -> Backbone:
        torch.manual_seed(100 + again)
        return framed(nn.Conv2d(3, 4, 2, stride=2))

    return framed(network, twin).representation(name="net")


def framed(network: nn.Module, untrained: Callable[[int], Backbone] | None = None) -> Backbone:
    return Backbone(
        lambda images, layers: {layer: network(images.float() / 255) for layer in layers},
        module=network,
        untrained=untrained,
    )


def report(accuracies: dict[str, list[float]]) -> ProbeReport:
    """A real report whose accuracies are replaced by given ones."""
    representations = {name: Pixels("rgb") if "pixels" in name else projected() for name in accuracies}
    seeds = len(next(iter(accuracies.values())))
    found = evaluate(representations, data(8), data(8), probe=linear, epochs=1, seeds=seeds, controls=False)
    for run in found.runs:
        run["history"][-1]["test_accuracy"] = accuracies[run["representation"]][run["seed"]]
    return found


# The documented probe


@pytest.mark.parametrize(("channels", "parameters"), [(3, 325_093), (4, 326_245)])
def test_conv_probe_has_the_documented_parameters(channels: int, parameters: int) -> None:
    assert sum(p.numel() for p in create_probe("conv", channels, 101).parameters()) == parameters


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 1), (2, 1)])
def test_conv_probe_in_eval_equals_the_plain_order_of_layers(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    probe = ConvProbe(3, 10)
    probe(torch.randn(16, 3, 8, 8))  # moves the running statistics away from 0 and 1
    features = torch.randn(4, 3, *size)
    plain = nn.Sequential(
        probe.conv1, probe.norm1, nn.ReLU(), probe.conv2, probe.norm2, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    probe.eval()
    with torch.no_grad():
        torch.testing.assert_close(probe(features), probe.classify(plain(features)), atol=1e-5, rtol=1e-5)
        # Negative control: one tap of the second convolution turned around must be seen.
        probe.conv2.weight[:, :, 0, 1] *= -1
        changed = probe.classify(plain(features))
        probe.conv2.weight[:, :, 0, 1] *= -1
        if size[0] > 1:
            assert not torch.allclose(probe(features), changed, atol=1e-5)


def test_conv_probe_in_training_equals_the_plain_order_of_layers() -> None:
    torch.manual_seed(0)
    probe, features = ConvProbe(3, 10), torch.randn(4, 3, 8, 8)
    hidden = F.relu(F.batch_norm(F.conv2d(features, probe.conv1.weight, padding=1), None, None, training=True))
    hidden = F.batch_norm(F.conv2d(hidden, probe.conv2.weight, padding=1), None, None, training=True)
    torch.testing.assert_close(probe(features), probe.classify(hidden.mean((2, 3))), atol=1e-5, rtol=1e-5)


def test_a_report_is_printed_as_its_table_and_what_follows() -> None:
    found = evaluate(PIXELS, data(20), data(10, seed=1), epochs=1, seeds=2)
    assert str(found) == "\n".join([found.table(), "", *found.sentences()])
    assert found.sentences()[-2:] == [
        "Guessing one of 2 classes gets 50.0%.",
        "Be wary: 20 labels make too few steps (1) to train the conv probe. The linear one and kNN make more of few "
        "labels; more epochs make more steps.",
    ]
    assert repr(found) == f"<ProbeReport: conv probe of {', '.join(found.names)}>"


def test_the_most_frequent_class_stands_beside_chance() -> None:
    train, test = (tuple(part[[0, 2, 4, 6, 1]] for part in data(20, seed=seed)) for seed in (0, 1))
    found = evaluate(PIXELS, train, test, probe="knn", seeds=1, controls=False)
    assert found.card["guessed"] == pytest.approx(0.8)
    assert found.sentences() == ["Guessing one of 2 classes gets 50.0%; naming the most frequent class, 80.0%."]
    older = ProbeReport(found.runs, {key: value for key, value in found.card.items() if key != "guessed"})
    assert older.sentences() == ["Guessing one of 2 classes gets 50.0%."]
    assert "cards agree" in found.compare(older)


def test_test_images_that_are_training_images_are_counted() -> None:
    (images, labels), (others, _) = data(20), data(20, seed=1)
    test = (torch.cat([images[:3], others[3:10]]), labels[:10])
    found = evaluate(PIXELS, (images, labels), test, probe="knn", seeds=1, controls=False)
    assert found.sentences()[-1] == "Be wary: 3 of 10 test images are training images, pixel by pixel."
    assert evaluate(PIXELS, (images, labels), (others, labels), probe="knn", seeds=1, controls=False).card["seen"] == 0


def test_registry_of_probes() -> None:
    assert list_probes() == ["conv", "knn", "linear", "resnet"]
    for name in list_probes():
        assert isinstance(create_probe(name, 4, 10), nn.Module)
    with pytest.raises(UnknownNameError, match="no probe named 'cnv'.*'conv'"):
        create_probe("cnv", 3, 10)
    with pytest.raises(ArgumentError, match="does not take these options"):
        create_probe("conv", 3, 10, depth=3)
    with pytest.raises(ArgumentError, match="registered already"):
        register_probe("conv")(linear)


# What evaluate measures


def test_a_separable_set_is_learnt() -> None:
    found = evaluate(PIXELS, data(), data(40, seed=1), epochs=4, seeds=1)
    history = found.runs[0]["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert set(history[0]) == {"epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert history[-1]["test_accuracy"] > 0.9
    assert history[-1]["test_accuracy"] == found.summary()[0]["test_accuracy_mean"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_shuffled_labels_stay_near_chance() -> None:
    found = evaluate(PIXELS, data(shuffled=True), data(seed=1, shuffled=True), epochs=2, seeds=2)
    assert abs(found.summary()[0]["test_accuracy_mean"] - 0.5) < 0.15  # 4 standard errors of 160 images are 0.16


def test_the_same_call_gives_the_same_figures_and_another_seed_others() -> None:
    first, again, other = (
        evaluate({"net": projected()}, data(40), data(20, seed=1), epochs=1, seeds=s) for s in (1, [0], [3])
    )
    assert first == again
    assert first.runs[0]["history"] != other.runs[0]["history"]


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluate({"net": projected()}, data(20), data(20), probe=linear, epochs=1, seeds=2, label_fraction=0.5)
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(nn.Module):
    """A probe that keeps which images it is trained on: their first feature is their number."""

    seen: list[list[int]]

    def __init__(self, in_channels: int, num_classes: int, seen: list[list[int]]) -> None:
        super().__init__()
        self.linear, self.seen = linear(in_channels, num_classes), seen

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.seen.append(features[:, 0, 0, 0].long().tolist())
        return self.linear(features)


def orders(names: dict[str, int], *, count: int = 150, **options: object) -> tuple[ProbeReport, list[list[int]]]:
    """Trains on numbered images, with as many channels as `names` says; returns the batches as they came."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    labels = (torch.arange(count) % 3 == 0).long()
    representations = {
        name: Representation(name, lambda x, n=channels: x.float()[:, :1].expand(-1, n, -1, -1))
        for name, channels in names.items()
    }
    seen: list[list[int]] = []
    pair = (images, labels)
    found = evaluate(
        representations, pair, pair, probe=lambda i, n: Recorder(i, n, seen), epochs=1, controls=False, **options
    )
    return found, seen


def test_a_seed_gives_every_representation_the_same_order() -> None:
    _, seen = orders({"narrow": 1, "wide": 5}, seeds=2)
    narrow, wide, narrow_again, wide_again = seen[:2], seen[2:4], seen[4:6], seen[6:]  # two batches, two seeds
    assert (narrow, narrow_again) == (wide, wide_again)
    assert narrow != narrow_again


def test_batches_are_nearly_equal_and_hold_every_image_once() -> None:
    _, seen = orders({"one": 1}, seeds=1, count=150)
    assert [len(batch) for batch in seen] == [75, 75]
    assert sorted(image for batch in seen for image in batch) == list(range(150))


def test_label_fraction_draws_the_same_share_of_each_class() -> None:
    _, seen = orders({"narrow": 1, "wide": 5}, seeds=[0, 1], label_fraction=0.2)
    first, first_again, second, second_again = map(sorted, seen)
    assert (first, second) == (first_again, second_again)
    assert first != second
    for chosen in (first, second):
        assert sum(i % 3 == 0 for i in chosen) == 10
        assert sum(i % 3 != 0 for i in chosen) == 20


def test_label_fraction_keeps_one_image_of_each_class() -> None:
    _, seen = orders({"one": 1}, seeds=1, label_fraction=0.001)
    assert sorted(i % 3 == 0 for i in seen[0]) == [False, True]


# Representations and controls


def test_untrained_control_is_added_with_fresh_weights_for_each_seed() -> None:
    drawn: list[int] = []
    watched = projected()
    twin = watched.backbone.untrained
    assert twin is not None
    watched.backbone.untrained = lambda seed: drawn.append(seed) or twin(seed)
    options = {"probe": linear, "epochs": 1, "seeds": [3, 8], "controls": ["untrained"]}
    found = evaluate(PIXELS | {"net": watched}, data(20), data(20), **options)
    names = [run["representation"] for run in found.runs]
    assert names == ["pixels"] * 2 + ["net"] * 2 + ["net (untrained)"] * 2
    assert drawn == [3, 8]
    without = evaluate({"net": watched}, data(20), data(20), probe=linear, epochs=1, seeds=1, controls=False)
    assert [run["representation"] for run in without.runs] == ["net"]


def test_a_name_that_the_control_would_take_is_refused() -> None:
    taken = {"net": projected(), "net (untrained)": Pixels("rgb")}
    with pytest.raises(ArgumentError, match=r"net \(untrained\)"):
        evaluate(taken, data(8), data(8), probe=linear, epochs=1, seeds=1)


def test_a_module_is_frozen_for_its_features_and_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network.train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate({"net": framed(network).representation()}, data(8), data(8), probe=linear, epochs=1, seeds=1)
    assert [part.training for part in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    broken = Representation("broken net", lambda images: images.float() * bad)
    with pytest.raises(ArgumentError, match="'broken net'"):
        evaluate({"x": broken}, data(8), data(8), epochs=1, seeds=1)


def test_features_that_are_no_maps_are_refused() -> None:
    flat = Representation("flat", lambda images: images.float().mean((2, 3)))
    with pytest.raises(ArgumentError, match=r"'flat'.*shape"):
        evaluate({"x": flat}, data(8), data(8), epochs=1, seeds=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs is a whole number of at least 1, got 0"),
        ({"seeds": 0}, "seed"),
        ({"seeds": []}, "seed"),
        ({"seeds": [1, 1]}, "seed"),
        ({"label_fraction": 0.0}, r"label_fraction.*\(0, 1\]"),
        ({"label_fraction": 1.5}, r"label_fraction.*\(0, 1\]"),
        ({"representations": {}}, "representations"),
        ({"representations": {"net": nn.Identity()}}, r"Identity|task.representation\(\)"),
        ({"test": (data(8)[0], torch.arange(8) % 3)}, "classes"),
        ({"train": (data(8)[0][:0], [])}, "train"),
    ],
)
def test_unusable_arguments_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        evaluate(**({"representations": PIXELS, "train": data(8), "test": data(8), "epochs": 1} | options))


# Intervals


def test_mean_interval_against_scipy() -> None:
    values = [0.31, 0.35, 0.28, 0.40]
    low, high = stats.t.interval(0.9, 3, loc=stats.tmean(values), scale=stats.sem(values))
    mean, half = mean_interval(values, confidence=0.9)
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2)


def test_paired_difference_against_scipy() -> None:
    a, b = [0.5, 0.62, 0.55, 0.7, 0.61], [0.4, 0.5, 0.47, 0.6, 0.52]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    mean, half = paired_difference(a, b)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))


def test_differences_that_agree_but_for_rounding_have_no_spread() -> None:
    mean, half = paired_difference([0.3, 0.2], [0.2, 0.1])
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert mean == pytest.approx(0.1)
    assert half == 0
    assert "the same for every seed" in describe_difference(mean, half, "pixels")
    _, one_of_a_million = paired_difference([0.3, 0.2], [0.2, 0.1 - 1e-6])
    assert one_of_a_million == pytest.approx(stats.t.ppf(0.975, 1) * 1e-6 / 2, rel=1e-6)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    mean, half = mean_interval([0.5])
    assert mean == 0.5
    assert half is None or math.isnan(half)
    with pytest.raises(ArgumentError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ArgumentError, match="2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


# The report


def test_summary_and_differences_are_paired_by_seed() -> None:
    found = report({"pixels": [0.1, 0.5, 0.9], "net": [0.21, 0.6, 1.0]})
    row = found.summary()[1]
    assert set(row) == {
        "representation", "probe", "test_accuracy_mean", "test_accuracy_ci95", "test_loss_mean", "seeds"
    }  # fmt: skip
    assert (row["representation"], row["seeds"]) == ("net", 3)
    (difference,) = found.differences("pixels")
    assert difference["mean"] == pytest.approx(0.31 / 3)
    assert row["test_accuracy_ci95"] > 0.5 > 0.05 > difference["ci95"]
    assert difference["significant"]
    with pytest.raises(UnknownNameError, match="no representation 'x'.*pixels, net"):
        found.differences("x")


def test_a_single_seed_claims_nothing() -> None:
    found = report({"pixels": [0.1], "net": [0.9]})
    assert found.summary()[0]["test_accuracy_ci95"] is None
    assert found.differences("pixels")[0]["ci95"] is None
    assert found.differences("pixels")[0]["significant"] is False
    assert "nan" not in found.table().lower()


def test_the_table_compares_with_pixels_and_the_untrained_network() -> None:
    found = evaluate(PIXELS | {"net": projected()}, data(20), data(20), probe=linear, epochs=1, seeds=2)
    lines = [line for line in found.table().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "pixels" in lines[0]
    assert "untrained" in lines[0]
    (row,) = (line for line in lines if line.startswith("| net |"))
    assert len(re.findall(r"[+-]\d+\.\d", row)) == len(found.card["against"]["net"]) == 4  # a gain for each control
    assert not any(re.search(r"[+-]\d+\.\d", line) for line in lines if line.startswith(("| pixels", "| net (")))


def test_report_comes_back_from_json(tmp_path: Path) -> None:
    found = evaluate(PIXELS | {"net": projected()}, data(20), data(20), probe=linear, epochs=1, seeds=2)
    found.to_json(tmp_path / "report.json")
    assert ProbeReport.from_json(tmp_path / "report.json") == found
    with pytest.raises(MissingFileError, match="does not exist"):
        ProbeReport.from_json(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="probe report"):
        ProbeReport.from_json(tmp_path / "other.json")


@pytest.mark.parametrize("probe", ["conv", "linear", "knn"])
def test_all_controls_stand_beside_unless_switched_off(probe: str) -> None:
    task = Colorization(nn.Conv2d(1, 4, 2, stride=2), losses={"l1": 1.0})
    store = data(20, size=8)
    report = evaluate({"net": task.representation()}, store, store, probe=probe, epochs=1, seeds=2)
    added = ["pixels rgb", "pixels lab:L", "pixels rgb 4×4", "color histogram"]
    assert report.names == ["net", "net (untrained)", *added]
    assert list(report.card["against"]["net"].values()) == ["net (untrained)", *added]
    headings = [cell.strip() for cell in report.table().splitlines()[0].split("|")][3:-1]
    assert headings == [
        "minus untrained", "minus pixels rgb", "minus its source channels", "minus pixels of its size",
        "minus color histogram",
    ]  # fmt: skip
    own = evaluate({"mine": Pixels("rgb"), "net": task.representation()}, store, store, probe=probe, epochs=1, seeds=1)
    assert own.card["against"]["net"]["mine"] == "mine", "what is there already is not added again"
    assert "pixels rgb" not in own.names
    with pytest.raises(ArgumentError, match="no control 'chance'; known: untrained, pixels"):
        evaluate(PIXELS, store, store, controls=["chance"])
    taken = {"pixels rgb": task.representation()}
    with pytest.raises(ArgumentError, match="'pixels rgb' is what one of the controls is called"):
        evaluate(taken, store, store)


@pytest.mark.parametrize(
    ("channels", "source"), [("gray", "pixels gray"), ("lab:L", "pixels lab:L"), ("lab", None), ("ycbcr:YCrCb", None)]
)
def test_a_network_that_sees_less_than_the_image_is_compared_with_what_it_sees(
    channels: str, source: str | None
) -> None:
    network = FrozenNetwork(nn.Conv2d(Channels.parse(channels).num_channels, 2, 2, stride=2), channels=channels)
    given = {"network": network.representation()}
    report = evaluate(given, data(8), data(8), probe="knn", seeds=1, controls=["source"])
    assert report.card["against"]["network"] == ({"its source channels": source} if source else {})


def test_controls_of_bands_are_bands() -> None:
    space = ChannelSpace.bands("four", ["B", "G", "R", "N"])
    images = torch.rand(12, 4, 8, 8)
    task = CrossChannelPrediction(
        Channels(space, ["B", "G", "R"]), Channels(space, ["N"]), nn.Conv2d(3, 4, 2, stride=2)
    )
    report = evaluate({"net": task.representation()}, (images, [0, 1] * 6), (images, [0, 1] * 6), probe="knn", seeds=1)
    assert report.names[2:] == ["pixels four", "pixels four:BGR", "pixels four 4×4"]


def test_the_card_says_what_decided_the_figures() -> None:
    card = evaluate(PIXELS, data(20), data(10), epochs=1, seeds=[4, 2], label_fraction=0.5).card
    assert (card["probe"], card["epochs"], card["seeds"], card["label_fraction"]) == ("conv", 1, [4, 2], 0.5)
    assert card["representations"]["pixels"] == [{"kind": "pixels", "channels": "rgb"}]
    net = evaluate(
        {"net": projected()}, data(20), data(10), probe=linear, epochs=1, seeds=2, controls=["untrained"]
    ).card
    assert len(net["representations"]["net"]) == 1
    assert len(net["representations"]["net (untrained)"]) == 2, "a twin for each seed"
    assert "test_probes.linear (" in net["factory"]
    assert (card["learning_rate"], card["weight_decay"], card["batch_size"]) == (3e-4, 2e-5, 64)
    assert (card["train"]["images"], card["test"]["images"]) == (20, 10)
    assert card["train"]["sha256"] != card["test"]["sha256"]


def test_reports_of_the_same_protocol_merge() -> None:
    options = {"probe": linear, "epochs": 1, "seeds": 2, "controls": ["untrained"]}
    together = evaluate(PIXELS | {"net": projected()}, data(20), data(20), **options)
    parts = [
        evaluate({name: one}, data(20), data(20), **options) for name, one in (PIXELS | {"net": projected()}).items()
    ]
    merged = parts[0].merge(parts[1])
    assert merged.summary() == together.summary()
    assert merged.merge(parts[0]) == merged, "what both have, and is the same, stands once"
    shared = projected()
    halves = [evaluate({"net": shared, name: Pixels(name)}, data(20), data(20), **options) for name in ("rgb", "lab:L")]
    joined = halves[0].merge(halves[1])
    assert joined.names == ["net", "net (untrained)", "rgb", "lab:L"]
    assert {*joined.card["against"]["net"].values()} == {"net (untrained)", "rgb", "lab:L"}
    longer = evaluate({"other": projected()}, data(20), data(20), probe=linear, epochs=2, seeds=[0])
    with pytest.raises(ArgumentError, match="epochs.*seeds"):
        merged.merge(longer)
    clash = evaluate({"pixels": Pixels("lab:L")}, data(20), data(20), **options)
    with pytest.raises(ArgumentError, match="both reports hold pixels, and they are not the same"):
        merged.merge(clash)


def test_reports_that_were_probed_differently_say_so_when_compared() -> None:
    options = {"probe": linear, "seeds": 2, "controls": False}
    first = evaluate(PIXELS, data(20), data(20), epochs=1, **options)
    alike = evaluate(PIXELS, data(20), data(20), epochs=1, **options)
    longer = evaluate(PIXELS, data(20), data(20, seed=5), epochs=2, **options)
    assert first.card_differences(alike) == {}
    assert "The probe cards agree." in first.compare(alike)
    assert "| difference |" in first.compare(alike)
    assert set(first.card_differences(longer)) == {"epochs", "test"}
    compared = first.compare(longer)
    assert "Not comparable" in compared
    assert "- epochs: 1 here, 2 there" in compared
    assert "difference" not in compared


def test_the_best_is_chosen_by_images_that_are_not_test_images() -> None:
    found = report({"first": [0.1, 0.2], "second": [0.9, 0.8]})
    with pytest.raises(ArgumentError, match="no accuracy but on test images"):
        found.best(["first", "second"])
    for run in found.runs:
        run["validation_accuracy"] = 0.5 if run["representation"] == "first" else 0.4
    assert found.best(["first", "second"]) == "first"
    with pytest.raises(UnknownNameError, match="no representation 'third'"):
        found.best(["third"])
    with pytest.raises(ArgumentError, match="nothing but controls"):
        evaluate(PIXELS, data(8), data(8), probe="knn", seeds=1).best()


def test_words_follow_from_the_interval() -> None:
    assert "3.1 points above x (95% interval +2.0 to +4.2)" in describe_difference(0.031, 0.011, "x")
    assert "3.1 points below x" in describe_difference(-0.031, 0.011, "x")
    assert describe_difference(0.031, 0.032, "x").startswith("no difference from x that these seeds could show")
    assert "with one seed, so without an interval" in describe_difference(0.031, None, "x")


def test_label_efficiency_comes_back_from_json_and_draws(tmp_path: Path) -> None:
    curve = label_efficiency(PIXELS, data(20), data(20), per_class=[2, 5], probe="knn", seeds=2)
    curve.to_json(tmp_path / "labels.json")
    assert LabelEfficiency.from_json(tmp_path / "labels.json") == curve
    assert curve.table().splitlines()[0] == "| representation | 2 | 5 |"
    curve.plot(tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="no reports by label count"):
        LabelEfficiency.from_json(tmp_path / "other.json")


def test_regularizers_hold_the_weights_of_a_probe_down() -> None:
    options = {"epochs": 3, "seeds": 1, "controls": False}
    plain = evaluate(PIXELS, data(40), data(20), **options)
    held = evaluate(PIXELS, data(40), data(20), training=ProbeConfig(regularizers={"nuclear_norm": 1.0}), **options)
    assert held.runs[0]["history"] != plain.runs[0]["history"]
    assert held.card["regularizers"] == {"nuclear_norm": 1.0}
    assert "regularizers" in plain.card_differences(held)
    with pytest.raises(ArgumentError, match="trained by AdamW"):
        evaluate(PIXELS, data(8), data(8), probe="linear", training=ProbeConfig())
    with pytest.raises(ArgumentError, match="batch_size of ProbeConfig .* at least 2, got 1"):
        ProbeConfig(batch_size=1)
    with pytest.raises(ArgumentError, match="learning_rate > 0"):
        ProbeConfig(learning_rate="a")
    with pytest.raises(UnknownNameError, match="no regularizer named 'rank'"):
        ProbeConfig(regularizers={"rank": 1.0})


@pytest.mark.parametrize("seeds", [1, 3])
def test_plot_writes_a_picture(tmp_path: Path, seeds: int) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    found = evaluate(PIXELS | {"net": projected()}, data(8), data(8), probe=linear, epochs=2, seeds=seeds)
    found.plot(tmp_path / "curves.png")
    found.plot(tmp_path / "loss.png", loss=True)
    found.plot_differences(tmp_path / "differences.png")
    found.plot_layers(tmp_path / "layers.png", ["net"])
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_compares_a_network_with_its_own_untrained_twin_only() -> None:
    networks = PIXELS | {"first": projected(), "second": projected()}
    options = {"probe": linear, "epochs": 1, "seeds": 2, "controls": ["untrained"]}
    table = evaluate(networks, data(20), data(20), **options).table().splitlines()
    assert table[0] == "| representation | test accuracy, % | minus untrained | minus pixels |"
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[3:5]] for row in table[2:]}
    assert all("±" in cell for name in ("first", "second") for cell in cells[name])
    assert cells["pixels"] == cells["first (untrained)"] == cells["second (untrained)"] == ["", ""]
