"""The linear probe: a grid of learning rates and weight decays, trained together and selected without test images."""

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
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.representations.base import average_down

__all__ = ["EPOCHS", "LINEAR_CARD", "LinearProbe", "Standardized", "pool", "shrink", "train_linear"]

MAX_FEATURES = 9_216  # Zhang et al. 2016 and Goyal et al. 2019 pool every layer to this number
ROUNDING = 1e-6  # a standard deviation below this fraction of a feature's largest value is float32 rounding error

EPOCHS = 100
# The grid is for features of unit variance divided by the square root of their number, so that a value has the same
# effect for any layer. With these values and at least MIN_STEPS steps per epoch, 100 epochs reach the minimum of the
# penalized loss for each decay; with lower rates or decays they do not. So the decay is what is selected, and the rate
# has almost no effect.
RATES = (3.0, 6.0, 12.0, 25.0)
DECAYS = (1e-4, 1e-3, 1e-2)
MOMENTUM, BATCH_SIZE, MIN_STEPS, VALIDATION = 0.9, 128, 8, 0.2
# The bias is the weight of a feature with this constant value, which does not change the minimum. The variances of the
# other features add up to 1, so with a constant of 1 the bias would be the first weight to oscillate at a high rate.
CONSTANT = 0.3
LINEAR_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of all training images, including the held-out ones (but not their labels)",
    "optimizer": f"SGD from zero weights, Nesterov momentum {MOMENTUM}, cosine schedule",
    "loss": "cross-entropy; weight decay of the weights, not of the bias",
    "learning_rate": list(RATES),
    "bias_learning_rate": f"{CONSTANT**2:.2g} times that of the weights",
    "weight_decay": list(DECAYS),
    "batch_size": f"about {BATCH_SIZE}, at least {MIN_STEPS} steps per epoch",
    "selection": f"rate and decay on {VALIDATION:.0%} of the training images, then refit on all of them; last epoch",
}


@dataclass(frozen=True)
class Standardized:
    """Features `(N, F)` of training and test images, standardized by the statistics of the training images."""

    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, train: Tensor, test: Tensor) -> "Standardized":
        """Standardizes features by the statistics of all training images, then divides them by the square root of F.

        The mean squared norm is then 1 for any F. Features that are constant over the training images become zeros.

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
    """Averages feature maps `(N, C, h, w)` down to at most 9,216 values per image, but at least one per channel."""
    side = max(1, int((MAX_FEATURES / features.shape[1]) ** 0.5))
    return average_down(features, (side, side))


def pool(features: Tensor) -> Tensor:
    """Averages feature maps `(N, C, h, w)` down as `shrink` does, and flattens them to vectors `(N, F)`."""
    return shrink(features).flatten(1)


class LinearProbe(nn.Module):
    """The linear probe as a network, for training it in other ways than `train_linear`.

    It consists of average pooling to at most 9,216 features, BatchNorm without learned scale and shift, and one linear
    layer (Zhang et al. 2017, Goyal et al. 2019). The first batch determines the number of features.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes; the output is logits `(B, num_classes)`.

    Raises:
        ArgumentError: The features of a batch have another number of channels.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.norm = nn.LazyBatchNorm1d(affine=False)
        self.classify = nn.LazyLinear(num_classes)

    @override
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.in_channels:
            raise ArgumentError(
                f"this linear probe takes features with {self.in_channels} channels, got {features.shape[1]}"
            )
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
) -> Outcome:
    """Trains a linear classifier for each setting, selects the best on held-out training images, and refits it on all.

    The loss is the mean cross-entropy plus `decay / 2` times the squared weights, on `Standardized` features.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)` of the training images.
        test: Features and labels of the test images, which are not used to select the setting.
        classes: Number of classes.
        epochs: Number of passes over the training images.
        seed: Seed of the order of the images and of the choice of held-out images.
        rates: Learning rates of the grid.
        decays: Weight decays of the grid.

    Returns:
        The history of the refitted classifier with a row per epoch, and the selected setting with its accuracy on the
        held-out images, and the hits. If no class has two images, nothing can be held out: the setting is then the
        middle of the grid, without an accuracy.
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
        # The accuracy does not show divergence, because logits that are NaN all predict the first class.
        ranks = [(not math.isfinite(loss), -hits, loss) for loss, hits in scores]
        winner = ranks.index(min(ranks))
        best, accuracy = settings[winner], {"validation_accuracy": scores[winner][1] / len(held_out)}
    history = []
    for epoch, (weights, ((loss, hits),)) in enumerate(fit(features, labels, [best]), start=1):
        ((test_loss, test_hits),) = _score(_logits(test_features, weights, classes), test_labels).tolist()
        trained = {"train_loss": loss / len(labels), "train_accuracy": hits / len(labels)}
        tested = {"test_loss": test_loss / len(test_labels), "test_accuracy": test_hits / len(test_labels)}
        history.append({"epoch": epoch, **trained, **tested})
    found = _logits(test_features, weights, classes)[:, 0].argmax(-1) == test_labels
    return Outcome(history, {"learning_rate": best[0], "weight_decay": best[1], **accuracy}, found)


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

    With N images, F features, S settings and K classes, the weights are `(F + 1, S K)`. They start at zero, and their
    gradients are sums of training features, so the weights stay such sums. The dual form, for more features than
    images, stores the coefficient of each image instead, `(N + 1, S K)`. It takes the inner products of the features,
    `(N, N)`, in place of the features, and trains the same classifiers step by step.

    Yields:
        After each epoch the weights, which change in place, and each setting's summed training loss and number of
        correct predictions.
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
    """Computes the logits of each setting, `(B, S, K)`."""
    logits = torch.addmm(CONSTANT * weights[-1], features, weights[:-1])
    return logits.reshape(len(features), -1, classes)


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the summed loss, infinite after divergence, and the correct predictions of each setting, `(S, 2)`."""
    truth = labels[:, None, None].expand(-1, logits.shape[1], 1)
    losses = -logits.log_softmax(-1).gather(-1, truth)[..., 0]
    hits = logits.argmax(-1) == labels[:, None]
    return torch.stack([losses.nan_to_num(math.inf).sum(0), hits.sum(0)], dim=-1)
