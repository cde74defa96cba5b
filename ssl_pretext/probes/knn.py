"""The nearest neighbors as a probe: nothing is trained, so nothing hangs on rates, decays or epochs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.linear import MAX_FEATURES, Standardized, pool

__all__ = ["KNN_CARD", "KNNProbe", "train_knn"]

K, TEMPERATURE = 20, 0.07  # Wu et al. 2018 (1805.01978) and, with k = 20, Caron et al. 2021 (2104.14294)
# A class that none of the k belongs to gets no vote, and the logarithm of that would make the mean loss infinite. A
# thousandth is below chance for up to 1,000 classes, and at 6.9 nats such an image does not decide the mean alone.
FLOOR = 1e-3
QUERIES = 1_024  # images whose similarities to all training images are held at once
KNN_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of the training images",
    "similarity": "cosine",
    "k": K,
    "temperature": TEMPERATURE,
    "weights": "exp(similarity / temperature)",
    "loss": f"minus the logarithm of the class's share of the votes, at least {FLOOR}",
    "training_figures": "leave-one-out; they choose nothing",
    "selection": "none",
}


class KNNProbe(nn.Module):
    """The k nearest training images by cosine similarity, each with exp(similarity / temperature) votes.

    Args:
        in_channels: Channels of the features `(B, in_channels, h, w)`.
        num_classes: Outputs `(B, num_classes)`: logarithms of each class's share of the votes.
        k: Neighbors; all training images where there are fewer.
        temperature: The smaller, the more the nearest of them decide.

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
            raise ArgumentError(f"the knn probe takes a temperature above 0, got {temperature!r}")
        self.in_channels, self.num_classes, self.k, self.temperature = in_channels, num_classes, k, temperature
        self.register_buffer("features", torch.empty(0, in_channels))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def remember(self, features: Tensor, labels: Tensor) -> "KNNProbe":
        """Takes maps `(N, in_channels, h, w)` and their labels `(N,)` as the training images."""
        self.features, self.labels = pool(features), labels
        return self

    @override
    def forward(self, features: Tensor) -> Tensor:
        return self.votes(features).clamp(min=FLOOR).log()

    def votes(self, features: Tensor | None = None) -> Tensor:
        """Each class's share of the votes, `(B, num_classes)`; for each training image those of the others if None."""
        if not len(self.labels):
            raise ArgumentError("the knn probe has no training images yet; call remember(features, labels) first")
        parts = Standardized.of(self.features, self.features if features is None else pool(features))
        bank, queries = F.normalize(parts.train), F.normalize(parts.test)
        shares = [queries.new_zeros(0, self.num_classes)]
        for start in range(0, len(queries), QUERIES):
            similarities = queries[start : start + QUERIES] @ bank.T
            if features is None:
                similarities.diagonal(offset=start).fill_(-math.inf)
            nearest = similarities.topk(min(self.k, len(bank) - (features is None)), dim=1)
            # As a softmax, which cannot overflow: shares are all that counts.
            weights = (nearest.values / self.temperature).softmax(dim=1)
            owners = F.one_hot(self.labels[nearest.indices], self.num_classes)
            shares.append(torch.einsum("bk,bkc->bc", weights, owners.to(weights.dtype)))
        return torch.cat(shares)


def train_knn(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
    k: int = K,
    temperature: float = TEMPERATURE,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Classifies by the nearest training images, training images by the nearest others.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)`.
        test: The same.
        classes: How many there are.
        epochs: Decides nothing; here so that all probes are called alike.
        seed: Decides nothing, as no chance is involved.
        k: Neighbors; all there are where those are fewer.
        temperature: Of the votes, exp(similarity / temperature).

    Returns:
        One row of figures, those of training leave-one-out, and the options with the accuracy in training.

    Raises:
        ArgumentError: k or temperature is not positive.
    """
    (maps, labels), (test_maps, test_labels) = train, test
    probe = KNNProbe(maps.shape[1], classes, k=k, temperature=temperature).remember(maps, labels)
    loss, accuracy = _score(probe.votes(), labels)
    test_loss, test_accuracy = _score(probe.votes(test_maps), test_labels)
    trained = {"train_loss": loss, "train_accuracy": accuracy}
    tested = {"test_loss": test_loss, "test_accuracy": test_accuracy}
    chosen = {"k": k, "temperature": temperature, "validation_accuracy": accuracy}
    return [{"epoch": 1, **trained, **tested}], chosen


def _score(votes: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    loss = F.nll_loss(votes.clamp(min=FLOOR).log(), labels)
    return loss.item(), (votes.argmax(dim=1) == labels).double().mean().item()
