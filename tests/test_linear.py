import pytest
import torch
from sklearn.linear_model import LogisticRegression

import ssl_pretext as sp
from ssl_pretext.probes import linear
from ssl_pretext.probes.linear import Standardized, pool, train_linear


def blobs(count, *, classes=4, features=12, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, features, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    points = centers[labels] + spread * torch.randn(count, features, generator=generator)
    return points[:, :, None, None], labels


def test_it_is_as_good_as_logistic_regression():
    train, test = blobs(200), blobs(400, seed=1)
    history, setting = train_linear(train, test, classes=4, epochs=30, seed=0)
    parts = Standardized.of(pool(train[0]), pool(test[0]))
    reference = LogisticRegression(max_iter=1000).fit(parts.train, train[1]).score(parts.test, test[1])
    assert reference < 0.95, "too easy to tell anything"
    assert history[-1]["test_accuracy"] == pytest.approx(reference, abs=0.04)
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert set(setting) == {"learning_rate", "weight_decay"}


def test_settings_side_by_side_are_settings_one_by_one():
    (maps, labels), (others, truth) = blobs(100), blobs(60, seed=1)
    parts = Standardized.of(pool(maps), pool(others))
    settings = [{"learning_rate": rate, "weight_decay": decay} for rate in (0.3, 3.0) for decay in (0.0, 0.1)]
    options = {"classes": 4, "epochs": 3, "seed": 0}
    *_, together = linear._epochs(parts.train, labels, parts.test, truth, settings, **options)
    for setting, row in zip(settings, together, strict=True):
        *_, (alone,) = linear._epochs(parts.train, labels, parts.test, truth, [setting], **options)
        assert alone == pytest.approx(row, rel=1e-4)
    assert together[0] != together[1]


def test_one_step_is_the_gradient_of_cross_entropy(monkeypatch):
    monkeypatch.setattr(linear, "BATCH_SIZE", 10_000)
    (maps, labels) = blobs(40)
    features = Standardized.of(pool(maps), pool(maps)).train
    weights = torch.zeros(12, 4, requires_grad=True)
    bias = torch.zeros(4, requires_grad=True)
    torch.nn.functional.cross_entropy(features @ weights + bias, labels).backward()
    step = 0.7 * (1 + linear.MOMENTUM)  # Nesterov's first step
    expected = torch.nn.functional.cross_entropy(features @ (-step * weights.grad) - step * bias.grad, labels)
    (row,) = next(iter(linear._epochs(features, labels, features, labels, [{"learning_rate": 0.7, "weight_decay": 0}],
                                      classes=4, epochs=1, seed=0)))  # fmt: skip
    assert row["test_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_test_images_choose_nothing(monkeypatch):
    train, test = blobs(80), blobs(40, seed=1)
    shuffled = test[0], test[1].flip(0)
    found = [train_linear(train, one, classes=4, epochs=5, seed=0) for one in (test, shuffled)]
    assert found[0][1] == found[1][1]
    assert [row["train_loss"] for row in found[0][0]] == [row["train_loss"] for row in found[1][0]]


def test_maps_are_pooled_to_at_most_9216_features():
    for shape in ((32, 32, 32), (512, 7, 7), (3, 200, 100), (20_000, 2, 2)):
        pooled = pool(torch.randn(2, *shape))
        assert pooled.shape[1] <= max(linear.MAX_FEATURES, shape[0])
    small = torch.randn(2, 8, 3, 5)
    assert torch.equal(pool(small), small.flatten(1)), "nothing is averaged that fits"


def test_evaluate_reports_the_setting_and_how_it_was_chosen():
    images, labels = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8), [0, 1, 2] * 8
    report = sp.evaluate({"pixels": sp.Pixels("rgb")}, (images, labels), (images, labels), probe="linear", seeds=2)
    assert report.card["selection"].startswith("rate and decay on 20% of the training images")
    assert {run["learning_rate"] for run in report.runs} <= set(linear.RATES)
    one_each = sp.evaluate(
        {"pixels": sp.Pixels("rgb")}, (images[:3], labels[:3]), (images, labels), probe="linear", seeds=1
    )
    assert len(one_each.runs) == 1
