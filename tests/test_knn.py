"""The knn probe, compared with scikit-learn."""

import math

import numpy as np
import pytest
import torch
from probing import blobs
from sklearn.neighbors import KNeighborsClassifier

from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import knn
from ssl_pretext.probes.knn import KNNProbe, train_knn
from ssl_pretext.probes.linear import Standardized, pool


def features(count, *, classes, width=6, seed=0):
    """Blobs that overlap about as much for any number of features, and whose mean is not zero."""
    maps, labels = blobs(count, classes=classes, features=width, seed=seed, spread=(width / 6) ** 0.5)
    return maps * 5 + 2, labels


def reference(train, test, k, temperature):
    parts = Standardized.of(pool(train[0]).double(), pool(test[0]).double())
    classifier = KNeighborsClassifier(
        min(k, len(train[1])), metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    classifier.fit(parts.train, train[1])
    return torch.from_numpy(classifier.predict(parts.test)), torch.from_numpy(classifier.predict_proba(parts.test))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("count", "classes", "width", "k", "temperature"),
    [(60, 2, 6, 20, 0.07), (40, 8, 6, 20, 0.07), (90, 5, 200, 7, 1.0), (12, 3, 4, 20, 0.3), (50, 4, 6, 1, 0.07)],
)
def test_predictions_are_those_of_scikit_learn(count, classes, width, k, temperature, seed):
    train = features(count, classes=classes, width=width, seed=seed)
    test = features(300, classes=classes, width=width, seed=seed + 10)
    probe = KNNProbe(width, classes, k=k, temperature=temperature).remember(*train)
    found = probe.votes(test[0])
    predicted, fractions = reference(train, test, k, temperature)
    assert torch.equal(found.argmax(1), predicted)
    torch.testing.assert_close(found.double(), fractions, atol=1e-4, rtol=1e-3)
    history, chosen, _ = train_knn(train, test, num_outputs=classes, epochs=3, seed=0, k=k, temperature=temperature)
    (row,) = history
    assert row["epoch"] == 1
    assert row["test_accuracy"] == (predicted == test[1]).double().mean().item()
    of_truth = fractions.gather(1, test[1][:, None]).clamp(min=knn.FLOOR)
    assert row["test_loss"] == pytest.approx(-of_truth.log().mean().item(), rel=1e-3, abs=1e-6)
    assert chosen == {"k": k, "temperature": temperature, "validation_accuracy": row["train_accuracy"]}


def test_the_comparison_with_scikit_learn_detects_other_options():
    train, test = features(40, classes=8), features(300, classes=8, seed=1)
    found = KNNProbe(6, 8).remember(*train).votes(test[0]).argmax(1)
    assert not torch.equal(found, reference(train, test, 20, 1.0)[0])
    assert not torch.equal(found, reference(train, test, 3, 0.07)[0])


def test_training_accuracy_and_loss_are_leave_one_out(monkeypatch):
    monkeypatch.setattr(knn, "QUERIES", 7)  # several chunks, of which the last is shorter
    maps, labels = features(40, classes=4)
    flat = Standardized.of(pool(maps), pool(maps)).train.tolist()
    hits, losses = 0, []
    for i, own in enumerate(flat):
        similarities = [
            (sum(a * b for a, b in zip(own, other, strict=True)) / math.hypot(*own) / math.hypot(*other), j)
            for j, other in enumerate(flat)
            if j != i
        ]
        votes = [0.0] * 4
        for similarity, j in sorted(similarities, reverse=True)[:20]:
            votes[labels[j]] += math.exp(similarity / 0.07)
        hits += votes.index(max(votes)) == labels[i]
        losses.append(-math.log(max(votes[labels[i]] / sum(votes), knn.FLOOR)))
    ((row,), chosen, _) = train_knn((maps, labels), features(9, classes=4, seed=1), num_outputs=4, epochs=1, seed=0)
    assert row["train_accuracy"] == chosen["validation_accuracy"] == hits / 40 < 1
    assert row["train_loss"] == pytest.approx(sum(losses) / 40, rel=1e-4)
    # Negative control: with one neighbor, an image that votes for itself is always classified correctly.
    assert (KNNProbe(6, 4, k=1).remember(maps, labels).votes(maps).argmax(1) == labels).all()


def test_chunks_do_not_change_the_result(monkeypatch):
    train, test = features(40, classes=4), features(30, classes=4, seed=1)
    at_once = train_knn(train, test, num_outputs=4, epochs=1, seed=0)
    monkeypatch.setattr(knn, "SIMILARITIES", 7 * 40)
    in_chunks = train_knn(train, test, num_outputs=4, epochs=9, seed=5)  # epochs and seed have no effect either
    assert in_chunks[0][0] == pytest.approx(at_once[0][0], rel=1e-5)


def test_test_images_do_not_change_the_training_results():
    train, test = features(80, classes=4), features(40, classes=4, seed=1)
    (first, chosen, _), (second, same, _) = (
        train_knn(train, (test[0], labels), num_outputs=4, epochs=1, seed=0) for labels in (test[1], test[1].flip(0))
    )
    assert chosen == same
    for key in ("train_loss", "train_accuracy"):
        assert first[0][key] == second[0][key]
    assert first[0]["test_accuracy"] != second[0]["test_accuracy"]


def test_one_image_of_each_class_works():
    train, test = features(4, classes=4), features(40, classes=4, seed=1)
    ((row,), *_) = train_knn(train, test, num_outputs=4, epochs=1, seed=0)
    assert row["train_accuracy"] == 0, "no other image has the correct class"
    assert row["train_loss"] == pytest.approx(-math.log(knn.FLOOR))
    assert row["test_accuracy"] > 0.25


def test_constant_features_give_finite_results_at_chance():
    maps, labels = torch.full((40, 3, 1, 1), 0.1), torch.arange(40) % 4
    ((row,), *_) = train_knn((maps, labels), (maps, labels), num_outputs=4, epochs=1, seed=0)
    assert row["test_accuracy"] == 0.25
    assert all(math.isfinite(value) for value in row.values())


def test_a_small_temperature_does_not_overflow():
    train, test = features(40, classes=4), features(40, classes=4, seed=1)
    ((row,), *_) = train_knn(train, test, num_outputs=4, epochs=1, seed=0, temperature=1e-4)
    ((one,), *_) = train_knn(train, test, num_outputs=4, epochs=1, seed=0, k=1)
    assert row["test_accuracy"] == one["test_accuracy"], "only the nearest image has a vote"


@pytest.mark.parametrize("options", [{"k": 0}, {"temperature": 0.0}, {"temperature": math.inf}])
def test_errors_say_which_option_cannot_be_used(options):
    with pytest.raises(
        ArgumentError,
        match="k of the knn probe must be a whole|temperature of the knn probe must be a number above",
    ):
        KNNProbe(3, 2, **options)


def test_the_module_returns_logarithms_of_votes_and_needs_training_images():
    train, test = features(40, classes=4), features(5, classes=4, seed=1)
    probe = KNNProbe(6, 4)
    with pytest.raises(ArgumentError, match=r"no training images yet; call remember\(features, labels\) first"):
        probe(test[0])
    probe.remember(*train)
    assert torch.equal(probe(test[0]), probe.votes(test[0]).clamp(min=knn.FLOOR).log())
