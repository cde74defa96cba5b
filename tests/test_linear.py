"""The linear probe, compared with logistic regression of scikit-learn."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from probing import blobs
from sklearn.linear_model import LogisticRegression, Ridge

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import linear
from ssl_pretext.probes.linear import (
    DECAYS,
    LINEAR_CARD,
    OBJECTIVES,
    LinearProbe,
    Standardized,
    pool,
    shrink,
    train_linear,
)
from ssl_pretext.probes.targets import KINDS, accuracy

CLASS = OBJECTIVES["class"]


def photos(count):
    """Pixels of patches of ten photos; the patches that are not for training are tested, also mirrored."""
    stores = [sp.sample_photos(split, image_size=8) for split in ("train", "test")]
    pixels = torch.cat([store.images(range(len(store))) for store in stores]).float()
    labels = torch.cat([store.labels for store in stores])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    train, test = order[:count], order[count:]
    return (pixels[train], labels[train]), (torch.cat([pixels[test], pixels[test].flip(-1)]), labels[test].repeat(2))


def minimum(train, test, decay):
    """Logits of training and test images at the minimum of the penalized loss, and the loss, from scikit-learn."""
    parts = Standardized.of(pool(train[0]).double(), pool(test[0]).double())
    regression = LogisticRegression(C=1 / (len(train[1]) * decay), max_iter=20_000, tol=1e-8)
    regression.fit(parts.train, train[1])
    weights = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
    logits = [part @ weights[0].T + weights[1] for part in (parts.train, parts.test)]
    return *logits, penalized(logits[0], train[1], weights[0], decay)


def ours(train, test, decay, start=None):
    """The same from the function that the probe uses, on features in single precision."""
    parts = Standardized.of(pool(train[0]), pool(test[0]))
    features, rotate_back = linear._rotate(parts.train)
    start = torch.zeros(int(train[1].max()) + 1, features.shape[1] + 1)
    fit = linear._minimize(features, train[1], decay, start, CLASS)
    assert fit.converged
    weights = rotate_back(fit.weights[:, :-1]).double()
    logits = [part.double() @ weights.T + fit.weights[:, -1].double() for part in (parts.train, parts.test)]
    return *logits, penalized(logits[0], train[1], weights, decay)


def penalized(logits, labels, weights, decay):
    return (torch.nn.functional.cross_entropy(logits, labels) + decay / 2 * weights.square().sum()).item()


def agreement(first, second):
    return (first.argmax(1) == second.argmax(1)).double().mean().item()


DATA = {
    "fewer features than images": (blobs(400), blobs(2000, seed=1)),
    "more features than images": (
        blobs(200, classes=10, features=400, spread=7.0),
        blobs(2000, classes=10, features=400, spread=7.0, seed=1),
    ),
    "150 photos": photos(150),
    "600 photos": photos(600),
}


@pytest.mark.parametrize("decay", [1e-7, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("name", DATA)
def test_each_fit_reaches_the_minimum_of_scikit_learn(name, decay):
    train, test = DATA[name]
    *expected, least = minimum(train, test, decay)
    *found, loss = ours(train, test, decay)
    assert least - 1e-6 < loss < 1.001 * least
    assert agreement(found[0], expected[0]) >= 0.99
    assert agreement(found[1], expected[1]) >= 0.99


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", DATA)
def test_the_probe_has_the_accuracy_of_scikit_learn(name, seed):
    train, test = DATA[name]
    classes = len(train[1].unique())
    assert len(test[1]) >= 2000, "too few images to detect a third of a point"
    (row,), settings, predicted = train_linear(train, test, num_outputs=classes, epochs=1, seed=seed)
    logits = minimum(train, test, settings["weight_decay"])[1]
    reference = (logits.argmax(1) == test[1]).double().mean().item()
    assert reference < 0.95, "too easy to detect anything"
    assert row["test_accuracy"] == pytest.approx(reference, abs=0.003)
    assert row["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, test[1]).item(), rel=0.01)
    assert row["test_accuracy"] == accuracy(predicted, test[1])
    assert row["epoch"] == 1
    assert settings["weight_decay"] in DECAYS
    assert settings["converged"] is True
    assert 0.3 < settings["validation_accuracy"] <= 1


def test_the_comparison_detects_an_early_stop_and_another_decay(monkeypatch):
    train, test = DATA["600 photos"]
    *_, expected, least = minimum(train, test, 1e-5)
    assert agreement(minimum(train, test, 1e-3)[1], expected) < 0.99
    monkeypatch.setattr(linear, "TOLERANCE", 3e-2)
    *_, found, loss = ours(train, test, 1e-5)
    assert loss > 1.001 * least
    assert agreement(found, expected) < 0.99


def data_in_double(count=30, features=50):
    maps, labels = blobs(count, features=features, spread=4.0)
    flat = maps.flatten(1).double()
    return Standardized.of(flat, flat[:7] + 1), labels


@pytest.mark.parametrize("features", [5, 50])
@pytest.mark.parametrize("decay", DECAYS[::2])
def test_the_gradient_is_zero_at_the_minimum(features, decay, monkeypatch):
    monkeypatch.setattr(linear, "TOLERANCE", 1e-9)
    parts, labels = data_in_double(features=features)
    rotated, rotate_back = linear._rotate(parts.train)
    fit = linear._minimize(rotated, labels, decay, rotated.new_zeros(4, rotated.shape[1] + 1), CLASS)
    weights, bias = rotate_back(fit.weights[:, :-1]).requires_grad_(), fit.weights[:, -1].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(parts.train @ weights.T + bias, labels)
    (loss + decay / 2 * weights.square().sum()).backward()
    assert weights.grad.abs().max() < 1e-6
    assert bias.grad.abs().max() < 1e-6
    assert weights.abs().max() > 1e-3, "without weights nothing is tested"


@pytest.mark.parametrize("features", [5, 30, 50])
def test_rotation_changes_no_logits_and_no_squared_weights(features):
    parts, _ = data_in_double(features=features)
    rotated, rotate_back = linear._rotate(parts.train)
    products = rotated.T @ rotated
    torch.testing.assert_close(products, products.diagonal().diag())
    assert rotated.shape[1] <= min(30, features)
    weights = torch.randn(3, rotated.shape[1], dtype=torch.float64)
    back = rotate_back(weights)
    torch.testing.assert_close(parts.train @ back.T, rotated @ weights.T)
    torch.testing.assert_close(back.square().sum(), weights.square().sum())


def test_copies_of_features_do_not_change_the_result():
    train, test = blobs(60), blobs(50, seed=1)
    options = {"num_outputs": 4, "epochs": 1, "seed": 0}
    (expected,), settings, _ = train_linear(train, test, **options)
    copies = [(maps.repeat(1, 8, 1, 1), labels) for maps, labels in (train, test)]  # more features than images
    (found,), same, _ = train_linear(*copies, **options)
    assert same["weight_decay"] == settings["weight_decay"]
    assert found == pytest.approx(expected, rel=1e-3)


def test_separable_images_take_the_smallest_decay_and_converge():
    train, test = blobs(200, spread=0.2), blobs(2000, spread=0.2, seed=1)
    (row,), settings, _ = train_linear(train, test, num_outputs=4, epochs=1, seed=0)
    # All decays classify the held-out images correctly, so the smallest loss decides.
    assert (settings["weight_decay"], settings["at_edge"], settings["converged"]) == (DECAYS[0], True, True)
    assert row["train_accuracy"] == settings["validation_accuracy"] == 1
    *_, least = minimum(train, test, DECAYS[0])
    assert least < 1e-3, "the minimum must be far from the start"
    *_, loss = ours(train, test, DECAYS[0])
    assert loss == pytest.approx(least, rel=1e-3)


def test_the_edges_of_the_decays_are_reported():
    train, test = DATA["600 photos"]
    options = {"num_outputs": 10, "epochs": 1, "seed": 0}
    _, inner, _ = train_linear(train, test, **options)
    assert inner["at_edge"] is False
    position = DECAYS.index(inner["weight_decay"])
    for decays in (DECAYS[position:], DECAYS[: position + 1]):
        _, settings, _ = train_linear(train, test, decays=decays, **options)
        assert (settings["weight_decay"], settings["at_edge"]) == (inner["weight_decay"], True)
    assert train_linear(train, test, decays=[1e-3], **options).settings["at_edge"] is False


def test_a_fit_that_is_stopped_is_reported(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 3)
    train, test = DATA["150 photos"]
    (row,), settings, _ = train_linear(train, test, num_outputs=10, epochs=1, seed=0)
    assert settings["converged"] is False
    assert settings["iterations"] <= 3
    assert math.isfinite(row["test_loss"])
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), [0, 1] * 20
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, images, images, probe="linear", seeds=2, controls=False)
    assert "Warning: 2 of 2 probes stopped before they converged." in report.sentences()


def test_repetitions_and_threads_give_the_same_result():
    train, test = DATA["150 photos"]

    def results(_):
        outcome = train_linear(train, test, num_outputs=10, epochs=1, seed=0)
        return outcome.history, outcome.settings, outcome.outputs.tolist()

    with ThreadPoolExecutor(4) as pool_of_threads:
        found = [results(0), *pool_of_threads.map(results, range(4))]
    assert all(result == found[0] for result in found)


@pytest.mark.parametrize("labels", [[0] * 30, [0] * 29 + [1]])
def test_rare_classes_and_a_single_class_end(labels):
    maps, labels = blobs(30)[0], torch.tensor(labels)
    (row,), settings, predicted = train_linear(
        (maps, labels), (maps, labels), num_outputs=max(labels) + 1, epochs=1, seed=0
    )
    assert settings["converged"] is True
    assert row["train_accuracy"] == accuracy(predicted, labels) > 0.9


def test_test_images_do_not_change_the_training_results():
    train, test = blobs(80), blobs(40, seed=1)
    shuffled = test[0], test[1].flip(0)
    found = [train_linear(train, one, num_outputs=4, epochs=1, seed=0) for one in (test, shuffled)]
    assert found[0].settings == found[1].settings
    for key in ("train_loss", "train_accuracy"):
        assert found[0].history[0][key] == found[1].history[0][key]
    assert found[0].history[0]["test_accuracy"] != found[1].history[0]["test_accuracy"]


def test_with_one_image_per_class_the_decay_is_the_middle_one():
    history, settings, _ = train_linear(blobs(4), blobs(40, seed=1), num_outputs=4, epochs=5, seed=0)
    assert settings == {"weight_decay": 1e-3, "iterations": settings["iterations"], "converged": True}
    assert len(history) == 1


def test_constant_features_become_zeros_and_are_at_chance():
    train, test = blobs(40, features=3), blobs(40, features=3, seed=1)
    train[0][:, 1], test[0][:, 1] = 1e4 / 3, 7.0
    parts = Standardized.of(pool(train[0]), pool(test[0]))
    assert torch.equal(parts.test[:, 1], torch.zeros(40))
    assert parts.train[:, [0, 2]].square().mean(0).tolist() == pytest.approx([1 / 3, 1 / 3])
    for width in (1, 100):
        same = torch.full((40, width, 1, 1), 0.1)
        history, *_ = train_linear((same, train[1]), (same, test[1]), num_outputs=4, epochs=5, seed=0)
        assert history[-1]["test_accuracy"] == 0.25
        assert history[-1]["test_loss"] == pytest.approx(math.log(4), abs=0.01)


def test_the_scale_of_the_features_has_no_effect():
    maps = blobs(40)[0]
    flat = pool(maps)
    expected = Standardized.of(flat, flat)
    for factor in (1e-9, 1e6):
        torch.testing.assert_close(Standardized.of(factor * flat, factor * flat).test, expected.test)


def test_maps_are_pooled_to_at_most_9216_features():
    for shape in ((32, 32, 32), (512, 7, 7), (3, 200, 100), (20_000, 2, 2)):
        maps = torch.randn(2, *shape)
        pooled = pool(maps)
        assert pooled.shape[1] <= max(linear.MAX_FEATURES, shape[0])
        assert torch.equal(pool(shrink(maps)), pooled)
    small = torch.randn(2, 8, 3, 5)
    assert torch.equal(pool(small), small.flatten(1)), "small maps must not be averaged"


def test_the_linear_probe_as_a_network_is_batch_norm_and_a_linear_layer():
    probe, maps = LinearProbe(3, 5), torch.randn(16, 3, 4, 4)
    probe(maps)
    flat = maps.flatten(1)
    normed = (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(probe(maps), normed @ probe.classify.weight.T + probe.classify.bias)
    assert {name for name, _ in probe.named_parameters()} == {"classify.weight", "classify.bias"}
    with pytest.raises(ArgumentError, match="takes features with 3 channels, got 4"):
        probe(torch.randn(2, 4, 4, 4))


def test_evaluate_reports_the_selected_setting_and_how_it_was_selected():
    images, labels = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8), [0, 1, 2] * 8
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, (images, labels), (images, labels), probe="linear", seeds=2)
    assert {key: report.card[key] for key in LINEAR_CARD} == LINEAR_CARD
    assert report.card["epochs"] == 1
    for run in report.runs:
        assert run["weight_decay"] in LINEAR_CARD["weight_decay"]
        assert run["converged"] is True
    one_each = sp.evaluate(
        {"pixels": sp.Pixels("rgb")}, (images[:3], labels[:3]), (images, labels), probe="linear", seeds=1
    )
    assert "validation_accuracy" not in one_each.runs[0]


@pytest.mark.parametrize("decay", [1e-5, 1e-3, 1e-1])
def test_labels_and_numbers_reach_the_minimum_of_scikit_learn(decay):
    """Each label is a logistic regression, and each number a ridge regression, on the images where it is known."""
    (maps, _), (test_maps, _) = blobs(120, features=30), blobs(50, features=30, seed=1)
    parts = Standardized.of(pool(maps).double(), pool(test_maps).double())
    noise = torch.randn(120, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers = parts.train[:, :3] * 10 + noise
    labels = (numbers > torch.tensor([0.0, 1.0, -1.0])).double()
    for name, targets in (("labels", labels), ("numbers", numbers)):
        targets[:40, 1] = torch.nan
        outcome = train_linear(
            (maps, targets),
            (test_maps, torch.zeros(50, 3)),
            kind=KINDS[name],
            num_outputs=3,
            epochs=1,
            seed=0,
            decays=[decay],
        )
        for k in range(3):
            known = ~targets[:, k].isnan()
            inputs, wanted = parts.train[known], targets[known, k]
            if name == "labels":
                model = LogisticRegression(C=1 / (len(wanted) * decay), max_iter=20_000, tol=1e-10).fit(inputs, wanted)
                expected = torch.from_numpy(model.predict_proba(parts.test)[:, 1])
            else:
                expected = torch.from_numpy(Ridge(alpha=len(wanted) * decay).fit(inputs, wanted).predict(parts.test))
            error = (outcome.outputs[:, k] - expected).square().mean().sqrt()
            assert error < 0.02 * expected.std(), f"{name} {k}"


@pytest.mark.parametrize("kind", ["class", "labels", "numbers"])
def test_blocks_of_images_do_not_change_the_result(kind, monkeypatch):
    (maps, labels), (test_maps, test_labels) = blobs(90), blobs(40, seed=1)
    targets, truth = labels, test_labels
    if kind != "class":
        one_hot = torch.nn.functional.one_hot(torch.cat([labels, test_labels])).double()
        targets, truth = one_hot.split([90, 40])
        targets[:30, 1], truth[5:9, 2] = torch.nan, torch.nan

    def outcome():
        options = {"kind": KINDS[kind], "num_outputs": 4, "epochs": 1, "seed": 0}
        return train_linear((maps, targets), (test_maps, truth), **options)

    at_once = outcome()
    sizes = []
    compute = linear._logits
    monkeypatch.setattr(linear, "_logits", lambda some, weights: sizes.append(len(some)) or compute(some, weights))
    monkeypatch.setattr(linear, "BLOCK", 4 * 13)  # of 13 images, of which the last block has fewer
    in_blocks = outcome()
    assert max(sizes) == 13
    assert in_blocks.history[0] == pytest.approx(at_once.history[0], rel=1e-3)
    assert in_blocks.settings["weight_decay"] == at_once.settings["weight_decay"]
    torch.testing.assert_close(in_blocks.outputs, at_once.outputs, rtol=1e-2, atol=1e-3)
