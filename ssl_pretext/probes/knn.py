"""The knn probe, which classifies by nearest neighbors and is not trained: no learning rate, weight decay or epochs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.linear import MAX_FEATURES, Standardized, pool
from ssl_pretext.probes.outcome import Outcome

__all__ = ["KNN_CARD", "KNNProbe", "train_knn"]

K, TEMPERATURE = 20, 0.07  # Wu et al. 2018 (1805.01978) and, with k = 20, Caron et al. 2021 (2104.14294)
# Smallest fraction of the votes in the loss. A class that none of the k neighbors belongs to gets no vote, and its
# logarithm would make the mean loss infinite. A thousandth is below chance for up to 1,000 classes, and the loss of
# such an image, 6.9 nats, does not dominate the mean.
FLOOR = 1e-3
QUERIES = 1_024  # number of images whose similarities to all training images are in memory at a time
KNN_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of the training images",
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

    Raises:
        ArgumentError: k or temperature is not positive.

    Examples:
        >>> maps = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[:, :, None, None]
        >>> KNNProbe(2, 2, k=1).remember(maps, torch.tensor([0, 1]))(maps).argmax(1)
        tensor([0, 1])
    """

    features: Tensor
    labels: Tensor

    def __init__(self, in_channels: int, num_classes: int, k: int = K, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        whole_number("k of the knn probe", k)
        if not isinstance(temperature, float | int) or not 0 < temperature < math.inf:
            raise ArgumentError(f"temperature of the knn probe must be a number above 0, got {temperature!r}")
        self.in_channels, self.num_classes, self.k, self.temperature = in_channels, num_classes, k, temperature
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
        if not len(self.labels):
            raise ArgumentError("the knn probe has no training images yet; call remember(features, labels) first")
        parts = Standardized.of(self.features, self.features if features is None else pool(features))
        bank, queries = F.normalize(parts.train), F.normalize(parts.test)
        fractions = [queries.new_zeros(0, self.num_classes)]
        for start in range(0, len(queries), QUERIES):
            similarities = queries[start : start + QUERIES] @ bank.T
            if features is None:
                similarities.diagonal(offset=start).fill_(-math.inf)
            nearest = similarities.topk(min(self.k, len(bank) - (features is None)), dim=1)
            # Only fractions are needed, so a softmax computes them, which cannot overflow.
            weights = (nearest.values / self.temperature).softmax(dim=1)
            neighbors = F.one_hot(self.labels[nearest.indices], self.num_classes)
            fractions.append(torch.einsum("bk,bkc->bc", weights, neighbors.to(weights.dtype)))
        return torch.cat(fractions)


def train_knn(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
    k: int = K,
    temperature: float = TEMPERATURE,
) -> Outcome:
    """Classifies each test image by the nearest training images, and each training image by the nearest others.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)` of the training images.
        test: Features and labels of the test images.
        classes: Number of classes.
        epochs: Ignored; all probes are called with the same arguments.
        seed: Ignored, because nothing is random.
        k: Number of neighbors; if there are fewer training images, all of them vote.
        temperature: Temperature of the votes, exp(similarity / temperature).

    Returns:
        A history of one row, in which the training loss and accuracy are leave-one-out, the settings with the training
        accuracy as `validation_accuracy` if a class has two images, and the hits.

    Raises:
        ArgumentError: k or temperature is not positive.
    """
    (maps, labels), (test_maps, test_labels) = train, test
    probe = KNNProbe(maps.shape[1], classes, k=k, temperature=temperature).remember(maps, labels)
    loss, known = _score(probe.votes(), labels)
    test_loss, hits = _score(probe.votes(test_maps), test_labels)
    accuracy, test_accuracy = (found.double().mean().item() for found in (known, hits))
    trained = {"train_loss": loss, "train_accuracy": accuracy}
    tested = {"test_loss": test_loss, "test_accuracy": test_accuracy}
    chosen: dict[str, float] = {"k": k, "temperature": temperature}
    if labels.bincount().max() > 1:  # otherwise no image has another one of its class
        chosen["validation_accuracy"] = accuracy
    return Outcome([{"epoch": 1, **trained, **tested}], chosen, hits)


def _score(votes: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Computes the mean loss, and whether each image is classified correctly."""
    loss = F.nll_loss(votes.clamp(min=FLOOR).log(), labels)
    return loss.item(), votes.argmax(dim=1) == labels
