"""The linear probe: a grid of learning rates and weight decays trained side by side, chosen without the test images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.data import holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import average_down

__all__ = ["EPOCHS", "LINEAR_CARD", "LinearProbe", "Standardized", "pool", "shrink", "train_linear"]

MAX_FEATURES = 9_216  # to which Zhang et al. 2016 and Goyal et al. 2019 pool every layer
ROUNDING = 1e-6  # a spread below this share of a feature's largest value is that of float32, not of the images

EPOCHS = 100
# For features of unit variance divided by the root of their number, so that both mean the same for any layer. With
# these and at least MIN_STEPS steps per epoch, 100 epochs reach the minimum of the penalized loss for each decay (at
# lower rates or decays they do not), so that it is the decay that is chosen, and the rate decides next to nothing.
RATES = (3.0, 6.0, 12.0, 25.0)
DECAYS = (1e-4, 1e-3, 1e-2)
MOMENTUM, BATCH_SIZE, MIN_STEPS, VALIDATION = 0.9, 128, 8, 0.2
# The bias as the weight of a constant, which leaves the minimum as it is. Next to features whose variances add up to 1
# over all directions, a constant of 1 would make the bias the first to swing at a high rate.
CONSTANT = 0.3
LINEAR_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of all training images, the held-out ones included (their labels are not)",
    "optimizer": f"SGD from zero weights, Nesterov momentum {MOMENTUM}, cosine schedule",
    "loss": "cross-entropy; decay of the weights, not of the bias",
    "learning_rate": list(RATES),
    "bias_learning_rate": f"{CONSTANT**2:.2g} of the weights'",
    "weight_decay": list(DECAYS),
    "batch_size": f"about {BATCH_SIZE}, at least {MIN_STEPS} steps per epoch",
    "selection": f"rate and decay on {VALIDATION:.0%} of the training images, then refitted on all of them; last epoch",
}


@dataclass(frozen=True)
class Standardized:
    """Features `(N, F)` of the training and the test images, standardized by the former."""

    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, train: Tensor, test: Tensor) -> "Standardized":
        """Standardizes by the statistics of all training images, then divides by the root of F.

        The mean square norm is then 1 for any F. Features that are constant in training become zeros.

        Examples:
            >>> Standardized.of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[4.0, 9.0]])).test
            tensor([[1.4142, 0.0000]])
        """
        variance, mean = torch.var_mean(train.double(), dim=0, correction=0)
        std, largest = variance.sqrt(), train.abs().amax(dim=0)
        scale = torch.where(std > ROUNDING * largest, 1 / (std * train.shape[1] ** 0.5), 0.0)
        mean, scale = mean.to(train.dtype), scale.to(train.dtype)
        return cls((train - mean) * scale, (test - mean) * scale)


def shrink(features: Tensor) -> Tensor:
    """Feature maps `(N, C, h, w)`, averaged down to at most 9,216 values each and at least one per channel."""
    side = max(1, int((MAX_FEATURES / features.shape[1]) ** 0.5))
    return average_down(features, (side, side))


def pool(features: Tensor) -> Tensor:
    """What `shrink` makes of feature maps `(N, C, h, w)`, as vectors `(N, F)`."""
    return shrink(features).flatten(1)


class LinearProbe(nn.Module):
    """The classifier of the linear probe as a network, for other ways to train it than `train_linear`'s.

    Pooling as in `pool`, BatchNorm without affine part, one linear layer (Zhang et al. 2017, Goyal et al. 2019).

    Args:
        in_channels: Channels of the features `(B, in_channels, h, w)`; how many are left of h × w the first batch says.
        num_classes: Outputs `(B, num_classes)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.norm = nn.LazyBatchNorm1d(affine=False)
        self.classify = nn.LazyLinear(num_classes)

    @override
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.in_channels:
            raise ArgumentError(f"this probe takes {self.in_channels} channels, got {features.shape[1]}")
        return cast(Tensor, self.classify(self.norm(pool(features))))


def train_linear(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains linear classifiers with every setting at once, keeps the setting best on held-out training images, refits.

    The loss is mean cross-entropy plus `decay / 2` times the squared weights, on `Standardized` features.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)`.
        test: The same; they choose nothing.
        classes: How many there are.
        epochs: Passes over the training images.
        seed: Decides the order of the images and which are held out.
        rates: Learning rates of the grid.
        decays: Weight decays of the grid.

    Returns:
        A row per epoch of the refitted classifier, and the setting chosen with its accuracy on the images held out; the
        middle of the grid, without an accuracy, where no class has two images.
    """
    (maps, labels), (test_maps, test_labels) = train, test
    parts = Standardized.of(pool(maps), pool(test_maps))
    features, test_features = parts.train, parts.test
    if dual := features.shape[1] > len(labels):
        features, test_features = features @ features.T, test_features @ features.T
    fit = partial(_epochs, classes=classes, epochs=epochs, seed=seed, dual=dual)
    kept, held_out = holdout_split([str(index) for index in range(len(labels))], labels, fraction=VALIDATION, seed=seed)
    best, accuracy = (rates[len(rates) // 2], decays[len(decays) // 2]), {}
    if held_out:
        settings = list(product(rates, decays))
        known = features[:, kept] if dual else features
        *_, (weights, _) = fit(known[kept], labels[kept], settings)
        scores = _score(_logits(known[held_out], weights, classes), labels[held_out]).tolist()
        # A diverged setting hits too: its NaN all count as the first class.
        ranks = [(not math.isfinite(loss), -hits, loss) for loss, hits in scores]
        winner = ranks.index(min(ranks))
        best, accuracy = settings[winner], {"validation_accuracy": scores[winner][1] / len(held_out)}
    history = []
    for epoch, (weights, ((loss, hits),)) in enumerate(fit(features, labels, [best]), start=1):
        ((test_loss, test_hits),) = _score(_logits(test_features, weights, classes), test_labels).tolist()
        trained = {"train_loss": loss / len(labels), "train_accuracy": hits / len(labels)}
        tested = {"test_loss": test_loss / len(test_labels), "test_accuracy": test_hits / len(test_labels)}
        history.append({"epoch": epoch, **trained, **tested})
    return history, {"learning_rate": best[0], "weight_decay": best[1], **accuracy}


def _epochs(
    features: Tensor,
    labels: Tensor,
    settings: Sequence[tuple[float, float]],
    *,
    classes: int,
    epochs: int,
    seed: int,
    dual: bool,
) -> Iterator[tuple[Tensor, list[list[float]]]]:
    """Trains one classifier per setting, all in one matrix whose last row is the bias.

    Weights that start at zero stay sums of training features, as their gradients are. The dual form, for more features
    than images, therefore keeps what each image adds, `(N + 1, S K)`, and needs only the products of the features with
    each other, `(N, N)`, in their place: step by step the same training.

    Yields:
        After each epoch the weights, changed in place, and each setting's summed loss and hits in training.
    """
    rates, decays = features.new_tensor(settings).repeat_interleave(classes, dim=0).T
    weights = features.new_zeros(features.shape[1] + 1, len(rates))
    velocity, gradient = torch.zeros_like(weights), torch.empty_like(weights)
    generator = torch.Generator().manual_seed(seed)
    steps = max(min(MIN_STEPS, len(labels)), round(len(labels) / BATCH_SIZE))
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        sums = features.new_zeros(len(settings), 2)
        for step, batch in enumerate(order.tensor_split(steps), start=epoch * steps):
            logits = _logits(features[batch], weights, classes)
            sums += _score(logits, labels[batch])
            error = (logits.softmax(-1) - F.one_hot(labels[batch], classes)[:, None]).flatten(1) / len(batch)
            torch.mul(weights, decays, out=gradient)
            if dual:
                gradient[batch] += error
            else:
                gradient[:-1].addmm_(features[batch].T, error)
            gradient[-1] = CONSTANT * error.sum(0)
            velocity.mul_(MOMENTUM).add_(gradient)
            schedule = 0.5 * (1 + math.cos(math.pi * step / (steps * epochs)))
            weights.addcmul_(gradient.add_(velocity, alpha=MOMENTUM), rates, value=-schedule)
        yield weights, sums.tolist()


def _logits(features: Tensor, weights: Tensor, classes: int) -> Tensor:
    """Of each setting, `(B, S, K)`."""
    logits = torch.addmm(CONSTANT * weights[-1], features, weights[:-1])
    return logits.reshape(len(features), -1, classes)


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed loss, infinite where training diverged, and number of hits of each setting, `(S, 2)`."""
    truth = labels[:, None, None].expand(-1, logits.shape[1], 1)
    losses = -logits.log_softmax(-1).gather(-1, truth)[..., 0]
    hits = logits.argmax(-1) == labels[:, None]
    return torch.stack([losses.nan_to_num(math.inf).sum(0), hits.sum(0)], dim=-1)
