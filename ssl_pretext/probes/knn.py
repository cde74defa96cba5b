"""The knn probe, which classifies by nearest neighbors and is not trained: no learning rate, weight decay or epochs."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.linear import MAX_FEATURES, Standardized, pool
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.targets import KINDS, Kind

__all__ = ["KNN_CARD", "KNNProbe", "neighbor_means", "train_knn"]

K, TEMPERATURE = 20, 0.07  # Wu et al. 2018 (1805.01978) and, with k = 20, Caron et al. 2021 (2104.14294)
# Smallest fraction of the votes in the loss. A class that none of the k neighbors belongs to gets no vote, and its
# logarithm would make the mean loss infinite. A thousandth is below chance for up to 1,000 classes, and the loss of
# such an image, 6.9 nats, does not dominate the mean.
FLOOR = 1e-3
# Images are classified in blocks, so that the similarities to all training images take little memory.
QUERIES = 1_024  # largest number of images in a block
SIMILARITIES = 2**25  # largest number of similarities in a block: 128 MB
KNN_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "standardize": True,
    "similarity": "cosine",
    "k": K,
    "temperature": TEMPERATURE,
    "weights": "exp(similarity / temperature)",
    "loss": f"minus the logarithm of the fraction of votes for the class, at least {FLOOR}",
    "training_figures": "leave-one-out; they select nothing",
    "selection": "none",
}


class KNNProbe(nn.Module):
    """A vote of the k nearest training images by cosine similarity, each with weight exp(similarity / temperature).

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes; the output `(B, num_classes)` is the logarithm of each class's fraction of the
            votes.
        k: Number of neighbors; if there are fewer training images, all of them vote.
        temperature: Temperature of the votes; the smaller it is, the more weight the nearest neighbors have.
        standardize: Whether each feature is standardized by its mean and variance over the training images. Wu et al.
            2018 and Caron et al. 2021 (DINO) do not standardize.

    Raises:
        ArgumentError: k or temperature is not positive.

    Examples:
        >>> maps = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[:, :, None, None]
        >>> KNNProbe(2, 2, k=1).remember(maps, torch.tensor([0, 1]))(maps).argmax(1)
        tensor([0, 1])
    """

    features: Tensor
    labels: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        k: int = K,
        temperature: float = TEMPERATURE,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        whole_number("k of the knn probe", k)
        if not isinstance(temperature, float | int) or not 0 < temperature < math.inf:
            raise ArgumentError(f"temperature of the knn probe must be a number above 0, got {temperature!r}")
        self.in_channels, self.num_classes, self.k, self.temperature = in_channels, num_classes, k, temperature
        self.standardize = standardize
        self.register_buffer("features", torch.empty(0, in_channels))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def remember(self, features: Tensor, labels: Tensor) -> "KNNProbe":
        """Stores features `(N, in_channels, h, w)` and labels `(N,)` of the training images; returns the probe."""
        self.features, self.labels = pool(features), labels
        return self

    @override
    def forward(self, features: Tensor) -> Tensor:
        return self.votes(features).clamp(min=FLOOR).log()

    def votes(self, features: Tensor | None = None) -> Tensor:
        """Computes each class's fraction of the votes, `(B, num_classes)`.

        Args:
            features: Features of the images to classify. Without them, each training image is classified by the other
                training images.

        Raises:
            ArgumentError: The probe has no training images yet.
        """
        return torch.cat([*self.vote_blocks(features)])

    def vote_blocks(self, features: Tensor | None = None) -> Iterator[Tensor]:
        """Yields the same as `votes` for some images at a time, so that those of all images need not be in memory."""
        if not len(self.labels):
            raise ArgumentError("the knn probe has no training images yet; call remember(features, labels) first")
        bank, queries = self.features, None if features is None else pool(features)

        def fractions(weights: Tensor, neighbors: Tensor) -> Tensor:
            return weights.new_zeros(len(weights), self.num_classes).scatter_add(1, self.labels[neighbors], weights)

        found = _neighbors(bank, queries, self.k, self.temperature, self.standardize)
        for some in found:
            yield fractions(*some)


def _neighbors(
    bank: Tensor, queries: Tensor | None, k: int, temperature: float, standardize: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields weights, which sum to 1, and indices of the nearest neighbors `(B, k)`, for some queries at a time.

    Args:
        bank: Pooled features `(N, F)` of the training images.
        queries: Pooled features of other images; None for the training images, which are no neighbors of themselves.
        k: Number of neighbors; if there are fewer training images, all of them.
        temperature: Temperature of the weights, exp(similarity / temperature).
        standardize: Whether each feature is standardized by its mean and variance over the training images.
    """
    images, asked = bank, bank if queries is None else queries
    if standardize:
        parts = Standardized.of(images, asked)
        images, asked = parts.train, parts.test
    images, asked = F.normalize(images), F.normalize(asked)
    size = max(1, min(QUERIES, SIMILARITIES // len(images)))
    for start in range(0, len(asked), size):
        similarities = asked[start : start + size] @ images.T
        if queries is None:
            similarities.diagonal(offset=start).fill_(-math.inf)
        nearest = similarities.topk(min(k, len(images) - (queries is None)), dim=1)
        # Only fractions are needed, so a softmax computes them, which cannot overflow.
        yield (nearest.values / temperature).softmax(dim=1), nearest.indices


def neighbor_means(
    bank: Tensor,
    targets: Tensor,
    queries: Tensor | None = None,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
    standardize: bool = True,
) -> Tensor:
    """Predicts targets by their weighted mean over the nearest training images.

    Args:
        bank: Pooled features `(N, F)` of the training images.
        targets: Targets `(N, K)` of the training images; missing ones are NaN and are left out of the means. If all
            neighbors lack a target, its mean over all training images takes their place.
        queries: Pooled features of the images to predict. Without them, each training image is predicted by the others.
        k: Number of neighbors; if there are fewer training images, all of them are used.
        temperature: Temperature of the weights, exp(similarity / temperature).
        standardize: Whether each feature is standardized by its mean and variance over the training images.

    Returns:
        Predictions `(B, K)`.
    """
    known = ~targets.isnan()
    values = targets.nan_to_num(0).double()
    fallback = values.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    found = []
    for weights, neighbors in _neighbors(bank, queries, k, temperature, standardize):
        weight = weights[:, :, None].double() * known[neighbors]
        total = weight.sum(dim=1)
        means = (weight * values[neighbors]).sum(dim=1) / total.clamp(min=torch.finfo(torch.float64).tiny)
        found.append(torch.where(total > 0, means, fallback))
    return torch.cat(found)


def train_knn(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    standardize: bool = True,
) -> Outcome:
    """Predicts each test image by the nearest training images, and each training image by the nearest others.

    Args:
        train: Features `(N, C, h, w)` and targets of the training images.
        test: Features and targets of the test images.
        kind: Kind of the targets: classes, labels or numbers.
        num_outputs: Number of classes, labels or numbers.
        epochs: Ignored; all probes are called with the same arguments.
        seed: Ignored, because nothing is random.
        k: Number of neighbors; if there are fewer training images, all of them vote.
        temperature: Temperature of the votes, exp(similarity / temperature).
        standardize: Whether each feature is standardized by its mean and variance over the training images.

    Returns:
        A history of one row, in which the training loss and accuracy are leave-one-out, the settings with the training
        accuracy as `validation_accuracy` if a class has two images (or the `validation_loss`, if there are no classes),
        and the predictions.

    Raises:
        ArgumentError: k or temperature is not positive.
    """
    (maps, targets), (test_maps, test_targets) = train, test
    options: dict[str, Any] = {"k": k, "temperature": temperature, "standardize": standardize}
    probe = KNNProbe(maps.shape[1], num_outputs, **options)
    settings: dict[str, float] = {"k": k, "temperature": temperature}
    row: dict[str, float] = {"epoch": 1}
    if kind.name == "class":
        probe.remember(maps, targets)
        found = probe.votes(test_maps)
        row["train_loss"], row["train_accuracy"] = _score(probe.vote_blocks(), targets)
        row["test_loss"], row["test_accuracy"] = _score([found], test_targets)
        if targets.bincount().max() > 1:  # otherwise no image has another one of its class
            settings["validation_accuracy"] = row["train_accuracy"]
        return Outcome([row], settings, found)
    bank = pool(maps)
    known, found = (neighbor_means(bank, targets, one, **options) for one in (None, pool(test_maps)))
    row |= {"train_loss": _mean_loss(kind, known, targets), "test_loss": _mean_loss(kind, found, test_targets)}
    return Outcome([row], settings | {"validation_loss": row["train_loss"]}, found)


def _score(blocks: Iterable[Tensor], labels: Tensor) -> tuple[float, float]:
    """The mean loss and the accuracy of votes, which come in blocks of images."""
    loss, hits, start = 0.0, 0, 0
    for votes in blocks:
        known = labels[start : start + len(votes)]
        of_known = votes.gather(1, known[:, None]).clamp(min=FLOOR)
        loss, hits = loss - of_known.log().sum().item(), hits + int((votes.argmax(dim=1) == known).sum())
        start += len(votes)
    return loss / len(labels), hits / len(labels)


def _mean_loss(kind: Kind, means: Tensor, targets: Tensor) -> float:
    """The loss of means over neighbors, which are predictions for numbers and probabilities for labels."""
    logits = means.clamp(FLOOR, 1 - FLOOR).logit() if kind.name == "labels" else means
    return kind.loss(logits, targets).item()
