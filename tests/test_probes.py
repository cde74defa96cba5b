"""Probes: the conv probe, what `evaluate` measures, and the reports."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from probing import PIXELS, backbone_of, recorded_batches, small_linear, small_network, two_classes
from torch import nn
from torch.nn import functional as F

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, UnknownNameError
from ssl_pretext.probes import (
    ConvProbe,
    LabelEfficiency,
    ProbeConfig,
    ProbeReport,
    create_probe,
    evaluate,
    label_efficiency,
    list_probes,
    register_probe,
)
from ssl_pretext.probes.outcome import pack_scores
from ssl_pretext.representations.base import Pixels, Representation


def report_of(accuracies: dict[str, list[float]]) -> ProbeReport:
    """A real report on 100 test images whose hits are replaced: as many of the first ones as the accuracies say."""
    representations = {name: Pixels("rgb") if "pixels" in name else small_network() for name in accuracies}
    seeds = len(next(iter(accuracies.values())))
    found = evaluate(
        representations, two_classes(8), two_classes(100), probe=small_linear, epochs=1, seeds=seeds, controls=False
    )
    for run in found.runs:
        accuracy = accuracies[run["representation"]][run["seed"]]
        run["history"][-1]["test_accuracy"] = accuracy
        run["scores"] = run["part_scores"] = {"accuracy": pack_scores(torch.arange(100) < 100 * accuracy)}
    return found


# The conv probe


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
        # Negative control: a changed sign in the second convolution must be detected.
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


def test_a_printed_report_shows_its_table_and_its_sentences() -> None:
    found = evaluate(PIXELS, two_classes(20), two_classes(10, seed=1), probe="conv", epochs=1, seeds=3)
    assert str(found) == "\n".join([found.table(), "", *found.sentences()])
    assert found.sentences()[-2:] == [
        "Guessing one of 2 classes gets 50.0%.",
        "Warning: 20 labels give only 1 training steps, too few for the conv probe. Use the linear or knn probe with "
        "so few labels, or more epochs.",
    ]
    assert repr(found) == f"<ProbeReport: conv probe of {', '.join(found.names)}>"


def test_the_accuracy_of_the_most_frequent_class_is_reported_next_to_chance() -> None:
    train, test = (tuple(part[[0, 2, 4, 6, 1]] for part in two_classes(20, seed=seed)) for seed in (0, 1))
    found = evaluate(PIXELS, train, test, probe="knn", seeds=1, controls=False)
    assert found.card["guessed"] == pytest.approx(0.8)
    assert found.sentences()[1:] == [
        "Guessing one of 2 classes gets 50.0%; always naming the most frequent class gets 80.0%."
    ]


def test_intervals_beyond_possible_accuracies_end_at_them() -> None:
    found = report_of({"good": [0.99, 1.0], "bad": [0.0, 0.02]})
    few = evaluate(PIXELS, two_classes(8), two_classes(8), probe="knn", seeds=2)
    assert few.interval("pixels").mean + few.interval("pixels").half > 1
    assert [sentence.partition(";")[0] for sentence in few.sentences() if "end there" in sentence] == [
        "Intervals that reach below 0% or above 100% end there"
    ]
    row = found.difference("good", "bad")
    assert row["mean"] + row["ci95"] > 1
    assert re.search(r"95% interval \+[89]\d\.\d to \+100\.0 ", row["words"])
    sure = report_of({"good": [0.5, 0.5]})
    assert not [sentence for sentence in sure.sentences() if "end there" in sentence]


def test_test_images_that_are_training_images_are_counted() -> None:
    (images, labels), (others, _) = two_classes(20), two_classes(20, seed=1)
    test = (torch.cat([images[:3], others[3:10]]), labels[:10])
    found = evaluate(PIXELS, (images, labels), test, probe="knn", seeds=1, controls=False)
    assert found.sentences()[-1] == (
        "Warning: 3 of 10 test images are identical to training images (0 repeats 0, 1 repeats 1)."
    )
    assert evaluate(PIXELS, (images, labels), (others, labels), probe="knn", seeds=1, controls=False).card["seen"] == 0


def test_registry_of_probes() -> None:
    assert list_probes() == ["conv", "dino_knn", "documented_conv", "finetune", "knn", "linear", "resnet"]
    for name in {*list_probes()} - {"finetune"}:
        assert isinstance(create_probe(name, 4, 10), nn.Module)
    with pytest.raises(UnknownNameError, match="no probe named 'cnv'.*'conv'"):
        create_probe("cnv", 3, 10)
    with pytest.raises(ArgumentError, match="does not take these options"):
        create_probe("conv", 3, 10, depth=3)
    with pytest.raises(ArgumentError, match="registered already"):
        register_probe("conv")(small_linear)


# What evaluate measures


def test_separable_classes_are_learned() -> None:
    found = evaluate(PIXELS, two_classes(), two_classes(40, seed=1), probe="conv", epochs=4, seeds=1)
    history = found.runs[0]["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert set(history[0]) == {"epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert history[-1]["test_accuracy"] > 0.9
    assert history[-1]["test_accuracy"] == found.summary()[0]["test_accuracy_mean"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_shuffled_labels_stay_near_chance() -> None:
    found = evaluate(PIXELS, two_classes(shuffled=True), two_classes(seed=1, shuffled=True), epochs=2, seeds=2)
    assert abs(found.summary()[0]["test_accuracy_mean"] - 0.5) < 0.15  # 4 standard errors of 160 images are 0.16


def test_the_same_seeds_give_the_same_results_and_other_seeds_do_not() -> None:
    first, again, other = (
        evaluate({"net": small_network()}, two_classes(40), two_classes(20, seed=1), epochs=1, seeds=s)
        for s in (1, [0], [3])
    )
    assert first == again
    assert first.runs[0]["history"] != other.runs[0]["history"]


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluate(
        {"net": small_network()},
        two_classes(20),
        two_classes(20),
        probe=small_linear,
        epochs=1,
        seeds=2,
        label_fraction=0.5,
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_all_representations_of_a_seed_are_trained_in_the_same_order() -> None:
    _, seen = recorded_batches({"narrow": 1, "wide": 5}, seeds=2)
    assert [len(batch) for batch in seen] == [75, 75, 75] * 4, "two batches of all images and one of a half, two seeds"
    narrow, wide, narrow_again, wide_again = seen[:2], seen[3:5], seen[6:8], seen[9:11]
    assert (narrow, narrow_again) == (wide, wide_again)
    assert narrow != narrow_again


def test_batches_are_nearly_equal_and_contain_each_image_once() -> None:
    _, seen = recorded_batches({"one": 1}, seeds=1, count=150)
    assert [len(batch) for batch in seen] == [75, 75]
    assert sorted(image for batch in seen for image in batch) == list(range(150))


# Representations


def test_a_module_is_frozen_while_features_are_computed_and_unchanged_afterward() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    network.train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(
        {"net": backbone_of(network).representation()},
        two_classes(8),
        two_classes(8),
        probe=small_linear,
        epochs=1,
        seeds=1,
    )
    assert [part.training for part in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_raise_an_error(bad: float) -> None:
    broken = Representation("broken net", lambda images: images.float() * bad)
    with pytest.raises(ArgumentError, match="'broken net'"):
        evaluate({"x": broken}, two_classes(8), two_classes(8), epochs=1, seeds=1)


def test_features_that_are_not_maps_raise_an_error() -> None:
    flat = Representation("flat", lambda images: images.float().mean((2, 3)))
    with pytest.raises(
        ArgumentError, match=r"'flat' returned features of shape \(1, 3\), but they must have the shape \(1, C, h, w\)"
    ):
        evaluate({"x": flat}, two_classes(8), two_classes(8), epochs=1, seeds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"seeds": []}, r"seeds must contain at least one seed and no seed twice, got \[\]"),
        ({"seeds": [1, 1]}, r"seeds must contain at least one seed and no seed twice, got \[1, 1\]"),
        ({"label_fraction": 0.0}, r"label_fraction must be in \(0, 1\], got 0.0"),
        ({"label_fraction": 1.5}, r"label_fraction must be in \(0, 1\], got 1.5"),
        ({"representations": {}}, r"a mapping from names to them with at least one entry, .*; got \{\}"),
        (
            {"representations": {"net": 0.5}},
            r"'net' must be a task, a network, .*; got float",
        ),
        (
            {"test": (two_classes(8)[0], torch.arange(8) % 3)},
            "must have the same classes in the same order: the training images have no class '2'",
        ),
        ({"train": (two_classes(8)[0][:0], [])}, r"evaluate\(\) got no train images"),
    ],
)
def test_errors_say_which_argument_cannot_be_used(options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(
            **({"representations": PIXELS, "train": two_classes(8), "test": two_classes(8), "epochs": 1} | options)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controls": [1]}, "there is no control 1; known: untrained"),
        ({"controls": [[1], "pixels"]}, r"there is no control \[1\]; known: untrained"),
        ({"controls": ["pixels", 1]}, "there is no control 1; known: untrained"),
        ({"controls": {"untrained": False}}, "controls must be True, False or a list"),
        ({"cache": 3}, "cache must be the path of a folder or None, got 3"),
        ({"cache": ""}, "cache must be the path of a folder or None, got ''"),
        ({"cache": "a\0b"}, r"cache must be the path of a folder or None, got 'a\\x00b'"),
        ({"representations": {1: Pixels("rgb")}}, "the names of representations must be text, such as 'mine', got 1"),
        ({"representations": {"": Pixels("rgb")}}, "the names of representations must be text, such as 'mine', got ''"),
        ({"representations": {("a", 1): Pixels("rgb")}}, r"must be text, such as 'mine', got \('a', 1\)"),
        ({"seeds": [2**64]}, r"a seed must be less than 2\*\*63, got 18446744073709551616"),
        ({"unseen_classes": "no"}, "unseen_classes must be True or False, got 'no'"),
    ],
)
def test_values_of_a_wrong_type_are_refused(options: dict[str, object], message: str) -> None:
    call = {"representations": PIXELS, "train": two_classes(8), "test": two_classes(8), "probe": "knn", "seeds": 1}
    with pytest.raises(ArgumentError, match=message):
        evaluate(**(call | options))


@pytest.mark.parametrize("wrong", [[1, "a"], [[1]], "12", [1, 1], [1, 1.0], [1, True], [None], {1: 2}, [], 5, [0]])
def test_wrong_numbers_of_labels_are_refused(wrong: object) -> None:
    with pytest.raises(ArgumentError, match="per_class"):
        label_efficiency(PIXELS, two_classes(8), two_classes(8), per_class=wrong, probe="knn", seeds=1)


class OwnProbe(nn.Module):
    """A probe whose output is what a function makes of its logits."""

    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.classify, self.change = nn.Linear(3, 2), change

    def forward(self, features: torch.Tensor) -> object:
        return self.change(self.classify(features.mean((2, 3))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: None, "returned NoneType, but it must return floating logits of shape (8, 2): one for each"),
        (lambda logits: (logits,), "returned tuple, but"),
        (lambda logits: logits[:, :1], "returned torch.float32 of shape (8, 1), but"),
        (lambda logits: torch.cat([logits, logits], 1), "returned torch.float32 of shape (8, 4), but"),
        (lambda logits: logits[:1], "returned torch.float32 of shape (1, 2), but"),
        (lambda logits: logits.sum(), "returned torch.float32 of shape (), but"),
        (lambda logits: logits[:, :, None, None], "returned torch.float32 of shape (8, 2, 1, 1), but"),
        (lambda logits: logits.long(), "returned torch.int64 of shape (8, 2), but"),
        (lambda logits: logits.to(torch.complex64), "returned torch.complex64 of shape (8, 2), but"),
        (lambda logits: logits.detach(), "the outputs of the probe do not depend on its parameters"),
    ],
)
def test_own_probes_that_return_no_logits_are_refused(change: Callable[[torch.Tensor], object], message: str) -> None:
    call = {"train": two_classes(8), "test": two_classes(8), "epochs": 1, "seeds": 1}
    with pytest.raises(ArgumentError, match=re.escape(message)):
        evaluate(PIXELS, probe=lambda channels, classes: OwnProbe(change), **call)
    assert evaluate(PIXELS, probe=lambda channels, classes: OwnProbe(lambda logits: logits), **call).names
    for factory in (lambda channels, classes: None, lambda channels, classes: nn.Identity()):
        with pytest.raises(ArgumentError, match="must return a module with parameters to train, got (None|Identity)"):
            evaluate(PIXELS, probe=factory, **call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images.to(torch.complex64), r"'own' returned complex features; use abs\(\), or real and imag"),
        (lambda images: images.float().to_sparse(), r"'own' returned sparse features; use to_dense\(\)"),
        (lambda images: images[:, :0].float(), r"'own' returned features of shape \(1, 0, 4, 4\)"),
    ],
)
def test_features_that_are_no_real_numbers_are_refused(change: Callable, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate({"own": Representation("own", change)}, two_classes(8), two_classes(8), probe="knn", seeds=1)


# The report


def test_summary_and_differences_are_paired_by_seed() -> None:
    found = report_of({"pixels": [0.1, 0.5, 0.9], "net": [0.21, 0.6, 1.0]})
    row = found.summary()[1]
    assert set(row) == {
        "representation", "probe", "test_accuracy_mean", "test_accuracy_ci95", "test_loss_mean", "seeds"
    }  # fmt: skip
    assert (row["representation"], row["seeds"]) == ("net", 3)
    (difference,) = found.differences("pixels")
    assert difference["mean"] == pytest.approx(0.31 / 3)
    assert row["test_accuracy_ci95"] > 0.5 > 0.09 > difference["ci95"]
    assert difference["significant"]
    with pytest.raises(UnknownNameError, match="no representation 'x'.*pixels, net"):
        found.differences("x")


def test_the_interval_of_a_single_seed_covers_the_test_images_and_says_so() -> None:
    found = report_of({"pixels": [0.5], "net": [0.6]})
    assert found.summary()[0]["test_accuracy_ci95"] == pytest.approx(1.96 * (0.25 / 100 + 2 / 100**2) ** 0.5, rel=1e-3)
    (row,) = found.differences("pixels")
    assert row["words"].endswith(" over test images; one pretraining, one seed, always the same labeled images)")
    assert "nan" not in found.table().lower()


def test_the_table_compares_a_network_with_its_controls() -> None:
    found = evaluate(
        PIXELS | {"net": small_network()}, two_classes(20), two_classes(20), probe=small_linear, epochs=1, seeds=2
    )
    lines = [line for line in found.table().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "pixels" in lines[0]
    assert "untrained" in lines[0]
    (row,) = (line for line in lines if line.startswith("| net |"))
    assert (
        len(re.findall(r"[+-]\d+\.\d", row)) == len(found.card["against"]["net"]) == 4
    )  # a difference from each control
    assert not any(re.search(r"[+-]\d+\.\d", line) for line in lines if line.startswith(("| pixels", "| net (")))


def test_a_report_is_read_back_from_json(tmp_path: Path) -> None:
    found = evaluate(
        PIXELS | {"net": small_network()}, two_classes(20), two_classes(20), probe=small_linear, epochs=1, seeds=2
    )
    found.to_json(tmp_path / "report.json")
    assert ProbeReport.from_json(tmp_path / "report.json") == found
    with pytest.raises(MissingFileError, match="does not exist"):
        ProbeReport.from_json(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="does not hold a probe report"):
        ProbeReport.from_json(tmp_path / "other.json")


def test_the_card_holds_the_settings_that_determine_the_results() -> None:
    options = {"probe": "conv", "epochs": 1, "seeds": [4, 2], "label_fraction": 0.5}
    card = evaluate(PIXELS, two_classes(20), two_classes(10), **options).card
    assert (card["probe"], card["epochs"], card["seeds"], card["label_fraction"]) == ("conv", 1, [4, 2], 0.5)
    assert card["representations"]["pixels"] == [{"kind": "pixels", "channels": "rgb"}]
    net = evaluate(
        {"net": small_network()},
        two_classes(20),
        two_classes(10),
        probe=small_linear,
        epochs=1,
        seeds=2,
        controls=["untrained"],
    ).card
    assert len(net["representations"]["net"]) == 1
    assert len(net["representations"]["net (untrained)"]) == 2, "a twin for each seed"
    assert "probing.small_linear (" in net["factory"]
    assert (card["learning_rate"], card["weight_decay"], card["batch_size"]) == (3e-4, 2e-5, 64)
    assert (card["train"]["images"], card["test"]["images"]) == (20, 10)
    assert card["train"]["sha256"] != card["test"]["sha256"]


def test_reports_with_the_same_settings_merge() -> None:
    options = {"probe": small_linear, "epochs": 1, "seeds": 2, "controls": ["untrained"]}
    together = evaluate(PIXELS | {"net": small_network()}, two_classes(20), two_classes(20), **options)
    parts = [
        evaluate({name: one}, two_classes(20), two_classes(20), **options)
        for name, one in (PIXELS | {"net": small_network()}).items()
    ]
    merged = parts[0].merge(parts[1])
    assert merged.summary() == together.summary()
    assert merged.merge(parts[0]) == merged, "a representation in both reports occurs once"
    shared = small_network()
    parts = [
        evaluate({"net": shared, name: Pixels(name)}, two_classes(20), two_classes(20), **options)
        for name in ("rgb", "lab:L")
    ]
    joined = parts[0].merge(parts[1])
    assert joined.names == ["net", "net (untrained)", "rgb", "lab:L"]
    assert {*joined.card["against"]["net"].values()} == {"net (untrained)", "rgb", "lab:L"}
    longer = evaluate(
        {"other": small_network()}, two_classes(20), two_classes(20), probe=small_linear, epochs=2, seeds=[0]
    )
    with pytest.raises(
        ArgumentError,
        match="the same settings can be merged; these differ in epochs, label_sets, seeds",
    ):
        merged.merge(longer)
    other_pixels = evaluate({"pixels": Pixels("lab:L")}, two_classes(20), two_classes(20), **options)
    with pytest.raises(ArgumentError, match="both reports hold pixels, but not the same representation"):
        merged.merge(other_pixels)


def test_two_functions_of_the_same_name_do_not_merge() -> None:
    (images, labels), options = two_classes(20), {"probe": "knn", "seeds": 2, "controls": False}
    noisy = (torch.randint(0, 256, images.shape, dtype=torch.uint8), labels)
    double, square, other = (
        evaluate({"own": Representation("own", function)}, noisy, noisy, **options)
        for function in (lambda x: x.float(), lambda x: x.float(), lambda x: x[:, :1].float() ** 2)
    )
    assert double.merge(square) == double
    with pytest.raises(ArgumentError, match="both reports hold own, but not the same representation"):
        double.merge(other)


def test_a_difference_from_another_report_names_the_settings_that_differ() -> None:
    call = {"train": two_classes(20), "test": two_classes(20), "seeds": 2}
    first, other, linear = (evaluate(PIXELS, probe=probe, **call) for probe in ("knn[k=1]", "knn[k=5]", "linear"))
    assert first.difference("pixels", "pixels", of=other)["reference"] == "pixels with k=5"
    assert first.difference("pixels", "pixels", of=linear)["reference"] == "pixels with the linear probe"
    assert first.difference("pixels", "pixels", of=first)["reference"] == "pixels of the other report"


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_nothing_is_the_best_with_one_label_per_class(probe: str) -> None:
    given = {"first": Pixels("rgb"), "second": Pixels("lab:L")}
    found = evaluate(given, two_classes(20), two_classes(20), probe=probe, seeds=2, per_class=1)
    with pytest.raises(ArgumentError, match="cannot be computed from one labeled image per class; evaluate with more"):
        found.best(list(given))
    more = evaluate(given, two_classes(20), two_classes(20), probe=probe, seeds=2, per_class=8)
    assert more.best(list(given)) in given


def test_a_comparison_of_reports_lists_the_settings_that_differ() -> None:
    options = {"probe": small_linear, "seeds": 2, "controls": False}
    first = evaluate(PIXELS, two_classes(20), two_classes(20), epochs=1, **options)
    alike = evaluate(PIXELS, two_classes(20), two_classes(20), epochs=1, **options)
    longer = evaluate(PIXELS, two_classes(20), two_classes(20, seed=5), epochs=2, **options)
    assert first.card_differences(alike) == {}
    assert "The probe cards agree." in first.compare(alike)
    assert "| difference |" in first.compare(alike)
    assert set(first.card_differences(longer)) == {"epochs", "test"}
    compared = first.compare(longer)
    assert "Not comparable" in compared
    assert "- epochs: 1 here, 2 there" in compared
    assert "difference" not in compared


def test_the_best_representation_is_selected_on_training_images() -> None:
    found = report_of({"first": [0.1, 0.2], "second": [0.9, 0.8]})
    with pytest.raises(
        ArgumentError, match="held-out training images, which the small_linear probe of 'first' does not have"
    ):
        found.best(["first", "second"])
    for run in found.runs:
        run["validation_accuracy"] = 0.5 if run["representation"] == "first" else 0.4
    assert found.best(["first", "second"]) == "first"
    with pytest.raises(UnknownNameError, match="no representation 'third'"):
        found.best(["third"])
    with pytest.raises(ArgumentError, match="holds only controls"):
        evaluate(PIXELS, two_classes(8), two_classes(8), probe="knn", seeds=1).best()


def test_label_efficiency_is_read_back_from_json_and_drawn(tmp_path: Path) -> None:
    curve = label_efficiency(PIXELS, two_classes(20), two_classes(20), per_class=[2, 5], probe="knn", seeds=2)
    curve.to_json(tmp_path / "labels.json")
    assert LabelEfficiency.from_json(tmp_path / "labels.json") == curve
    assert curve.table().splitlines()[0] == "| representation | 2 | 5 |"
    curve.plot(tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="does not hold the reports of label_efficiency"):
        LabelEfficiency.from_json(tmp_path / "other.json")


def test_regularizers_of_a_probe_are_applied_and_in_the_card() -> None:
    options = {"probe": "conv", "epochs": 3, "seeds": 1, "controls": False}
    plain = evaluate(PIXELS, two_classes(40), two_classes(20), **options)
    held = evaluate(
        PIXELS, two_classes(40), two_classes(20), training=ProbeConfig(regularizers={"nuclear_norm": 1.0}), **options
    )
    assert held.runs[0]["history"] != plain.runs[0]["history"]
    assert held.card["regularizers"] == {"nuclear_norm": 1.0}
    assert "regularizers" in plain.card_differences(held)
    with pytest.raises(
        ArgumentError, match="training configures networks that are trained by AdamW, and the linear probe is not one"
    ):
        evaluate(PIXELS, two_classes(8), two_classes(8), probe="linear", training=ProbeConfig())
    with pytest.raises(ArgumentError, match="batch_size of ProbeConfig .* at least 2, got 1"):
        ProbeConfig(batch_size=1)
    with pytest.raises(ArgumentError, match=r"ProbeConfig\.learning_rate must be a number, got 'a'"):
        ProbeConfig(learning_rate="a")
    with pytest.raises(ArgumentError, match="learning_rate > 0 and weight_decay >= 0, got inf and 2e-05"):
        ProbeConfig(learning_rate=float("inf"))
    with pytest.raises(UnknownNameError, match="no regularizer named 'rank'"):
        ProbeConfig(regularizers={"rank": 1.0})


@pytest.mark.parametrize("seeds", [1, 3])
def test_plots_are_png_files(tmp_path: Path, seeds: int) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    found = evaluate(
        PIXELS | {"net": small_network()}, two_classes(8), two_classes(8), probe=small_linear, epochs=2, seeds=seeds
    )
    found.plot(tmp_path / "curves.png")
    found.plot(tmp_path / "loss.png", loss=True)
    found.plot_differences(tmp_path / "differences.png")
    found.plot_layers(["net"], tmp_path / "layers.png")
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_compares_a_network_only_with_its_own_untrained_twin() -> None:
    networks = PIXELS | {"first": small_network(), "second": small_network()}
    options = {"probe": small_linear, "epochs": 1, "seeds": 2, "controls": ["untrained"]}
    table = evaluate(networks, two_classes(20), two_classes(20), **options).table().splitlines()
    assert table[0] == "| representation | test accuracy, % | minus untrained | minus pixels |"
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[3:5]] for row in table[2:]}
    assert all("±" in cell for name in ("first", "second") for cell in cells[name])
    assert cells["pixels"] == cells["first (untrained)"] == cells["second (untrained)"] == ["", ""]
