"""What a judge must not do: be swayed by test labels, see what is not there, or give another answer the second time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import mean_interval, paired_difference
from ssl_pretext.probes.conv import ConvProbe
from ssl_pretext.probes.training import ProbeConfig, train_network
from ssl_pretext.representations.base import Backbone

PROBES = ("conv", "linear", "knn")
Data = tuple[Tensor, Tensor]


def photos(split: str, classes: int = 4, per_class: int = 24) -> sp.ImageStore:
    """Patches of some of the sample photos, at 16 pixels."""
    store = sp.sample_photos(split, image_size=16)
    chosen = [(store.labels == label).nonzero().flatten()[:per_class] for label in range(classes)]
    images = store.images(torch.cat(chosen))
    return sp.ImageStore.from_arrays(images, store.labels[torch.cat(chosen)])


def shuffled(store: sp.ImageStore, seed: int = 0) -> sp.ImageStore:
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(seed))
    return sp.ImageStore.from_arrays(store.images(), store.labels[order])


def tiny_task(seed: int = 0) -> sp.PretextTask:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return sp.Colorization("tiny", losses={"l1": 1.0})


@pytest.fixture(autouse=True)
def tiny() -> None:
    @sp.register_encoder("tiny")
    def tiny(in_channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2, padding=1),
        )


# Frozen features are computed once, and that changes nothing


@pytest.mark.parametrize("batch", [64, 256])
def test_cached_features_give_the_conv_probe_the_same_bits_as_a_prefix_run_in_every_epoch(batch: int) -> None:
    """The frozen prefix as a part of the network that is trained, as the source does it."""
    train, test, task = photos("train"), photos("test", per_class=10), tiny_task()
    report = sp.evaluate({"latent": task.representation()}, train, test, epochs=3, seeds=2, controls=False)

    class Prefixed(nn.Module):
        def __init__(self, in_channels: int, num_classes: int) -> None:
            super().__init__()
            self.probe = ConvProbe(in_channels, num_classes)
            self.frozen = [task.eval()]  # hidden from parameters()

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = torch.cat([self.frozen[0].features(part) for part in images.split(batch)])
            return self.probe(features)

    for run in report.runs:
        history, _ = train_network(
            lambda _channels, classes: Prefixed(6, classes),
            (train.images(), train.labels),
            (test.images(), test.labels),
            classes=4,
            epochs=3,
            seed=run["seed"],
            training=ProbeConfig(),
        )
        assert run["history"] == history
    other = sp.evaluate({"latent": tiny_task(1).representation()}, train, test, epochs=3, seeds=2, controls=False)
    assert [run["history"] for run in other.runs] != [run["history"] for run in report.runs], "any network would do"


def test_all_layers_come_out_of_one_pass_over_the_images() -> None:
    task, sizes = tiny_task(), []
    layers = task.representations() | {"output": task.representation()}
    task.encoder.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    sp.evaluate(layers, photos("train"), photos("test"), probe="knn", seeds=2, controls=False)
    assert sizes == [64, 32, 64, 32], "the training and the test images in batches, once for all layers"


# Test images choose nothing


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_test_labels_change_no_choice(probe: str) -> None:
    train, test = photos("train"), photos("test", per_class=10)
    layers = tiny_task().representations(["0", "2"])
    options = {"probe": probe, "seeds": 2, "controls": False, "epochs": 3}
    found, swayed = (sp.evaluate(layers, train, side, **options) for side in (test, shuffled(test)))
    figures = ("test_loss", "test_accuracy")
    for run, other in zip(found.runs, swayed.runs, strict=True):
        for row in (*run["history"], *other["history"]):
            for figure in figures:
                del row[figure]
        assert run == other
    if probe != "conv":
        assert found.best() == swayed.best()


# Where there is nothing to be learnt, nothing is found


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_training_labels_leave_every_probe_at_chance(probe: str) -> None:
    train, test = photos("train", per_class=30), photos("test", per_class=20)
    stores = [shuffled(train, seed) for seed in range(8)]
    found = [
        sp.evaluate(
            {"pixels": sp.Pixels("rgb", size=4)}, store, test, probe=probe, epochs=5, seeds=[seed], controls=False
        )
        for seed, store in enumerate(stores)
    ]
    mean, half = mean_interval([report.accuracies("pixels")[0] for report in found])
    assert half is not None
    assert abs(mean - 1 / 4) <= half
    clean = sp.evaluate(
        {"pixels": sp.Pixels("rgb", size=4)}, train, test, probe=probe, epochs=5, seeds=1, controls=False
    )
    assert clean.accuracies("pixels")[0] > 1 / 4 + 2 * half, "the labels as they are do say something"


def test_two_runs_of_the_same_untrained_network_seldom_differ() -> None:
    """A false positive in twenty is what a 95% interval promises; the same network against itself is the check."""
    train, test, task = photos("train", per_class=12), photos("test", per_class=20), tiny_task()
    seeds, different = list(range(5)), 0
    for repeat in range(20):
        drawn = [
            [task.untrained(1000 * repeat + 100 * side + seed).representation() for seed in seeds] for side in (1, 2)
        ]
        report = sp.evaluate(
            {"one": drawn[0], "other": drawn[1]}, train, test, probe="knn", seeds=seeds, per_class=10, controls=False
        )
        different += report.difference("one", "other")["significant"]
    assert different <= 2


def test_a_real_difference_is_found() -> None:
    train, test = photos("train"), photos("test")
    blind = sp.Representation("blind", lambda images: torch.zeros(len(images), 1, 1, 1))
    report = sp.evaluate({"pixels": sp.Pixels("rgb", size=4), "blind": blind}, train, test, probe="knn", per_class=10)
    assert report.difference("pixels", "blind")["significant"]
    assert report.difference("pixels", "blind")["words"].endswith(")")
    assert "above blind" in report.difference("pixels", "blind")["words"]


# Awkward classes and features


def noise(labels: list[int], seed: int = 0) -> sp.ImageStore:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 3, 8, 8), generator=draw, dtype=torch.uint8)
    return sp.ImageStore.from_arrays(images, labels, classes=["a", "b", "c"])


@pytest.mark.parametrize("probe", PROBES)
def test_unseen_classes_need_a_flag_and_count_as_misses(probe: str) -> None:
    train, test = noise([0, 1] * 6), noise([0, 1, 2, 2])
    pixels = {"pixels": sp.Pixels("rgb")}
    with pytest.raises(ArgumentError, match=r"1 classes of the test images.*'c'.*unseen_classes=True"):
        sp.evaluate(pixels, train, test, probe=probe, epochs=1, seeds=1)
    report = sp.evaluate(pixels, train, test, probe=probe, epochs=1, seeds=2, unseen_classes=True, controls=False)
    assert max(report.accuracies("pixels")) <= 0.5
    assert report.card["classes_without_training_images"] == ["c"]
    assert all(math.isfinite(row["test_accuracy"]) for run in report.runs for row in run["history"])


def test_test_labels_as_numbers_may_lack_the_last_classes() -> None:
    pixels = {"pixels": sp.Pixels("rgb")}
    train, images = noise([0, 1, 2] * 4), noise([0, 1, 1]).images()
    report = sp.evaluate(pixels, (train.images(), train.labels), (images, [0, 1, 1]), probe="knn", seeds=1)
    assert report.card["classes"] == 3
    with pytest.raises(ArgumentError, match="other classes"):
        sp.evaluate(pixels, train, (images, [0, 1, 1]), probe="knn", seeds=1)


@pytest.mark.parametrize("probe", PROBES)
def test_a_class_of_one_image_and_a_class_of_none(probe: str) -> None:
    report = sp.evaluate(
        {"pixels": sp.Pixels("rgb")}, noise([0] * 8 + [1]), noise([0, 1] * 3), probe=probe, epochs=2, seeds=2
    )
    assert report.card["classes"] == 2
    assert report.card["classes_without_training_images"] == ["c"]


def test_one_class_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least two classes"):
        sp.evaluate({"pixels": sp.Pixels("rgb")}, noise([0] * 4), noise([0] * 4))


@pytest.mark.parametrize("probe", PROBES)
def test_constant_features_are_at_chance_and_reported(probe: str) -> None:
    constant = sp.Representation("constant", lambda images: torch.full((len(images), 5, 2, 2), 3.0))
    train, test = photos("train"), photos("test", per_class=10)
    report = sp.evaluate({"constant": constant}, train, test, probe=probe, epochs=2, seeds=2, controls=False)
    assert report.accuracies("constant") == [0.25, 0.25]
    assert report.card["health"]["constant"]["collapsed_channels"] == 5
    assert report.card["health"]["constant"]["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert "| constant | 5 | 0 | 1.0 | 5 | 0.0% |" in report.health_table()


@pytest.mark.parametrize("probe", PROBES)
def test_features_that_are_not_finite_are_named(probe: str) -> None:
    broken = Backbone(lambda images, layers: {layer: images.float() / 0 for layer in layers}).representation(
        name="broken"
    )
    with pytest.raises(ArgumentError, match="'broken' gave features that are not finite"):
        sp.evaluate({"broken": broken}, noise([0, 1] * 4), noise([0, 1]), probe=probe, seeds=1, unseen_classes=True)


# Labels


def test_a_budget_is_part_of_a_larger_one_and_the_same_for_all_representations() -> None:
    class Watching(nn.Module):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.classify = nn.Linear(channels, classes)

        def forward(self, features: Tensor) -> Tensor:
            if self.training:
                values = {int(value) for value in features[:, 0, 0, 0]}
                watched.append(values)
            return self.classify(features.mean(dim=(2, 3)))

    images = torch.arange(24, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    data = (images, [i % 3 for i in range(24)])
    names = {name: sp.Representation(name, lambda x: x.float()[:, :1]) for name in ("one", "other")}
    watched: list[set[int]] = []
    options = {"probe": Watching, "epochs": 1, "seeds": 2, "controls": False}
    curve = sp.label_efficiency(names, data, data, per_class=[4, 1, 2], **options)
    assert list(curve.reports) == [1, 2, 4]
    assert [len(values) for values in watched] == [3, 6, 12] * 4
    for one, other in zip(watched[:3], watched[3:6], strict=True):
        assert one == other
    assert watched[0] < watched[1] < watched[2]
    assert watched[0] != watched[6], "another seed, other labels"
    assert {value % 3 for value in watched[0]} == {0, 1, 2}


def test_budgets_that_cannot_be_met_are_refused() -> None:
    pixels, data = {"pixels": sp.Pixels("rgb")}, noise([0, 1, 2] * 4)
    with pytest.raises(ArgumentError, match=r"'a' has 4 labeled images, fewer than per_class=5"):
        sp.evaluate(pixels, data, data, per_class=5)
    with pytest.raises(ArgumentError, match="per_class takes the place of label_fraction"):
        sp.evaluate(pixels, data, data, per_class=2, label_fraction=0.5)
    with pytest.raises(ArgumentError, match="at least one budget, and each once"):
        sp.label_efficiency(pixels, data, data, per_class=[2, 2])


def test_a_probe_that_works_in_place_does_not_change_the_test_images() -> None:
    def careless(channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(channels * 64, classes))

    pixels, data = {"pixels": sp.Pixels("rgb")}, noise([0, 1, 2] * 4)
    options = {"probe": careless, "epochs": 3, "controls": False}
    both, second = (sp.evaluate(pixels, data, data, seeds=seeds, **options) for seeds in ([0, 1], [1]))
    assert both.runs[1]["history"] == second.runs[0]["history"]


def test_a_probe_that_diverged_is_reported(tmp_path) -> None:
    class Diverging(nn.Linear):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__(channels, classes)

        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.mean(dim=(2, 3))) * math.nan

    data = noise([0, 1, 2] * 4)
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, data, data, probe=Diverging, epochs=1, seeds=2)
    report.to_json(tmp_path / "report.json")
    for one in (report, sp.ProbeReport.from_json(tmp_path / "report.json")):
        assert math.isnan(one.summary()[0]["test_loss_mean"])
        assert one.table().splitlines()[2].startswith("| pixels | 33.3 ± 0.0 |")
        one.plot(tmp_path / "loss.png", loss=True)


def test_images_that_are_not_square_keep_their_report(tmp_path) -> None:
    images = torch.randint(0, 256, (12, 3, 4, 8), dtype=torch.uint8)
    data = (images, [0, 1] * 6)
    halved = sp.Representation("halved", lambda x: x.float()[..., ::2] / 255)
    report = sp.evaluate({"halved": halved}, data, data, probe="knn", seeds=2, controls=["reduced"])
    assert report.names == ["halved", "pixels rgb 4×4"]
    report.to_json(tmp_path / "report.json")
    assert sp.ProbeReport.from_json(tmp_path / "report.json") == report


def test_seeds_that_agree_to_the_image_show_nothing() -> None:
    train, test = photos("train"), photos("test")
    two = {"pixels": sp.Pixels("rgb", size=4), "light": sp.Pixels("lab:L", size=4)}
    row = sp.evaluate(two, train, test, probe="knn", seeds=3).difference("pixels", "light")
    assert row["ci95"] == 0
    assert not row["significant"]
    assert "the same for every seed, so without an interval" in row["words"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": "12"}, "seeds is a whole number"),
        ({"seeds": True}, "seeds is a whole number"),
        ({"seeds": [0.5]}, "a seed is a whole number"),
        ({"epochs": 2.5}, "epochs is a whole number"),
        ({"per_class": "5"}, "per_class is a whole number"),
        ({"label_fraction": "1"}, "label_fraction lies in"),
        ({"controls": "untrained"}, "controls is True, False or some of"),
        ({"controls": 1}, "controls is True, False or some of"),
        ({"device": "gpu"}, "device is one of auto, cpu, cuda, got"),
        ({"training": {}}, "training is a ProbeConfig"),
        ({"probe": 5}, "a probe is a name of"),
        ({"probe": "knn[k=2.5]"}, "k of the probe 'knn' is a whole number, got 2.5"),
        ({"probe": "knn[temperature=cold]"}, "temperature of the probe 'knn' is a number"),
        ({"probe": "knn[temperature=0]"}, "temperature above 0"),
        ({"probe": "knn[n=3]"}, "does not take these options"),
        ({"representations": [sp.Pixels("rgb")]}, "representations by name"),
        ({"representations": {"its source channels": sp.Pixels("rgb")}}, "what a table calls a control"),
        ({"test": noise([0, 1, 2]).subset([0])}, None),
        ({"test": sp.sample_photos("test", image_size=16)}, "other images: 3 channels of 8 pixels and 3 of 16"),
        ({"train": noise([0, 1] * 4), "test": noise([2, 2]), "unseen_classes": True}, "no test image is of a class"),
        ({"cache": __file__}, "cache is a folder"),
    ],
)
def test_unusable_options_end_in_a_clear_error(options: dict, words: str | None) -> None:
    usable = {"representations": {"pixels": sp.Pixels("rgb")}, "train": noise([0, 1, 2] * 4), "test": noise([0, 1, 2])}
    call = {**usable, "probe": "knn", "seeds": 1, **options}
    if words is None:  # the negative control: a call of the same form that is usable
        assert sp.evaluate(**call).names
        return
    with pytest.raises(ArgumentError, match=words):
        sp.evaluate(**call)


def test_whole_numbers_of_numpy_count_and_are_written(tmp_path) -> None:
    number = np.int64(4)
    representations = {
        "histogram": sp.representations.ColorHistogram(number),
        "joined": sp.representations.Concatenated([sp.Pixels("rgb")], size=number),
        "network": sp.FrozenNetwork(nn.Conv2d(3, 2, 2), image_size=number).representation(),
    }
    options = {"training": ProbeConfig(batch_size=number), "per_class": number, "epochs": np.int64(1), "seeds": 1}
    data = noise([0, 1] * 4)
    report = sp.evaluate(representations, data, data, controls=False, cache=tmp_path / "cache", **options)
    report.to_json(tmp_path / "report.json")
    assert sp.ProbeReport.from_json(tmp_path / "report.json") == report
    assert (report.card["per_class"], report.card["batch_size"]) == (4, 4)


# Networks per seed


def test_a_network_per_seed_puts_the_luck_of_pretraining_into_the_interval() -> None:
    train, test = photos("train"), photos("test", per_class=10)
    drawn = [tiny_task(seed).representation() for seed in range(3)]
    report = sp.evaluate({"drawn": drawn}, train, test, probe="knn", seeds=3, controls=False)
    alone = [
        sp.evaluate({"x": one}, train, test, probe="knn", seeds=[seed], controls=False).accuracies("x")[0]
        for seed, one in enumerate(drawn)
    ]
    assert report.accuracies("drawn") == alone
    assert len(set(alone)) > 1
    with pytest.raises(ArgumentError, match="'drawn' has 3 networks for 2 seeds"):
        sp.evaluate({"drawn": drawn}, train, test, seeds=2)


def test_a_twin_is_drawn_once_for_all_layers_of_a_network() -> None:
    task = tiny_task()
    drawn: list[int] = []
    backbone = task.backbone()
    draw = backbone.untrained
    assert draw is not None
    backbone.untrained = lambda seed: drawn.append(seed) or draw(seed)
    layers = {"first": backbone.representation("0"), "last": backbone.representation()}
    report = sp.evaluate(layers, photos("train"), photos("test"), probe="knn", seeds=[3, 5], controls=["untrained"])
    assert drawn == [3, 5]
    twin = task.untrained(5).representation("0")
    again = sp.evaluate({"x": twin}, photos("train"), photos("test"), probe="knn", seeds=[5], controls=False)
    assert report.accuracies("first (untrained)")[1] == again.accuracies("x")[0]


def test_paired_differences_are_those_of_the_report() -> None:
    train, test, layers = photos("train"), photos("test"), tiny_task().representations(["0", "2"])
    report = sp.evaluate(layers, train, test, probe="knn", seeds=3, per_class=8, controls=False)
    mean, half = paired_difference(report.accuracies("0"), report.accuracies("2"))
    row = report.difference("0", "2")
    assert (row["mean"], row["ci95"]) == (mean, half)
