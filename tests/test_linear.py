"""The linear probe, compared with logistic regression of scikit-learn and SGD of PyTorch."""

import math
from itertools import product

import pytest
import torch
from probing import blobs
from sklearn.linear_model import LogisticRegression
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import linear
from ssl_pretext.probes.linear import EPOCHS, LINEAR_CARD, LinearProbe, Standardized, pool, shrink, train_linear


def photos(count):
    """Pixels of patches of ten photos; the patches that are not for training are tested, also mirrored."""
    stores = [sp.sample_photos(split, image_size=8) for split in ("train", "test")]
    pixels = torch.cat([store.images(range(len(store))) for store in stores]).float()
    labels = torch.cat([store.labels for store in stores])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    train, test = order[:count], order[count:]
    return (pixels[train], labels[train]), (torch.cat([pixels[test], pixels[test].flip(-1)]), labels[test].repeat(2))


def minimum(train, test, decay):
    """The test accuracy at the minimum of the penalized loss, from scikit-learn."""
    parts = Standardized.of(pool(train[0]).double(), pool(test[0]).double())
    regression = LogisticRegression(C=1 / (len(train[1]) * decay), max_iter=2000, tol=1e-5)
    return regression.fit(parts.train, train[1]).score(parts.test, test[1])


DATA = {
    "fewer features than images": (blobs(400), blobs(2000, seed=1)),
    "more features than images": (
        blobs(200, classes=10, features=400, spread=7.0),
        blobs(2000, classes=10, features=400, spread=7.0, seed=1),
    ),
    "150 photos": photos(150),
    "600 photos": photos(600),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", DATA)
def test_training_reaches_the_minimum_of_logistic_regression(name, seed):
    train, test = DATA[name]
    classes = len(train[1].unique())
    assert len(test[1]) >= 2000, "too few images to detect half a point"
    history, setting, _ = train_linear(train, test, classes=classes, epochs=EPOCHS, seed=seed)
    reference = minimum(train, test, setting["weight_decay"])
    assert reference < 0.95, "too easy to detect anything"
    assert history[-1]["test_accuracy"] == pytest.approx(reference, abs=0.005)
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert setting["learning_rate"] in linear.RATES
    assert 0.3 < setting["validation_accuracy"] <= 1


def test_the_comparison_detects_too_few_epochs_and_another_decay():
    train, test = DATA["600 photos"]
    options = {"classes": 10, "seed": 0, "rates": [12.0], "decays": [1e-4]}
    reference = minimum(train, test, 1e-4)
    short, *_ = train_linear(train, test, epochs=2, **options)
    assert abs(short[-1]["test_accuracy"] - reference) > 0.005
    assert abs(minimum(train, test, 1e-2) - reference) > 0.005


def test_the_learning_rate_has_little_effect():
    (maps, labels), (others, truth) = DATA["150 photos"]
    parts = Standardized.of(pool(maps), pool(others))
    settings = list(product(linear.RATES, linear.DECAYS))
    products, tested = parts.train @ parts.train.T, parts.test @ parts.train.T
    *_, (weights, _) = linear._epochs(products, labels, settings, classes=10, epochs=EPOCHS, seed=0, dual=True)
    hits = linear._score(linear._logits(tested, weights, 10), truth)[:, 1].reshape(len(linear.RATES), -1)
    by_rate, by_decay = ((hits.amax(dim) - hits.amin(dim)) / len(truth) for dim in (0, 1))
    assert by_rate.max() < 0.015
    assert by_decay.min() > 0.03


def data_in_double(count=30, features=50):
    maps, labels = blobs(count, features=features)
    flat = maps.flatten(1).double()
    return Standardized.of(flat, flat[:7] + 1), labels


@pytest.mark.parametrize("features", [20, 50])
def test_the_dual_form_gives_the_same_classifiers(features):
    parts, labels = data_in_double(features=features)
    settings = list(product((3.0, 20.0), (1e-3, 1e-1)))
    options = {"classes": 4, "epochs": 5, "seed": 0}
    plain = linear._epochs(parts.train, labels, settings, **options, dual=False)
    products = linear._epochs(parts.train @ parts.train.T, labels, settings, **options, dual=True)
    for (weights, scores), (summands, same) in zip(plain, products, strict=True):
        expected = linear._logits(parts.test, weights, 4)
        found = linear._logits(parts.test @ parts.train.T, summands, 4)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(parts.train.T @ summands[:-1], weights[:-1], rtol=1e-9, atol=1e-9)
        assert torch.tensor(same).allclose(torch.tensor(scores))
    assert not expected[:, 0].allclose(expected[:, 1], rtol=1e-3), "another decay must give other results"


def test_copies_of_features_do_not_change_the_result():
    train, test = blobs(60), blobs(50, seed=1)
    options = {"classes": 4, "epochs": 20, "seed": 0}
    expected, setting, _ = train_linear(train, test, **options)
    copies = [
        (maps.repeat(1, 8, 1, 1), labels) for maps, labels in (train, test)
    ]  # 96 features, more than images, so in the dual form
    found, same, _ = train_linear(*copies, **options)
    assert same == setting
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


def test_training_is_sgd_of_pytorch(monkeypatch):
    monkeypatch.setattr(linear, "MIN_STEPS", 1)  # one batch, so that the order does not matter
    parts, labels = data_in_double()
    steps, rate, decay = 6, 5.0, 0.03
    options = {"classes": 4, "epochs": steps, "seed": 0, "dual": False}
    *_, (weights, _) = linear._epochs(parts.train, labels, [(rate, decay)], **options)
    layer = nn.Linear(50, 4).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    groups = [
        {"params": [layer.weight], "lr": rate, "weight_decay": decay},
        {"params": [layer.bias], "lr": rate * linear.CONSTANT**2, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=linear.MOMENTUM, nesterov=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(parts.train), labels).backward()
        optimizer.step()
        cosine.step()
    torch.testing.assert_close(linear._logits(parts.test, weights, 4)[:, 0], layer(parts.test))


@pytest.mark.parametrize("dual", [False, True])
def test_settings_trained_together_give_the_same_as_one_by_one(dual):
    parts, labels = data_in_double()
    features = parts.train @ parts.train.T if dual else parts.train
    settings = list(product((0.3, 3.0, 1e9), (1e-4, 1e-1)))  # the highest rate diverges and must not affect the others
    options = {"classes": 4, "epochs": 40, "seed": 0, "dual": dual}
    *_, (together, scores) = linear._epochs(features, labels, settings, **options)
    for index, setting in enumerate(settings[:4]):
        *_, (alone, (score,)) = linear._epochs(features, labels, [setting], **options)
        torch.testing.assert_close(together[:, 4 * index : 4 * index + 4], alone)
        assert scores[index] == pytest.approx(score)
    assert scores[0] != scores[1] != scores[2]
    assert not math.isfinite(scores[-1][0])


def test_a_setting_that_diverges_is_not_selected():
    maps, labels = blobs(100)
    labels = torch.where(
        torch.arange(100) < 80, 0, labels
    )  # logits that are NaN predict class 0, which is mostly correct
    maps = torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
    options = {"classes": 4, "epochs": 60, "seed": 0, "decays": [0.5]}
    history, setting, _ = train_linear((maps, labels), (maps, labels), rates=[1e6, 1.0], **options)
    assert setting["learning_rate"] == 1.0
    assert all(math.isfinite(value) for row in history for value in row.values())
    diverged, *_ = train_linear((maps, labels), (maps, labels), rates=[1e6], **options)
    assert diverged[-1]["test_loss"] == math.inf
    assert diverged[-1]["test_accuracy"] >= history[-1]["test_accuracy"] - 0.05, (
        "selection by accuracy alone must be wrong"
    )


def test_test_images_do_not_change_the_training_results():
    train, test = blobs(80), blobs(40, seed=1)
    shuffled = test[0], test[1].flip(0)
    found = [train_linear(train, one, classes=4, epochs=5, seed=0) for one in (test, shuffled)]
    assert found[0][1] == found[1][1]
    for key in ("train_loss", "train_accuracy"):
        assert [row[key] for row in found[0][0]] == [row[key] for row in found[1][0]]
    assert found[0][0][-1]["test_accuracy"] != found[1][0][-1]["test_accuracy"]


def test_with_one_image_per_class_the_setting_is_the_middle_of_the_grid():
    history, setting, _ = train_linear(blobs(4), blobs(40, seed=1), classes=4, epochs=5, seed=0)
    assert setting == {"learning_rate": linear.RATES[2], "weight_decay": linear.DECAYS[1]}
    assert len(history) == 5


def test_constant_features_become_zeros_and_are_at_chance():
    train, test = blobs(40, features=3), blobs(40, features=3, seed=1)
    train[0][:, 1], test[0][:, 1] = 1e4 / 3, 7.0
    parts = Standardized.of(pool(train[0]), pool(test[0]))
    assert torch.equal(parts.test[:, 1], torch.zeros(40))
    assert parts.train[:, [0, 2]].square().mean(0).tolist() == pytest.approx([1 / 3, 1 / 3])
    for width in (1, 100):
        same = torch.full((40, width, 1, 1), 0.1)
        history, *_ = train_linear((same, train[1]), (same, test[1]), classes=4, epochs=5, seed=0)
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
    assert {run["learning_rate"] for run in report.runs} <= set(linear.RATES)
    one_each = sp.evaluate(
        {"pixels": sp.Pixels("rgb")}, (images[:3], labels[:3]), (images, labels), probe="linear", seeds=1
    )
    assert "validation_accuracy" not in one_each.runs[0]
