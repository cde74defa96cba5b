"""The linear probe: logistic regression, whose weight decay is selected on held-out training images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.data import holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.representations.base import average_down

__all__ = ["LINEAR_CARD", "LinearProbe", "Standardized", "pool", "shrink", "train_linear"]

MAX_FEATURES = 9_216  # Zhang et al. 2016 and Goyal et al. 2019 pool every layer to this number
ROUNDING = 1e-6  # a standard deviation below this fraction of a feature's largest value is float32 rounding error

# For features of unit variance divided by the square root of their number, so that a value has the same effect for any
# layer. At 1 the classifier compares an image with the mean of each class. scikit-learn's default, C=1 for features of
# unit variance, is a decay of 1 / (N F): 5e-7 for 4,000 images and 512 features.
DECAYS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
VALIDATION = 0.2
MAX_ITERATIONS = 1_000
# In the coordinates of `_minimize`, the loss is about the squared gradient above its minimum. So L-BFGS stops if no
# component of the gradient exceeds TOLERANCE times the square root of the loss.
TOLERANCE = 2e-4
LINEAR_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of all training images, including the held-out ones (but not their labels)",
    "optimizer": f"L-BFGS until convergence, at most {MAX_ITERATIONS:,} iterations",
    "loss": "cross-entropy; weight decay of the weights, not of the bias",
    "weight_decay": list(DECAYS),
    "selection": f"decay on {VALIDATION:.0%} of the training images, then refit on all of them",
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
    decays: Sequence[float] = DECAYS,
) -> Outcome:
    """Fits logistic regression for each weight decay, selects the best on held-out training images, and refits it.

    The loss is the mean cross-entropy plus `decay / 2` times the squared weights, on `Standardized` features. The
    refitted classifier is trained on all training images.

    Args:
        train: Features `(N, C, h, w)` and labels `(N,)` of the training images.
        test: Features and labels of the test images, which are not used to select the decay.
        classes: Number of classes.
        epochs: Ignored; all probes are called with the same arguments.
        seed: Seed of the choice of held-out images; nothing else is random.
        decays: Weight decays to select from, ascending.

    Returns:
        A history of one row about the refitted classifier, the settings, and the hits. The settings are the selected
        `weight_decay`, the `iterations` of the refit and whether all classifiers `converged`; also the
        `validation_accuracy` on the held-out images, and whether the decay is `at_edge`, the smallest or largest one.
        If no class has two images, nothing can be held out: the decay is then the middle one, without these two.
    """
    (maps, labels), (test_maps, test_labels) = train, test
    parts = Standardized.of(pool(maps), pool(test_maps))
    features, rotate_back = _rotate(parts.train)
    kept, held_out = holdout_split([str(index) for index in range(len(labels))], labels, fraction=VALIDATION, seed=seed)
    decay, start = decays[len(decays) // 2], features.new_zeros(classes, features.shape[1] + 1)
    chosen: dict[str, float] = {}
    converged = True
    if held_out:
        descending = sorted(decays, reverse=True)
        fits = _fit_path(features[kept], labels[kept], descending, start)
        converged = all(fit.converged for fit in fits)
        scores = [_score(features[held_out], labels[held_out], fit.weights) for fit in fits]
        accuracies = [hits.double().mean().item() for _, hits in scores]
        best = min(range(len(fits)), key=lambda index: (-accuracies[index], scores[index][0]))
        decay, start = descending[best], fits[best].weights
        at_edge = len(decays) > 1 and best in (0, len(decays) - 1)
        chosen = {"validation_accuracy": accuracies[best], "at_edge": at_edge}
    fit = _minimize(features, labels, decay, start)
    loss, known = _score(features, labels, fit.weights)
    weights = torch.cat([rotate_back(fit.weights[:, :-1]), fit.weights[:, -1:]], dim=1)
    test_loss, hits = _score(parts.test, test_labels, weights)
    row = {
        "epoch": 1,
        "train_loss": loss,
        "train_accuracy": known.double().mean().item(),
        "test_loss": test_loss,
        "test_accuracy": hits.double().mean().item(),
    }
    done = {"iterations": fit.iterations, "converged": converged and fit.converged}
    return Outcome([row], {"weight_decay": decay, **chosen, **done}, hits)


def _rotate(features: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Rotates features `(N, F)` to their principal axes, which changes neither the logits nor the squared weights.

    Returns:
        The rotated features `(N, R)`, and a function that rotates weights `(K, R)` back, to `(K, F)`. R is at most the
        smaller one of N and F, because the weights at the minimum are sums of the features of training images.
    """
    count, width = features.shape
    if width <= count:
        axes = torch.linalg.eigh(features.T @ features).eigenvectors
        return features @ axes, lambda weights: weights @ axes.T
    # The inner products square the range of values, which would exceed the precision of float32.
    wide = features.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    nonzero = squares > count * torch.finfo(torch.float64).eps * squares[-1]
    lengths, vectors = squares[nonzero].sqrt(), vectors[:, nonzero]
    summands = vectors / lengths
    return (vectors * lengths).to(features.dtype), lambda weights: (weights.double() @ summands.T @ wide).to(weights)


class _Fit(NamedTuple):
    """A classifier with weights `(K, F + 1)`, of which the last column is the bias, and how it was found."""

    weights: Tensor
    iterations: int
    converged: bool


def _fit_path(features: Tensor, labels: Tensor, decays: Sequence[float], start: Tensor) -> list[_Fit]:
    """Fits a classifier for each decay; each starts where the two before it lead, which saves many iterations."""
    fits: list[_Fit] = []
    before = latest = start
    for decay in decays:
        fits.append(_minimize(features, labels, decay, 2 * latest - before))
        before, latest = latest, fits[-1].weights
    return fits


def _minimize(features: Tensor, labels: Tensor, decay: float, start: Tensor) -> _Fit:
    """Minimizes the mean cross-entropy plus `decay / 2` times the squared weights by L-BFGS.

    L-BFGS works on the weights times the root of an estimate of the loss's second derivative, so that a step has a
    similar effect in all directions. On principal axes the matrix of second derivatives is nearly diagonal.

    Args:
        features: Features `(N, F)` on principal axes; the gradients are computed in their dtype and on their device.
        labels: Labels `(N,)`.
        decay: Weight decay.
        start: Weights to start from, `(K, F + 1)`.
    """
    from scipy.optimize import minimize  # slow to import

    images = torch.arange(len(labels), device=labels.device)
    variances = torch.cat([features.square().mean(dim=0), features.new_ones(1)]).double()
    penalties = torch.full_like(variances, decay)
    penalties[-1] = 0.0

    def value(weights: Tensor) -> tuple[float, Tensor]:
        """Computes the loss and its gradient."""
        scores = _logits(features, weights).log_softmax(dim=0)
        loss = (penalties * weights.square()).sum() / 2 - scores[labels, images].mean()
        error = scores.exp_()
        error[labels, images] -= 1
        error /= len(labels)
        slope = torch.cat([(error.to(features.dtype) @ features).double(), error.sum(dim=1, keepdim=True)], dim=1)
        return loss.item(), slope.addcmul_(penalties, weights)

    weights, iterations = start.double(), 0
    loss, _ = value(weights)
    while True:
        probabilities = _logits(features, weights).softmax(dim=0)
        curvature = (probabilities * (1 - probabilities)).mean().clamp(min=1e-6)
        scale = (curvature * variances + penalties).rsqrt()

        def scaled(point: Any, scale: Tensor = scale) -> tuple[float, Any]:
            found, gradient = value(torch.from_numpy(point).to(scale.device).view(start.shape) * scale)
            return found, (gradient * scale).flatten().cpu().numpy()

        result = minimize(
            scaled,
            (weights / scale).flatten().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": MAX_ITERATIONS - iterations,
                "maxfun": 10 * MAX_ITERATIONS,
                "gtol": TOLERANCE * math.sqrt(loss),
                "ftol": 1e-12,
            },
        )
        weights = torch.from_numpy(result.x).to(scale.device).view(start.shape) * scale
        iterations += int(result.nit)
        # Far from the start, both the tolerance and the curvature are other ones.
        if not (result.success and result.fun < loss / 4):
            return _Fit(weights.to(start.dtype), iterations, bool(result.success))
        loss = result.fun


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    """Computes logits `(K, N)` in double precision; with few classes this is several times as fast as `(N, K)`."""
    weights = weights.to(features.dtype)
    return torch.addmm(weights[:, -1:], weights[:, :-1], features.T).double()


def _score(features: Tensor, labels: Tensor, weights: Tensor) -> tuple[float, Tensor]:
    """Computes the mean cross-entropy, and whether each image is classified correctly."""
    logits = _logits(features, weights)
    return nn.functional.cross_entropy(logits.T, labels).item(), logits.argmax(dim=0) == labels
