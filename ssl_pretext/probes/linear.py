"""The linear probe: logistic or ridge regression, whose weight decay is selected on held-out training images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.data import holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.targets import KINDS, Kind
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
ABNORMAL = 2  # the status of SciPy if no step along the gradient lowers the loss
# In the coordinates of `_minimize`, the loss is about the squared gradient above its minimum. So L-BFGS stops if no
# component of the gradient exceeds TOLERANCE times the square root of the loss.
TOLERANCE = 2e-4
BLOCK = 2**22  # number of logits in double precision that are in memory at a time: 32 MB
LINEAR_CARD = {
    "pooling": f"average, to at most {MAX_FEATURES} features",
    "normalization": "mean and variance of all training images, including the held-out ones (but not their labels)",
    "optimizer": f"L-BFGS until convergence, at most {MAX_ITERATIONS:,} iterations",
    "loss": "cross-entropy (squared error for numbers); weight decay of the weights, not of the bias",
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
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    decays: Sequence[float] = DECAYS,
) -> Outcome:
    """Fits a linear model for each weight decay, selects the best on held-out training images, and refits it.

    The loss is the mean cross-entropy for classes, the sum over the labels of the mean binary cross-entropy for labels,
    and the sum over the numbers of half the mean squared error for numbers, plus `decay / 2` times the squared weights,
    on `Standardized` features. Missing targets are left out. The refitted model is trained on all training images.

    Args:
        train: Features `(N, C, h, w)` and targets of the training images.
        test: Features and targets of the test images, which are not used to select the decay.
        kind: Kind of the targets.
        num_outputs: Number of classes, labels or numbers.
        epochs: Ignored; all probes are called with the same arguments.
        seed: Seed of the choice of held-out images; nothing else is random.
        decays: Weight decays to select from, ascending.

    Returns:
        A history of one row about the refitted model, the settings, and the predictions. The settings are the selected
        `weight_decay`, the `iterations` of the refit and whether all models `converged`; also the
        `validation_accuracy` on the held-out images (or the `validation_loss`, if there are no classes), and whether
        the decay is `at_edge`, the smallest or largest one. If no class has two images, nothing can be held out: the
        decay is then the middle one, without these two.
    """
    (maps, targets), (test_maps, test_targets) = train, test
    parts = Standardized.of(pool(maps), pool(test_maps))
    features, rotate_back = _rotate(parts.train)
    is_class, objective = kind.name == "class", OBJECTIVES[kind.name]
    strata = kind.strata(targets)
    kept, held_out = holdout_split([str(index) for index in range(len(strata))], strata, fraction=VALIDATION, seed=seed)
    decay, start = decays[len(decays) // 2], features.new_zeros(num_outputs, features.shape[1] + 1)
    chosen: dict[str, float] = {}
    converged = True
    if held_out:
        descending = sorted(decays, reverse=True)
        fits = _fit_path(features[kept], targets[kept], descending, start, objective)
        converged = all(fit.converged for fit in fits)
        scores = [_score(kind, features[held_out], targets[held_out], fit.weights) for fit in fits]
        best = min(range(len(fits)), key=lambda index: (-scores[index].accuracy, scores[index].loss))
        decay, start = descending[best], fits[best].weights
        score = scores[best]
        chosen = {"validation_accuracy": score.accuracy} if is_class else {"validation_loss": score.loss}
        chosen["at_edge"] = len(decays) > 1 and best in (0, len(decays) - 1)
    fit = _minimize(features, targets, decay, start, objective)
    on_train = _score(kind, features, targets, fit.weights)
    weights = torch.cat([rotate_back(fit.weights[:, :-1]), fit.weights[:, -1:]], dim=1)
    predictions: list[Tensor] = []
    on_test = _score(kind, parts.test, test_targets, weights, predictions)
    row = {"epoch": 1, "train_loss": on_train.loss, "test_loss": on_test.loss}
    if is_class:
        row |= {"train_accuracy": on_train.accuracy, "test_accuracy": on_test.accuracy}
    done = {"iterations": fit.iterations, "converged": converged and fit.converged}
    return Outcome([row], {"weight_decay": decay, **chosen, **done}, torch.cat(predictions))


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
    """A model with weights `(K, F + 1)`, of which the last column is the bias, and how it was found."""

    weights: Tensor
    iterations: int
    converged: bool


class _Objective(NamedTuple):
    """A loss as a function of logits, which is a sum over blocks of n of the N images.

    Attributes:
        loss: Function from logits `(K, n)`, targets, and the number of known targets among all N images, `(K, 1)`, to
            the loss of the n images and its derivative `(K, n)` with respect to the logits. It may change the logits.
        curvature: Function from logits to an estimate of the sum of the second derivatives.
    """

    loss: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    curvature: Callable[[Tensor], Tensor]


def _class_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    images = torch.arange(len(labels), device=labels.device)
    scores = logits.log_softmax(dim=0)
    loss = -scores[labels, images].sum() / counts[0, 0]
    error = scores.exp_()
    error[labels, images] -= 1
    return loss, error.div_(counts)


def _label_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    share, true = _shares(labels, counts)
    losses = F.binary_cross_entropy_with_logits(logits, true, weight=share, reduction="sum")
    return losses, (logits.sigmoid_() - true).mul_(share)


def _number_loss(logits: Tensor, numbers: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    share, true = _shares(numbers, counts)
    error = (logits - true).mul_(share.sqrt())
    return error.square().sum() / 2, error.mul_(share.sqrt())


def _shares(targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of each image in the mean of each target, 0 where it is missing, and the targets, both `(K, n)`."""
    return ~targets.T.isnan() / counts, targets.T.nan_to_num(0).double()


def _known(targets: Tensor) -> Tensor:
    """The number of images with each target, `(K, 1)`, at least 1; of classes `(1, 1)`, because all are known."""
    if targets.dim() == 1:
        return torch.full((1, 1), len(targets), dtype=torch.float64, device=targets.device)
    return (~targets.isnan()).sum(dim=0)[:, None].clamp(min=1).double()


def _sum_of_variances(probabilities: Tensor) -> Tensor:
    return (probabilities * (1 - probabilities)).sum()


OBJECTIVES = {
    "class": _Objective(_class_loss, lambda logits: _sum_of_variances(logits.softmax(dim=0))),
    "labels": _Objective(_label_loss, lambda logits: _sum_of_variances(logits.sigmoid())),
    "numbers": _Objective(_number_loss, lambda logits: logits.new_tensor(logits.numel())),
}


def _fit_path(
    features: Tensor, targets: Tensor, decays: Sequence[float], start: Tensor, objective: _Objective
) -> list[_Fit]:
    """Fits a model for each decay; each starts where the two before it lead, which saves many iterations."""
    fits: list[_Fit] = []
    before = latest = start
    for decay in decays:
        fits.append(_minimize(features, targets, decay, 2 * latest - before, objective))
        before, latest = latest, fits[-1].weights
    return fits


def _minimize(features: Tensor, targets: Tensor, decay: float, start: Tensor, objective: _Objective) -> _Fit:
    """Minimizes a loss plus `decay / 2` times the squared weights by L-BFGS.

    L-BFGS works on the weights times the root of an estimate of the loss's second derivative, so that a step has a
    similar effect in all directions. On principal axes the matrix of second derivatives is nearly diagonal.

    Args:
        features: Features `(N, F)` on principal axes; the gradients are computed in their dtype and on their device.
        targets: Targets of the N images.
        decay: Weight decay.
        start: Weights to start from, `(K, F + 1)`.
        objective: The loss.
    """
    from scipy.optimize import minimize  # slow to import

    variances = torch.cat([features.square().mean(dim=0), features.new_ones(1)]).double()
    penalties = torch.full_like(variances, decay)
    penalties[-1] = 0.0
    counts, blocks = _known(targets), _blocks(len(features), len(start))

    def value(weights: Tensor) -> tuple[float, Tensor]:
        """Computes the loss and its gradient."""
        loss, slope = (penalties * weights.square()).sum() / 2, penalties * weights
        for block in blocks:
            some = features[block]
            part, error = objective.loss(_logits(some, weights), targets[block], counts)
            loss = loss + part
            slope += torch.cat([(error.to(some.dtype) @ some).double(), error.sum(dim=1, keepdim=True)], dim=1)
        return loss.item(), slope

    weights, iterations = start.double(), 0
    loss, _ = value(weights)
    while True:
        curvatures = [objective.curvature(_logits(features[block], weights)) for block in blocks]
        curvature = (torch.stack(curvatures).sum() / (len(start) * len(features))).clamp(min=1e-6)
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
        if result.status == ABNORMAL and features.dtype != torch.float64:
            features = features.double()  # gradients in single precision are too noisy so near to the minimum
            continue
        # Far from the start, both the tolerance and the curvature are other ones.
        if not (result.success and result.fun < loss / 4):
            return _Fit(weights.to(start.dtype), iterations, bool(result.success))
        loss = result.fun


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    """Computes logits `(K, N)` in double precision; with few classes this is several times as fast as `(N, K)`."""
    weights = weights.to(features.dtype)
    return torch.addmm(weights[:, -1:], weights[:, :-1], features.T).double()


class _Score(NamedTuple):
    """The mean loss and, for classes, the accuracy (otherwise 0)."""

    loss: float
    accuracy: float


def _score(
    kind: Kind, features: Tensor, targets: Tensor, weights: Tensor, predictions: list[Tensor] | None = None
) -> _Score:
    """Computes loss and accuracy; `predictions` receives the predictions of each block of images."""
    loss = hits = known = 0.0
    for block in _blocks(len(features), len(weights)):
        logits, some = _logits(features[block], weights).T, targets[block]
        count = some.numel() if kind.name == "class" else (~some.isnan()).sum().item()
        loss, known = loss + count * kind.loss(logits, some).item(), known + count
        if kind.name == "class":
            hits += (logits.argmax(dim=1) == some).sum().item()
        if predictions is not None:
            predictions.append(kind.predict(logits, some))
    return _Score(loss / max(1, known), hits / len(features))


def _blocks(images: int, outputs: int) -> list[slice]:
    """Divides images so that the logits of a block take little memory, however many images and classes there are."""
    size = max(1, BLOCK // outputs)
    return [slice(first, first + size) for first in range(0, images, size)]
