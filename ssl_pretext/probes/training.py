"""The training of probes that are networks, and its configuration."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.targets import KINDS, Kind
from ssl_pretext.regularizers import WeightedRegularizers

__all__ = ["ProbeConfig", "ProbeFactory", "run_on_test_images", "train_network"]

ProbeFactory = Callable[[int, int], nn.Module]

TEST_BATCH_SIZE = 256
ROUNDING = 1e-6  # a standard deviation below this fraction of a channel's largest value is float32 rounding error


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Configuration of the training of a probe that is a network; the defaults are those of the documented experiment.

    Attributes:
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        batch_size: Approximate number of images per step; the images are divided into batches of nearly equal size.
        standardize: Whether each channel of the features is standardized by its mean and variance over the training
            images. Without it, features with small values are judged by their size: the running variances of a probe's
            BatchNorm start at 1, and do not reach them in few steps.
        regularizers: Weight of each regularizer of the probe, by the spec of the regularizer, such as
            `{"nuclear_norm": 1e-3}`.

    Raises:
        ArgumentError: A number is out of range.
        UnknownNameError: There is no regularizer of a given name.

    Examples:
        >>> ProbeConfig(learning_rate=1e-3, regularizers={"nuclear_norm": 1e-3}).batch_size
        64
    """

    learning_rate: float = 3e-4
    weight_decay: float = 2e-5
    batch_size: int = 64
    standardize: bool = True
    regularizers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("batch_size of ProbeConfig (BatchNorm needs two images)", self.batch_size, least=2)
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ArgumentError(
                f"ProbeConfig needs learning_rate > 0 and weight_decay >= 0, got {self.learning_rate!r} and "
                f"{self.weight_decay!r}"
            )
        WeightedRegularizers(self.regularizers)  # raises an error for unknown regularizers

    def card(self) -> dict[str, Any]:
        """Returns the entries of the probe card that describe the training."""
        return {"optimizer": "AdamW", **self.to_dict(), "loss": "cross-entropy", "selection": "last epoch"}


def train_network(
    factory: ProbeFactory,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    training: ProbeConfig,
) -> Outcome:
    """Trains a network on features and tests it after each epoch; the last epoch counts, so nothing is selected.

    Args:
        factory: Function that creates the network from the number of channels of the features and of its outputs.
        train: Features `(N, C, h, w)` and targets of the training images.
        test: Features and targets of the test images.
        kind: Kind of the targets.
        num_outputs: Number of classes, labels or numbers.
        epochs: Number of passes over the training images.
        seed: Seed of the initial weights and of the order of the images.
        training: Configuration of the training.

    Returns:
        The history with a row per epoch, no settings, because none are selected, and the last epoch's predictions.

    Raises:
        ArgumentError: The function does not create a module with parameters, or the module does not return outputs of
            the right shape.
    """
    features, targets = train
    standardize = _standardization(features) if training.standardize else lambda maps: maps
    count, device, is_class = len(targets), targets.device, kind.name == "class"
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        network = factory(features.shape[1], num_outputs)
        if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
            raise ArgumentError(
                "the function that creates a probe must return a module with parameters to train, got "
                f"{repr(network)[:80]}"
            )
        network = network.to(device)
        regularizers = WeightedRegularizers(training.regularizers)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        # The order has its own generator: networks draw different amounts from the global one, and must see one order.
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []

        def outputs_of(batch: Tensor) -> Tensor:
            # Indexing copies the features, so a network that changes its input in place does no harm.
            return _check_logits(network(standardize(test[0][batch])), len(batch), num_outputs, kind)

        for epoch in range(epochs):
            network.train()
            order = torch.randperm(count, generator=generator).to(device)
            loss_sum, hits = torch.zeros(2, device=device, dtype=torch.float64)
            # Batches are nearly equal, because BatchNorm has no variance in a last batch of a single image.
            for batch in order.tensor_split(max(1, count // training.batch_size)):
                inputs = standardize(features[batch])
                logits = _check_logits(network(inputs), len(batch), num_outputs, kind)
                if not logits.requires_grad:
                    raise ArgumentError("the outputs of the probe do not depend on its parameters, so it cannot learn")
                penalties = regularizers(network, inputs).values()
                loss = kind.loss(logits, targets[batch])
                optimizer.zero_grad()
                torch.stack([loss, *penalties]).sum().backward()
                optimizer.step()
                loss_sum += len(batch) * loss.detach()
                if is_class:
                    hits += (logits.detach().argmax(dim=1) == targets[batch]).sum()
            network.eval()
            test_loss, test_accuracy, predictions = run_on_test_images(outputs_of, test[1], kind)
            row = {"epoch": epoch + 1, "train_loss": loss_sum.item() / count, "test_loss": test_loss}
            if is_class:
                row |= {"train_accuracy": hits.item() / count, "test_accuracy": test_accuracy}
            history.append(row)
    return Outcome(history, {}, predictions)


def _standardization(features: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a function that standardizes each channel by its mean and variance over all images and positions.

    Channels that are constant become zeros.
    """
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
    std, largest = variance.sqrt(), features.abs().amax(dim=(0, 2, 3), keepdim=True)
    scale = torch.where(std > ROUNDING * largest, 1 / std, 0.0)
    return lambda maps: (maps - mean) * scale


def run_on_test_images(
    outputs_of: Callable[[Tensor], Tensor], targets: Tensor, kind: Kind
) -> tuple[float, float, Tensor]:
    """Computes the mean loss, the accuracy (0 if there are no classes) and the predictions of a trained network.

    Args:
        outputs_of: Function from indices of test images `(B,)` to the outputs of the network, which is in eval mode.
        targets: Targets of the test images.
        kind: Kind of the targets.
    """
    loss, hits = torch.zeros(2, device=targets.device, dtype=torch.float64)
    predictions = []
    # Not inference mode: tensors that a network keeps from it could not be used in training afterward.
    with torch.no_grad():
        for batch in torch.arange(len(targets), device=targets.device).split(TEST_BATCH_SIZE):
            logits = outputs_of(batch)
            loss += len(batch) * kind.loss(logits, targets[batch])
            if kind.name == "class":
                hits += (logits.argmax(dim=1) == targets[batch]).sum()
            predictions.append(kind.predict(logits, targets[batch]))
    return loss.item() / len(targets), hits.item() / len(targets), torch.cat(predictions)


def _check_logits(logits: object, count: int, num_outputs: int, kind: Kind) -> Tensor:
    """Raises unless a probe returned outputs `(count, num_outputs)`, or `(count, num_outputs, h, w)` for pixels."""
    dimensions = 4 if kind.has_pixels else 2
    if (
        isinstance(logits, Tensor)
        and logits.dim() == dimensions
        and logits.shape[:2] == (count, num_outputs)
        and logits.is_floating_point()
    ):
        return logits
    what = f"{logits.dtype} of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    shape = f"({count}, {num_outputs}" + (", h, w)" if dimensions == 4 else ")")
    raise ArgumentError(
        f"the probe returned {what}, but it must return floating logits of shape {shape}: one for each "
        f"{kind.each}, for each image of the batch"
    )
