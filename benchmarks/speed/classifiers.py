"""Time of the linear and knn probes on features of given sizes, compared with scikit-learn and lightly."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.timing import OURS, Measurement, RunOptions, time_in_turn
from ssl_pretext.data import holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.knn import TEMPERATURE, K, KNNProbe, train_knn
from ssl_pretext.probes.linear import MAX_ITERATIONS, VALIDATION, Standardized, train_linear

__all__ = ["fit_scikit_learn", "knn_classifiers", "linear_classifiers"]

Array = npt.NDArray[Any]

DECAYS = (1e-5, 1e-3, 1e-1)
LOSS_WITHIN, ACCURACY_WITHIN = 1e-3, 0.003
LIGHTLY_EPOCHS, LIGHTLY_BATCH = 90, 256  # of the linear evaluation in lightly's benchmarks


class Features(NamedTuple):
    """Features `(N, F)` and labels `(N,)` of training and test images."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor


@dataclass(frozen=True)
class FeatureSet:
    """Sizes of a set of features.

    Attributes:
        images: Number of training images.
        features: Number of features.
        classes: Number of classes.
    """

    images: int
    features: int
    classes: int

    def __str__(self) -> str:
        return f"{self.images:,} images × {self.features:,} features, {self.classes:,} classes"

    def draw(self) -> Features:
        """Draws features whose variance falls along the principal axes, as in a network; the classes overlap."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.images + max(1_000, self.images // 4)) % self.classes
        scales = torch.arange(1, self.features + 1).float().rsqrt()
        axes = torch.linalg.qr(torch.randn(self.features, self.features, generator=generator)).Q
        centers = torch.randn(self.classes, self.features, generator=generator)
        noise = torch.randn(len(labels), self.features, generator=generator)
        values = (centers[labels] + 2 * noise) * scales @ axes
        return Features(values[: self.images], labels[: self.images], values[self.images :], labels[self.images :])


SETS = (
    FeatureSet(4_000, 512, 10),
    FeatureSet(2_424, 1_024, 101),
    FeatureSet(2_424, 4_096, 101),
    FeatureSet(2_000, 512, 1_000),
    FeatureSet(20_000, 1_024, 10),
)
SMALL_SETS = (FeatureSet(200, 32, 10),)


def fit_scikit_learn(features: Array, labels: Array, decays: Sequence[float]) -> tuple[float, Any]:
    """Selects a weight decay on held-out images, and fits scikit-learn's logistic regression on all of them.

    Args:
        features: Standardized features `(N, F)`, divided by the square root of F.
        labels: Labels `(N,)`.
        decays: Weight decays to select from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    names = [str(index) for index in range(len(labels))]
    kept, held_out = holdout_split(names, labels.tolist(), fraction=VALIDATION, seed=0)
    # With the default tolerance of 1e-4, fits with a small decay stop far from the minimum.
    shared = {"tol": 1e-6, "max_iter": MAX_ITERATIONS}
    found = []
    for decay in decays:
        fitted = LogisticRegression(C=1 / (len(kept) * decay), **shared).fit(features[kept], labels[kept])
        guesses = fitted.predict_proba(features[held_out])
        loss = log_loss(labels[held_out], guesses, labels=fitted.classes_)
        found.append((-fitted.score(features[held_out], labels[held_out]), loss, decay))
    decay = min(found)[-1]
    return decay, LogisticRegression(C=1 / (len(labels) * decay), **shared).fit(features, labels)


def linear_classifiers(options: RunOptions) -> list[Measurement]:
    """Times the linear probe: a decay is selected on held-out images, and the model is fitted again on all."""
    return [_linear(size, options) for size in (SMALL_SETS if options.small else SETS)]


def _linear(size: FeatureSet, options: RunOptions) -> Measurement:
    data = size.draw()

    def ours() -> tuple[float, float, float]:
        maps = [values[:, :, None, None] for values in (data.train, data.test)]
        found = train_linear(
            (maps[0], data.labels), (maps[1], data.truth), num_outputs=size.classes, epochs=1, seed=0, decays=DECAYS
        )
        (row,) = found.history
        return found.settings["weight_decay"], row["train_loss"], row["test_accuracy"]

    def scikit_learn() -> tuple[float, float, float]:
        from sklearn.metrics import log_loss

        parts = Standardized.of(data.train, data.test)
        known, asked = parts.train.numpy(), parts.test.numpy()
        labels, truth = data.labels.numpy(), data.truth.numpy()
        decay, final = fit_scikit_learn(known, labels, DECAYS)
        return decay, log_loss(labels, final.predict_proba(known)), final.score(asked, truth)

    def lightly() -> float:
        return _lightly_linear(size, data)

    (decay, loss, accuracy), (other_decay, other_loss, other_accuracy) = ours(), scikit_learn()
    if decay == other_decay and not (
        abs(loss - other_loss) <= LOSS_WITHIN and abs(accuracy - other_accuracy) <= ACCURACY_WITHIN
    ):
        raise ArgumentError(
            f"on {size}, the training losses are {loss:.4f} and {other_loss:.4f} and the accuracies {accuracy:.4f} and "
            f"{other_accuracy:.4f}; only equal results are compared"
        )
    agreement = (
        f"{size}: decay {decay:g}, training loss {loss:.4f} and test accuracy {100 * accuracy:.1f}% (scikit-learn: "
        f"{other_decay:g}, {other_loss:.4f}, {100 * other_accuracy:.1f}%; lightly, which selects nothing: "
        f"{100 * lightly():.1f}%)"
    )
    variants = {OURS: ours, "scikit-learn": scikit_learn, "lightly": lightly}
    return Measurement(
        work=f"linear probe, {len(DECAYS)} decays, {size}",
        variants=time_in_turn(variants, rounds=min(options.rounds, 3), warm_up=False),
        goals={"scikit-learn": 1},
        agreement=agreement,
    )


def _lightly_linear(size: FeatureSet, data: Features) -> float:
    """Trains lightly's linear classifier on the features, as its benchmarks do; returns its test accuracy."""
    import lightning.pytorch
    from lightly.utils.benchmarking import LinearClassifier
    from pytorch_lightning import Trainer

    for name in (lightning.pytorch.__name__, "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parts = Standardized.of(data.train, data.test)
    scale = size.features**0.5  # to features of unit variance, for which lightly's learning rate is meant
    torch.manual_seed(0)
    classifier = LinearClassifier(nn.Identity(), LIGHTLY_BATCH, feature_dim=size.features, num_classes=size.classes)
    loader = DataLoader(TensorDataset(parts.train * scale, data.labels), LIGHTLY_BATCH, shuffle=True)
    trainer = Trainer(
        max_epochs=LIGHTLY_EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of worker processes, which in-memory tensors do not need
        trainer.fit(classifier, loader)
    with torch.no_grad():
        guesses = classifier.classification_head(parts.test * scale).argmax(dim=1)
    return float((guesses == data.truth).double().mean())


def knn_classifiers(options: RunOptions) -> list[Measurement]:
    """Times the vote of the nearest neighbors by cosine similarity, and the whole probe."""
    return [_knn(size, options) for size in (SMALL_SETS if options.small else SETS)]


def _knn(size: FeatureSet, options: RunOptions) -> Measurement:
    data = size.draw()
    known, asked = (values[:, :, None, None] for values in (data.train, data.test))

    def ours() -> Tensor:
        probe = KNNProbe(size.features, size.classes, standardize=False).remember(known, data.labels)
        return probe.votes(asked).argmax(dim=1)

    def whole_probe() -> Tensor:
        found = train_knn(
            (known, data.labels), (asked, data.truth), num_outputs=size.classes, epochs=1, seed=0, standardize=False
        )
        return found.outputs.argmax(dim=1)

    def scikit_learn() -> Tensor:
        from sklearn.neighbors import KNeighborsClassifier

        classifier = KNeighborsClassifier(
            K, metric="cosine", algorithm="brute", weights=lambda distances: np.exp(-distances / TEMPERATURE)
        )
        classifier.fit(data.train.numpy(), data.labels.numpy())
        return torch.from_numpy(classifier.predict(data.test.numpy()))

    def lightly() -> Tensor:
        from lightly.utils.benchmarking import knn_predict

        bank, queries = F.normalize(data.train).T, F.normalize(data.test)
        found = [
            knn_predict(batch, bank, data.labels, size.classes, knn_k=K, knn_t=TEMPERATURE)[:, 0]
            for batch in queries.split(LIGHTLY_BATCH)
        ]
        return torch.cat(found)

    variants = {OURS: ours, "the whole probe": whole_probe, "scikit-learn": scikit_learn, "lightly": lightly}
    # Votes that differ by rounding can be in another order, and classes with equal votes, too.
    same = min((ours() == other()).double().mean().item() for other in (scikit_learn, lightly))
    if same < 1 - ACCURACY_WITHIN:
        raise ArgumentError(f"on {size}, only {same:.1%} of the predictions are equal; only equal results are compared")
    return Measurement(
        work=f"knn probe, {size}, {len(data.test):,} test images",
        variants=time_in_turn(variants, rounds=options.rounds),
        goals={"scikit-learn": 1, "lightly": 1},
        agreement=f"{size}: at least {100 * same:.1f}% of the predictions are equal. *The whole probe* also predicts "
        "each training image by the others",
    )
