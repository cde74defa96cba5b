"""The linear probe: a grid of learning rates and weight decays trained side by side, chosen without the test images."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ssl_pretext.data import holdout_split

__all__ = ["LINEAR_CARD", "pool", "train_linear"]

MAX_FEATURES = 9_216  # to which Zhang et al. 2016 and Goyal et al. 2019 pool every layer
# On features of unit variance, divided by the root of their number, so that rates mean the same for any layer.
RATES = (0.3, 1.0, 3.0, 10.0, 30.0)
DECAYS = (1e-4, 1e-2)
MOMENTUM, BATCH_SIZE, VALIDATION = 0.9, 256, 0.2
LINEAR_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of the training images",
    "optimizer": f"SGD, Nesterov momentum {MOMENTUM}, cosine schedule",
    "learning_rate": list(RATES),
    "weight_decay": list(DECAYS),
    "batch_size": BATCH_SIZE,
    "selection": f"rate and decay on {VALIDATION:.0%} of the training images, then refitted on all of them; last epoch",
}


@dataclass(frozen=True)
class Standardized:
    """Features `(N, F)` of the training and the test images, standardised by the former."""

    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, train: Tensor, test: Tensor) -> "Standardized":
        """Standardises: a BatchNorm without affine part whose statistics are those of all training images."""
        mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
        scale = 1 / (std.clamp(min=1e-5) * train.shape[1] ** 0.5)
        return cls((train - mean) * scale, (test - mean) * scale)


def pool(features: Tensor) -> Tensor:
    """Feature maps `(N, C, h, w)`, averaged down to at most 9,216 values each: `(N, F)`."""
    side = max(1, int((MAX_FEATURES / features.shape[1]) ** 0.5))
    height, width = (min(side, size) for size in features.shape[-2:])
    return F.adaptive_avg_pool2d(features, (height, width)).flatten(1)


def train_linear(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, classes: int, epochs: int, seed: int
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains linear classifiers with every setting at once, keeps the setting best on held-out training images, refits.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)`.
        test: The same; they choose nothing.
        classes: How many there are.
        epochs: Passes over the training images.
        seed: Decides the order of the images and which are held out.

    Returns:
        A row per epoch of the refitted classifier, and the setting chosen.
    """
    (maps, labels), (test_maps, test_labels) = train, test
    pooled, test_pooled = pool(maps), pool(test_maps)
    names = [str(index) for index in range(len(labels))]
    kept, held_out = holdout_split(names, labels, fraction=VALIDATION, seed=seed)
    settings = [{"learning_rate": rate, "weight_decay": decay} for rate, decay in product(RATES, DECAYS)]
    if held_out:  # else there is one image per class, and the middle of the grid has to do
        parts = Standardized.of(pooled[kept], pooled[held_out])
        *_, last = _epochs(
            parts.train, labels[kept], parts.test, labels[held_out], settings, classes=classes, epochs=epochs, seed=seed
        )
        best = min(range(len(settings)), key=lambda i: (-last[i]["test_accuracy"], last[i]["test_loss"]))
    else:
        best = len(settings) // 2
    parts = Standardized.of(pooled, test_pooled)
    rows = _epochs(
        parts.train, labels, parts.test, test_labels, [settings[best]], classes=classes, epochs=epochs, seed=seed
    )
    return [{"epoch": epoch, **row} for epoch, (row,) in enumerate(rows, start=1)], settings[best]


def _epochs(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    settings: list[dict[str, float]],
    *,
    classes: int,
    epochs: int,
    seed: int,
) -> Iterator[list[dict[str, float]]]:
    """Trains one classifier per setting, all in one matrix; a list of rows per epoch, one per setting."""
    count = len(settings)
    weights = features.new_zeros(features.shape[1] + 1, count * classes)  # the last row is the bias
    velocity = torch.zeros_like(weights)
    rates = _per_column("learning_rate", settings, classes, features)
    decays = _per_column("weight_decay", settings, classes, features).expand_as(weights).clone()
    decays[-1] = 0  # of the bias
    generator = torch.Generator().manual_seed(seed)
    batches = max(1, len(labels) // BATCH_SIZE)
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        sums = features.new_zeros(count, 2)
        for number, batch in enumerate(order.tensor_split(batches)):
            schedule = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (epoch + number / batches) / epochs))).item()
            inputs, truth = features[batch], labels[batch]
            logits = _logits(inputs, weights, count)
            sums += _score(logits, truth)
            error = (logits.softmax(-1) - F.one_hot(truth, classes)[:, None]) / len(batch)
            error = rearrange(error, "b s k -> b (s k)")
            gradient = torch.cat([inputs.T @ error, error.sum(0, keepdim=True)]) + decays * weights
            velocity = MOMENTUM * velocity + gradient
            weights -= schedule * rates * (gradient + MOMENTUM * velocity)
        tested = _score(_logits(test_features, weights, count), test_labels) / len(test_labels)
        trained = sums / len(labels)
        yield [
            {"train_loss": a, "train_accuracy": b, "test_loss": c, "test_accuracy": d}
            for (a, b), (c, d) in zip(trained.tolist(), tested.tolist(), strict=True)
        ]


def _logits(features: Tensor, weights: Tensor, count: int) -> Tensor:
    return cast(Tensor, rearrange(features @ weights[:-1] + weights[-1], "b (s k) -> b s k", s=count))


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed loss and number of hits of each setting, `(S, 2)`."""
    losses = -logits.log_softmax(-1).gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    hits = logits.argmax(-1) == labels[:, None]
    return torch.stack([losses.nan_to_num(float("inf")).sum(0), hits.sum(0)], dim=-1)


def _per_column(name: str, settings: list[dict[str, float]], classes: int, like: Tensor) -> Tensor:
    return like.new_tensor([setting[name] for setting in settings]).repeat_interleave(classes)
