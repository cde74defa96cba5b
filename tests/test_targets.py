"""Targets of every kind through `evaluate`: labels, numbers, masks and maps, with controls, seeds and intervals."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.targets import KINDS, as_images_with_targets
from ssl_pretext.representations import Pixels, Representation


def images(count: int, seed: int = 0) -> Tensor:
    """Images of random brightness with a bright square whose side, place and color vary."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 16, 16, generator=generator) * 0.4
    for index in range(count):
        top, left, side = (
            int(torch.randint(low, high, (), generator=generator)) for low, high in ((0, 8), (0, 8), (3, 8))
        )
        color = int(torch.randint(0, 3, (), generator=generator))
        pixels[index, color, top : top + side, left : left + side] += 0.6
    return (pixels * 255).to(torch.uint8)


def masks(pixels: Tensor) -> Tensor:
    return (pixels.amax(dim=1) > 110).long()


def numbers(pixels: Tensor) -> Tensor:
    """The mean of red on a scale of thousandths, and the area of the square on one of thousands."""
    return torch.stack([pixels[:, 0].double().mean(dim=(1, 2)) / 1e3, masks(pixels).double().sum(dim=(1, 2)) * 1e3], 1)


def labels(pixels: Tensor) -> Tensor:
    means = pixels.double().mean(dim=(2, 3))
    return (means > means.median(dim=0).values).double()


def maps(pixels: Tensor) -> Tensor:
    """The red of each pixel on a scale of thousandths, and a brightness on one of thousands, around a million."""
    return torch.stack([pixels[:, 0].float() / 1e3, pixels.float().mean(dim=1) * 1e3 + 1e6], dim=1)


TARGETS = {"labels": labels, "numbers": numbers, "mask": masks, "map": maps}


def representations() -> dict[str, Representation]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sp.FrozenNetwork(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU()))
    return {"network": network.representation()}


def report(kind: str, probe: str = "linear", change: bool = False, **options: object) -> sp.ProbeReport:
    train, test = images(60), images(40, seed=1)
    found = TARGETS[kind](train), TARGETS[kind](test)
    if change:
        found = found[0], found[1].flip(0)
    return sp.evaluate(
        representations(), (train, found[0]), (test, found[1]), target=kind, probe=probe, seeds=2, **options
    )


@pytest.mark.parametrize(
    ("kind", "probe"),
    [("labels", "linear"), ("labels", "knn"), ("numbers", "linear"), ("numbers", "knn"), ("mask", "linear"),
     ("mask", "conv"), ("map", "linear"), ("map", "conv"), ("map", "finetune")],
)  # fmt: skip
def test_every_kind_has_controls_seeds_intervals_and_sentences(kind: str, probe: str, tmp_path) -> None:
    found = report(kind, probe, epochs=2)
    assert {"network", "network (untrained)", "pixels rgb", "color histogram"} <= {*found.names}
    metric = found.metric()
    assert metric.heading in found.table()
    for name in found.names:
        interval = found.interval(name)
        assert np.isfinite([interval.mean, interval.half]).all()
        assert interval.half > 0
    assert any("network (untrained)" in sentence for sentence in found.sentences())
    for name in found.card["metrics"]:
        if name == "rmse":  # each number has its own unit
            with pytest.raises(ArgumentError, match=r"name one, as in rmse\[0\]"):
                found.table(name)
            name = "rmse[1]"
        assert found.metric(name).label in found.table(name)
    found.to_json(tmp_path / "report.json")
    again = sp.ProbeReport.from_json(tmp_path / "report.json")
    assert str(again) == str(found)
    again.plot(tmp_path / "plot.png")
    again.plot_differences(tmp_path / "differences.png")


def test_the_metrics_are_those_of_scikit_learn_on_the_predictions_of_the_probe() -> None:
    """kNN predictions on pixels, computed here by hand from the standardized pixels."""
    train, test = images(60), images(40, seed=1)
    flat = [one.double().flatten(1) / 127.5 - 1 for one in (train, test)]
    scaled = [(one - flat[0].mean(0)) / flat[0].std(0, correction=0) for one in flat]
    similar = nn.functional.normalize(scaled[1], dim=1) @ nn.functional.normalize(scaled[0], dim=1).T
    top = similar.topk(5, dim=1)
    weights = (top.values / 0.1).softmax(dim=1)
    for kind, reference, metric in (
        (
            "labels",
            lambda truth, scores: average_precision_score(truth, scores, average="macro"),
            "mean_average_precision",
        ),
        ("numbers", r2_score, "r2"),
    ):
        known = TARGETS[kind](train)
        predicted = (weights[:, :, None] * known[top.indices]).sum(dim=1)
        expected = reference(TARGETS[kind](test).numpy(), predicted.numpy())
        found = sp.evaluate(
            {"pixels RGB": Pixels("rgb")}, (train, known), (test, TARGETS[kind](test)),
            target=kind, probe="knn[k=5;temperature=0.1]", seeds=1,
        )  # fmt: skip
        assert found.values("pixels RGB", metric) == pytest.approx([expected], abs=1e-4)


def test_units_of_numbers_change_only_the_errors() -> None:
    train, test = images(60), images(40, seed=1)
    factors = torch.tensor([1e6, 1e-6])
    plain, scaled = (
        sp.evaluate(
            {"pixels": Pixels("rgb")}, (train, numbers(train) * factor), (test, numbers(test) * factor),
            target="numbers", seeds=1,
        )
        for factor in (1.0, factors)
    )  # fmt: skip
    assert plain.values("pixels") == pytest.approx(scaled.values("pixels"), abs=1e-6)
    one = sp.evaluate(
        {"pixels": Pixels("rgb")}, (train, numbers(train)[:, 0]), (test, numbers(test)[:, 0]), target="numbers", seeds=1
    )
    assert one.values("pixels", "rmse")[0] == pytest.approx(
        numbers(test)[:, 0].std(correction=0).item() * (1 - one.values("pixels")[0]) ** 0.5, rel=1e-4
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_test_images_choose_nothing(kind: str) -> None:
    """With other test targets, all that the probe has learned or selected is the same."""
    first, second = report(kind, epochs=2), report(kind, epochs=2, change=True)
    assert first.card["representations"] == second.card["representations"]
    for run, other in zip(first.runs, second.runs, strict=True):
        assert run.pop("scores") != other.pop("scores")
        assert run.pop("class_scores") != other.pop("class_scores")
        for one in (run, other):
            one.pop("part_scores")
            one.pop("part_class_scores")
            for row in one["history"]:
                row.pop("test_loss")
        assert run == other


@pytest.mark.parametrize("kind", TARGETS)
def test_missing_targets_are_left_out_and_counted(kind: str) -> None:
    train, test = images(60), images(40, seed=1)
    missing = -1 if kind == "mask" else torch.nan
    known, truth = TARGETS[kind](train), TARGETS[kind](test)
    known[10:20], truth[5] = missing, missing
    kept = [index for index in range(60) if not 10 <= index < 20], [index for index in range(40) if index != 5]
    options = {"target": kind, "seeds": 1, "controls": False, "epochs": 2}
    found = sp.evaluate({"pixels": Pixels("rgb")}, (train, known), (test, truth), **options)
    expected = sp.evaluate(
        {"pixels": Pixels("rgb")}, (train[kept[0]], known[kept[0]]), (test[kept[1]], truth[kept[1]]), **options
    )
    assert found.values("pixels") == expected.values("pixels")
    assert found.card["unlabeled"] == {"train": 10, "test": 1}
    assert "10 training images and 1 test images have no target" in str(found)


def test_images_without_a_class_are_left_out() -> None:
    train, test = images(60), images(40, seed=1)
    known, truth = labels(train)[:, 0].long(), labels(test)[:, 0].long()
    hidden = known.clone()
    hidden[::3] = -1
    kept = (hidden != -1).nonzero().flatten()
    found, expected = (
        sp.evaluate({"pixels": Pixels("rgb")}, data, (test, truth), seeds=1, controls=False)
        for data in ((train, hidden), (train[kept], known[kept]))
    )
    assert found.values("pixels") == expected.values("pixels")
    assert found.card["unlabeled"] == {"train": 20, "test": 0}


def test_label_efficiency_counts_images_if_there_are_no_classes() -> None:
    train, test = images(60), images(40, seed=1)
    curve = sp.label_efficiency(
        {"pixels": Pixels("rgb")}, (train, numbers(train)), (test, numbers(test)), target="numbers",
        num_labels=[10, 40], seeds=2, controls=False,
    )  # fmt: skip
    assert list(curve.reports) == [10, 40]
    assert curve.reports[40].runs[0]["labels"] == 40
    with pytest.raises(ArgumentError, match="pass num_labels in place of per_class"):
        sp.evaluate(
            {"pixels": Pixels("rgb")}, (train, numbers(train)), (test, numbers(test)), target="numbers", per_class=3
        )
    with pytest.raises(ArgumentError, match="60 labeled images, fewer than num_labels=61"):
        sp.evaluate(
            {"pixels": Pixels("rgb")}, (train, numbers(train)), (test, numbers(test)), target="numbers", num_labels=61
        )


def test_cached_results_equal_fresh_ones(tmp_path) -> None:
    for kind in TARGETS:
        probe = "linear" if KINDS[kind].has_pixels else "knn"
        fresh, stored, cached = (report(kind, probe, epochs=2, cache=cache) for cache in (None, tmp_path, tmp_path))
        assert fresh.runs == stored.runs == cached.runs


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("number", [0.5, 1], "Did you mean 'numbers'"),
        ("class", [0.5, 1.0], "whole numbers"),
        ("class", [-2, 1], "counted from 0"),
        ("labels", [[0, 2], [1, 0]], "0, 1 or NaN"),
        ("labels", [[0, np.nan], [np.nan, 0]], "no test image has any"),
        ("numbers", [[np.nan], [np.nan]], "no image has a target"),
        ("numbers", [3.0, 3.0], "at least two values"),
        ("numbers", [np.inf, 3.0], "finite"),
        ("numbers", ["a", "b"], "got <U1"),
        ("numbers", [1.0, 2.0, 3.0], "2 images and 3 targets"),
        ("mask", [[0, 1], [1, 0]], "whole numbers (N, H, W)"),
        ("map", [[0.0, 1.0], [1.0, 0.0]], "(N, H, W) or (N, K, H, W) of numbers"),
        ("map", np.full((2, 4, 4), 3.0), "the map '0' must take at least two values"),
    ],
)  # fmt: skip
def test_other_targets_get_a_clear_error(kind: str, targets: list[object], message: str) -> None:
    data = (images(2), np.array(targets))
    with pytest.raises(ArgumentError) as raised:
        sp.evaluate({"pixels": Pixels("rgb")}, data, data, target=kind)
    assert message in str(raised.value)


def test_names_come_from_a_mapping_and_must_agree() -> None:
    train, test = images(20), images(10, seed=1)
    both = {"red": numbers(train)[:, 0], "area": numbers(train)[:, 1]}
    _, targets = as_images_with_targets((train, both), KINDS["numbers"])
    assert targets.names == ["red", "area"]
    assert targets.values.shape == (20, 2)
    with pytest.raises(ArgumentError, match="must have the same numbers"):
        sp.evaluate({"pixels": Pixels("rgb")}, (train, both), (test, {"red": numbers(test)[:, 0]}), target="numbers")


def test_masks_need_a_probe_that_predicts_them() -> None:
    with pytest.raises(ArgumentError, match="the knn probe predicts no masks; probes that do: linear, conv"):
        report("mask", "knn")
    with pytest.raises(ArgumentError, match="the knn probe predicts no maps; probes that do: linear, conv"):
        report("map", "knn")


def test_intervals_of_a_number_are_as_narrow_as_the_bootstrap_says() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(200, generator=generator), torch.randn(200, generator=generator)
    pixels = (truth + 0.05 * noise)[:, None, None, None].repeat(1, 1, 2, 2)
    space = sp.ChannelSpace.bands("one", ["x"], scale=4)
    known = Representation("known", Pixels(sp.Channels(space)).features)
    data = [(pixels[part], truth[part].double()) for part in (slice(0, 100), slice(100, 200))]
    found = sp.evaluate({"known": known}, *data, target="numbers", seeds=3, controls=False)
    scores = found.image_scores("known")[0]
    assert found.values("known")[0] > 0.99
    assert found.interval("known").half < 3 * 1.96 * scores.std() / 10 < 0.01


def test_a_data_frame_has_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.0, 1.0, 0.0]})
    _, targets = as_images_with_targets((images(3), frame), KINDS["numbers"])
    assert (targets.names, targets.values.tolist()) == (["a", "b"], [[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    with pytest.raises(ArgumentError, match="the same numbers in the same order"):
        sp.evaluate({"p": Pixels("rgb")}, (images(3), frame), (images(3), frame[["b", "a"]]), target="numbers")
    with pytest.raises(ArgumentError, match="one entry per image; got"):
        as_images_with_targets((images(3), {"a": [1.0], "b": [1.0, 2.0, 3.0]}), KINDS["numbers"])


def test_masks_with_a_void_class_or_a_class_without_training_images_are_refused() -> None:
    train, test = images(4), images(4, seed=1)
    void, new = masks(train), masks(test)
    void[0, 0, 0], new[0, 0, 0] = 255, 2
    with pytest.raises(ArgumentError, match=r"masks\[masks == 255\] = -1"):
        sp.evaluate({"p": Pixels("rgb")}, (train, void), (test, masks(test)), target="mask")
    with pytest.raises(ArgumentError, match="have the class '2', which no training image has"):
        sp.evaluate({"p": Pixels("rgb")}, (train, masks(train)), (test, new), target="mask")


def test_the_last_class_may_be_unseen_too() -> None:
    train, test = images(20), images(9, seed=1)
    for known, missing in (([0, 1], 2), ([0, 2], 1)):
        found = sp.evaluate(
            {"p": Pixels("rgb")},
            (train, known * 10),
            (test, [0, 1, 2] * 3),
            seeds=1,
            controls=False,
            unseen_classes=True,
        )
        assert found.card["classes_without_training_images"] == [str(missing)]
        assert found.values("p")[0] <= 2 / 3


def test_a_map_is_predicted_as_least_squares_predicts_it() -> None:
    """Both channels of the target follow from the pixels at the same place, on scales nine orders apart."""
    train, test = images(60), images(40, seed=1)
    data = [
        (pixels, dict(zip(("red", "brightness"), maps(pixels).unbind(dim=1), strict=True))) for pixels in (train, test)
    ]
    data[0][1]["red"][3, :5] = torch.nan
    whole = Representation("whole", lambda batch: batch.float())
    found = sp.evaluate({"whole": whole}, *data, target="map", seeds=1, controls=False, epochs=150)
    assert found.values("whole", "r2[red]")[0] > 0.999
    assert found.values("whole")[0] > 0.999
    half = Representation("red alone", lambda batch: batch[:, :1].float())
    found = sp.evaluate({"half": half}, *data, target="map", seeds=1, controls=False, epochs=60)
    (x, y), (x_test, y_test) = (
        (pixels[:, 0].flatten().double().numpy(), targets["brightness"].flatten().double().numpy())
        for pixels, targets in data
    )
    error = y_test - np.polyval(np.polyfit(x, y, 1), x_test)
    assert found.values("half", "rmse[brightness]")[0] == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.02)
    assert found.values("half", "r2[brightness]")[0] == pytest.approx(1 - np.mean(error**2) / y_test.var(), abs=0.02)


def test_pixels_of_a_map_are_no_independent_observations() -> None:
    """Nine times as many pixels leave the interval about as wide; twice as many images make it narrower."""
    train, test = images(30), images(20, seed=1)
    whole = {"gray": Representation("gray", lambda batch: batch.float().mean(dim=1, keepdim=True))}

    def found(size: int, copies: int = 1) -> sp.ProbeReport:
        red = [pixels[:, 0].float().repeat_interleave(size, 1).repeat_interleave(size, 2) for pixels in (train, test)]
        data = (train, red[0]), (test.repeat(copies, 1, 1, 1), red[1].repeat(copies, 1, 1))
        return sp.evaluate(whole, *data, target="map", seeds=1, controls=False, epochs=20)

    once, larger, twice = found(1), found(3), found(1, copies=2)
    assert larger.interval("gray").half == pytest.approx(once.interval("gray").half, rel=0.2)
    assert twice.interval("gray").half < 0.8 * once.interval("gray").half


@pytest.mark.parametrize("kind", ["class", *TARGETS])
def test_constant_features_get_what_guessing_gets_and_missing_ones_are_refused(kind: str) -> None:
    train, test = images(30), images(20, seed=1)
    of = TARGETS.get(kind, lambda pixels: torch.arange(len(pixels)) % 2)
    constant = Representation("constant", lambda batch: torch.ones(len(batch), 4, 2, 2))
    data = (train, of(train)), (test, of(test))
    options = {"target": kind, "seeds": 1, "controls": False, "epochs": 1}
    value = sp.evaluate({"constant": constant}, *data, **options).values("constant")[0]
    guessing = {"class": 0.5, "labels": labels(test).mean().item(), "numbers": 0.0, "map": 0.0}
    if kind in guessing:
        assert value == pytest.approx(guessing[kind], abs=0.15 if kind != "map" else 0.6)
    else:
        assert 0 < value < 0.6
    missing = Representation("missing", lambda batch: torch.full((len(batch), 4, 2, 2), torch.nan))
    with pytest.raises(ArgumentError, match="'missing' returned features that are not finite"):
        sp.evaluate({"missing": missing}, *data, **options)
