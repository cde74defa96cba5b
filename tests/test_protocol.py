"""The protocol of `evaluate`: test images select nothing, noise is no result, and errors are clear."""

import math
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import numpy as np
import pytest
import torch
from probing import noise, photo_patches
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import Scores, interval, mean_interval
from ssl_pretext.probes.conv import ConvProbe
from ssl_pretext.probes.training import ProbeConfig, train_network
from ssl_pretext.representations.base import Backbone

PROBES = ("conv", "documented_conv", "linear", "knn")


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


# Computing frozen features once does not change the results


@pytest.mark.parametrize("batch", [64, 256])
def test_computed_features_give_the_same_history_as_running_the_frozen_network_in_every_epoch(batch: int) -> None:
    """Runs the frozen network as a part of the network that is trained, as in the documented experiment."""
    train, test, task = photo_patches("train"), photo_patches("test", per_class=10), tiny_task()
    options = {"probe": "documented_conv", "epochs": 3, "seeds": 2, "controls": False}
    report = sp.evaluate({"latent": task.representation()}, train, test, **options)

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
        history, *_ = train_network(
            lambda _channels, classes: Prefixed(6, classes),
            (train.images(), train.labels),
            (test.images(), test.labels),
            num_outputs=4,
            epochs=3,
            seed=run["seed"],
            training=ProbeConfig(standardize=False),
        )
        assert run["history"] == history
    other = sp.evaluate({"latent": tiny_task(1).representation()}, train, test, **options)
    assert [run["history"] for run in other.runs] != [run["history"] for run in report.runs], (
        "another network must give other results"
    )


def test_all_layers_are_computed_in_one_pass_over_the_images() -> None:
    task, sizes = tiny_task(), []
    layers = task.representations() | {"output": task.representation()}
    task.encoder.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    sp.evaluate(layers, photo_patches("train"), photo_patches("test"), probe="knn", seeds=2, controls=False)
    assert sizes == [64, 32, 64, 32], "training and test images in batches, once for all layers"


# Test images select nothing


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_test_labels_change_nothing_but_the_test_results(probe: str) -> None:
    train, test = photo_patches("train"), photo_patches("test", per_class=10)
    layers = tiny_task().representations(["0", "2"])
    options = {"probe": probe, "seeds": 2, "controls": False, "epochs": 3}
    report, other_report = (sp.evaluate(layers, train, labeled, **options) for labeled in (test, shuffled(test)))
    for run, other in zip(report.runs, other_report.runs, strict=True):
        for row in (*run["history"], *other["history"]):
            for key in ("test_loss", "test_accuracy"):
                del row[key]
        changed = ("scores", "part_scores", "class_scores", "part_class_scores", "confusions")
        assert all(run.pop(key) != other.pop(key) for key in changed)
        assert run == other
    if "conv" not in probe:
        assert report.best() == other_report.best()


# Noise is no result


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_training_labels_leave_every_probe_at_chance(probe: str) -> None:
    train, test = photo_patches("train", per_class=30), photo_patches("test", per_class=20)
    stores = [shuffled(train, seed) for seed in range(8)]
    found = [
        sp.evaluate(
            {"pixels": sp.Pixels("rgb", size=4)}, store, test, probe=probe, epochs=5, seeds=[seed], controls=False
        )
        for seed, store in enumerate(stores)
    ]
    mean, half = mean_interval([report.values("pixels")[0] for report in found])
    assert half is not None
    assert abs(mean - 1 / 4) <= half
    clean = sp.evaluate(
        {"pixels": sp.Pixels("rgb", size=4)}, train, test, probe=probe, epochs=5, seeds=1, controls=False
    )
    assert clean.values("pixels")[0] > 1 / 4 + 1.5 * half, "the true labels must be learned"


def test_untrained_networks_of_the_same_kind_seldom_differ_significantly() -> None:
    """With 95% intervals, one false positive in twenty is expected."""
    train, test, task = photo_patches("train", per_class=12), photo_patches("test", per_class=20), tiny_task()
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


def test_a_real_difference_is_significant() -> None:
    train, test = photo_patches("train"), photo_patches("test")
    blind = sp.Representation("blind", lambda images: torch.zeros(len(images), 1, 1, 1))
    report = sp.evaluate({"pixels": sp.Pixels("rgb", size=4), "blind": blind}, train, test, probe="knn", per_class=10)
    assert report.difference("pixels", "blind")["significant"]
    assert report.difference("pixels", "blind")["words"].endswith(")")
    assert "above blind" in report.difference("pixels", "blind")["words"]


def test_threads_that_share_a_network_get_the_same_results() -> None:
    train, test, task = photo_patches("train", per_class=8), photo_patches("test", per_class=8), tiny_task().train()
    options = {"probe": "conv", "epochs": 1, "seeds": 2, "controls": ["untrained"]}

    def accuracies(_: int) -> dict[str, list[float]]:
        report = sp.evaluate({"latent": task.representation()}, train, test, **options)
        return {name: report.values(name) for name in report.names}

    alone = accuracies(0)
    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(accuracies, range(6))) == [alone] * 6
    assert task.training


# Unusual classes and features


@pytest.mark.parametrize("probe", PROBES)
def test_unseen_classes_need_a_flag_and_count_as_errors(probe: str) -> None:
    train, test = noise([0, 1] * 6), noise([0, 1, 2, 2])
    pixels = {"pixels": sp.Pixels("rgb")}
    with pytest.raises(ArgumentError, match=r"1 of the classes of the test images have no .*'c'.*unseen_classes=True"):
        sp.evaluate(pixels, train, test, probe=probe, epochs=1, seeds=1)
    report = sp.evaluate(pixels, train, test, probe=probe, epochs=1, seeds=2, unseen_classes=True, controls=False)
    assert max(report.values("pixels")) <= 0.5
    assert report.card["classes_without_training_images"] == ["c"]
    assert all(math.isfinite(row["test_accuracy"]) for run in report.runs for row in run["history"])


def test_test_labels_as_numbers_may_lack_the_last_classes() -> None:
    pixels = {"pixels": sp.Pixels("rgb")}
    train, images = noise([0, 1, 2] * 4), noise([0, 1, 1]).images()
    report = sp.evaluate(pixels, (train.images(), train.labels), (images, [0, 1, 1]), probe="knn", seeds=1)
    assert report.card["classes"] == 3
    with pytest.raises(ArgumentError, match="train and test must have the same classes"):
        sp.evaluate(pixels, train, (images, [0, 1, 1]), probe="knn", seeds=1)


@pytest.mark.parametrize("probe", PROBES)
def test_classes_with_a_single_training_image_and_without_any(probe: str) -> None:
    report = sp.evaluate(
        {"pixels": sp.Pixels("rgb")}, noise([0] * 8 + [1]), noise([0, 1] * 3), probe=probe, epochs=2, seeds=2
    )
    assert report.card["classes"] == 2
    assert report.card["classes_without_training_images"] == ["c"]


def test_a_single_class_raises_an_error() -> None:
    with pytest.raises(ArgumentError, match="at least two classes"):
        sp.evaluate({"pixels": sp.Pixels("rgb")}, noise([0] * 4), noise([0] * 4))
    unlabeled = sp.ImageStore.from_arrays(noise([0] * 4).images())
    with pytest.raises(ArgumentError, match="needs labels, and the training images have none: give from_arrays"):
        sp.evaluate({"pixels": sp.Pixels("rgb")}, unlabeled, unlabeled)


@pytest.mark.parametrize("probe", PROBES)
def test_constant_features_are_at_chance_and_reported_as_collapsed(probe: str) -> None:
    constant = sp.Representation("constant", lambda images: torch.full((len(images), 5, 2, 2), 3.0))
    train, test = photo_patches("train"), photo_patches("test", per_class=10)
    report = sp.evaluate({"constant": constant}, train, test, probe=probe, epochs=2, seeds=2, controls=False)
    assert report.values("constant") == [0.25, 0.25]
    assert report.card["health"]["constant"]["collapsed_channels"] == 5
    assert report.card["health"]["constant"]["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert "| constant | 5 | 0 | 1.0 | 5 | 0.0% |" in report.health_table()


@pytest.mark.parametrize("probe", PROBES)
def test_features_that_are_not_finite_raise_an_error_with_their_name(probe: str) -> None:
    broken = Backbone(lambda images, layers: {layer: images.float() / 0 for layer in layers}).representation(
        name="broken"
    )
    with pytest.raises(ArgumentError, match="'broken' returned features that are not finite"):
        sp.evaluate({"broken": broken}, noise([0, 1] * 4), noise([0, 1]), probe=probe, seeds=1, unseen_classes=True)


# Probes of all kinds


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
        assert one.table().splitlines()[2].startswith("| pixels | 33.3 ± ")
        one.plot(tmp_path / "loss.png", loss=True)


def test_seeds_that_agree_to_the_image_leave_an_interval_over_labels_and_test_images() -> None:
    train, test = photo_patches("train"), photo_patches("test")
    two = {"pixels": sp.Pixels("rgb", size=4), "light": sp.Pixels("lab:L", size=4)}
    report = sp.evaluate(two, train, test, probe="knn", seeds=3)
    assert len({run["scores"]["accuracy"] for run in report.runs}) == 2, "nothing about the probe is random"
    row = report.difference("pixels", "light")
    assert row["ci95"] > 0.05
    assert row["words"].endswith("over 3 seeds, labeled images and test images)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "12"}, "seeds must be a whole number"),
        ({"seeds": True}, "seeds must be a whole number"),
        ({"seeds": [0.5]}, "a seed must be a whole number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"per_class": "5"}, "per_class must be a whole number"),
        ({"label_fraction": "1"}, r"label_fraction must be in \(0, 1\], got '1'"),
        ({"controls": "untrained"}, "controls must be True, False or a list of some of .*; got 'untrained'"),
        ({"controls": 1}, "controls must be True, False or a list of some of .*; got 1"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, mps, or a numbered GPU"),
        ({"training": {}}, r"training of the knn probe must be a ProbeConfig, got \{\}"),
        ({"probe": 5}, "probe must be one of conv, .*, resnet or a function that creates a module, got 5"),
        ({"probe": "knn[k=2.5]"}, "k of the probe 'knn' is a whole number, got 2.5"),
        ({"probe": "knn[temperature=cold]"}, "temperature of the probe 'knn' is a number"),
        ({"probe": "knn[temperature=0]"}, "temperature of the knn probe must be a number above 0, got 0"),
        ({"probe": "knn[n=3]"}, "does not take these options"),
        ({"representations": [sp.Pixels("rgb")]}, "needs a task, a network, the name of an encoder"),
        (
            {"representations": {"its source channels": sp.Pixels("rgb")}},
            "'its source channels' is the label of a control in tables",
        ),
        ({"test": noise([0, 1, 2]).subset([0])}, None),
        (
            {"test": sp.sample_photos("test", image_size=16)},
            "train has 3 channels and size 8, test has 3 channels and size 16",
        ),
        (
            {"train": noise([0, 1] * 4), "test": noise([2, 2]), "unseen_classes": True},
            "no test image belongs to a class that has training images",
        ),
        ({"cache": __file__}, "cache must be a folder, but .* is a file"),
    ],
)
def test_errors_say_which_option_cannot_be_used(options: dict, message: str | None) -> None:
    usable = {"representations": {"pixels": sp.Pixels("rgb")}, "train": noise([0, 1, 2] * 4), "test": noise([0, 1, 2])}
    call = {**usable, "probe": "knn", "seeds": 1, **options}
    if message is None:  # negative control: a call that works
        assert sp.evaluate(**call).names
        return
    with pytest.raises(ArgumentError, match=message):
        sp.evaluate(**call)


def test_integers_of_numpy_are_accepted_and_written(tmp_path) -> None:
    number = np.int64(4)
    representations = {
        "histogram": sp.representations.ColorHistogram(number),
        "both": sp.representations.Concatenated([sp.Pixels("rgb")], size=number),
        "network": sp.FrozenNetwork(nn.Conv2d(3, 2, 2), image_size=number).representation(),
    }
    training = ProbeConfig(batch_size=number)
    options = {"probe": "conv", "training": training, "per_class": number, "epochs": np.int64(1), "seeds": 1}
    data = noise([0, 1] * 4)
    report = sp.evaluate(representations, data, data, controls=False, cache=tmp_path / "cache", **options)
    report.to_json(tmp_path / "report.json")
    assert sp.ProbeReport.from_json(tmp_path / "report.json") == report
    assert (report.card["per_class"], report.card["batch_size"]) == (4, 4)


# Networks per seed


def test_with_a_network_per_seed_each_seed_evaluates_its_own_network() -> None:
    train, test = photo_patches("train"), photo_patches("test", per_class=10)
    drawn = [tiny_task(seed).representation() for seed in range(3)]
    report = sp.evaluate({"drawn": drawn}, train, test, probe="knn", seeds=3, controls=False)
    alone = [
        sp.evaluate({"x": one}, train, test, probe="knn", seeds=[seed], controls=False).values("x")[0]
        for seed, one in enumerate(drawn)
    ]
    assert report.values("drawn") == alone
    assert len(set(alone)) > 1
    with pytest.raises(
        ArgumentError, match="'drawn' is a sequence of 3 representations for 2 seeds; pass one for each seed"
    ):
        sp.evaluate({"drawn": drawn}, train, test, seeds=2)


def test_differences_follow_from_the_hits_of_the_report() -> None:
    train, test, layers = photo_patches("train"), photo_patches("test"), tiny_task().representations(["0", "2"])
    report = sp.evaluate(layers, train, test, probe="knn", seeds=3, per_class=8, controls=False)
    first, second = report.image_scores("0"), report.image_scores("2")
    assert first.mean(axis=1).tolist() == pytest.approx(report.values("0"))
    row, expected = report.difference("0", "2"), interval(Scores(first.astype(int) - second))
    assert (row["mean"], row["ci95"], row["p"]) == pytest.approx((expected.mean, expected.half, expected.p))
    assert row["mean"] == pytest.approx(fmean(report.values("0")) - fmean(report.values("2")))
    assert report.card["label_sets"] == "disjoint", "3 seeds of 8 images have 24 of each class"


@pytest.mark.parametrize(
    ("options", "sets", "parts"),
    [
        ({"seeds": 3, "per_class": 8}, "disjoint", []),
        ({"seeds": 3, "per_class": 9}, "parts", [32, 32, 32]),
        ({"seeds": 3}, "parts", [32, 32, 32]),
        ({"seeds": 1}, "fixed", []),
    ],
)
def test_seeds_that_share_labels_are_also_trained_on_parts_of_them(options: dict[str, int], sets: str, parts) -> None:
    train, test = photo_patches("train"), photo_patches("test")
    report = sp.evaluate({"pixels": sp.Pixels("rgb", size=2)}, train, test, probe="knn", controls=False, **options)
    assert report.card["label_sets"] == sets
    assert [run["part_labels"] for run in report.runs if "part_labels" in run] == parts
    wide = report.interval("pixels").half
    assert wide >= interval(Scores(report.image_scores("pixels"))).half


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("abc", "ab", "the test images have no class 'c'$"),
        ("abc", "bc", "the test images have no class 'a'$"),
        ("ab", "abc", "the training images have no class 'c'$"),
        ("ab", "bc", "the test images have no class 'a', and the training images have no class 'c'$"),
        ("abcdefgh", "a", "no class 'b', 'c', 'd', 'e', 'f' and 2 other classes of the training images$"),
        ("ab", "ba", r"the order is \['a', 'b'\] in train and \['b', 'a'\] in test"),
    ],
)
def test_a_class_that_is_missing_is_named_with_the_images_that_lack_it(train, test, message):
    stores = (
        sp.ImageStore.from_arrays(torch.zeros(len(names), 3, 8, 8), range(len(names)), classes=list(names))
        for names in (train, test)
    )
    with pytest.raises(ArgumentError, match="must have the same classes in the same order: .*" + message):
        sp.evaluate({"pixels": sp.Pixels("rgb", size=2)}, *stores, probe="knn", controls=False)
