"""How a probe that is a network is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.regularizers import WeightedRegularizers

__all__ = ["ProbeConfig", "ProbeFactory", "train_network"]

ProbeFactory = Callable[[int, int], nn.Module]

TEST_BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """How a probe that is a network is trained; the defaults are the documented experiment's.

    Attributes:
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        batch_size: Images per step, about.
        regularizers: Weight of each regularizer of the probe by spec, such as `{"nuclear_norm": 1e-3}`.

    Raises:
        ArgumentError: A number is out of range.
        UnknownNameError: There is no such regularizer.

    Examples:
        >>> ProbeConfig(learning_rate=1e-3, regularizers={"nuclear_norm": 1e-3}).batch_size
        64
    """

    learning_rate: float = 3e-4
    weight_decay: float = 2e-5
    batch_size: int = 64
    regularizers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = whole_number("batch_size of ProbeConfig (BatchNorm needs two)", self.batch_size, least=2)
        object.__setattr__(self, "batch_size", size)  # JSON-ready
        rates = (self.learning_rate, self.weight_decay)
        if not all(isinstance(rate, float | int) for rate in rates) or not self.learning_rate > 0 <= self.weight_decay:
            raise ArgumentError(f"ProbeConfig takes learning_rate > 0 and weight_decay >= 0, got {rates}")
        WeightedRegularizers(self.regularizers)  # refuses what it does not know

    def card(self) -> dict[str, Any]:
        """What a probe card says of it."""
        return {"optimizer": "AdamW", **self.to_dict(), "loss": "cross-entropy", "selection": "last epoch"}


def train_network(
    factory: ProbeFactory,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
    training: ProbeConfig,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains a network on features; the last epoch counts, so nothing is chosen.

    Args:
        factory: Makes it from the channels of the features and the number of classes.
        train: Features `(N, C, h, w)` and labels `(N,)`.
        test: The same.
        classes: How many there are.
        epochs: Passes over the training images.
        seed: Decides the weights and the order of the images.
        training: How.

    Returns:
        A row per epoch, and no choices.
    """
    features, labels = train
    count, device = len(labels), labels.device
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        network = factory(features.shape[1], classes).to(device)
        regularizers = WeightedRegularizers(training.regularizers)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        # Not the global generator: larger networks draw more from it, and the order must be theirs all the same.
        generator = torch.Generator().manual_seed(seed)
        history: list[dict[str, float]] = []
        for epoch in range(epochs):
            network.train()
            order = torch.randperm(count, generator=generator).to(device)
            sums = torch.zeros(2, device=device, dtype=torch.float64)
            # Nearly equal batches: a last one of a single image would leave BatchNorm without a variance.
            for batch in order.tensor_split(max(1, count // training.batch_size)):
                inputs = features[batch]
                logits = network(inputs)
                penalties = regularizers(network, inputs).values()
                loss = F.cross_entropy(logits, labels[batch])
                optimizer.zero_grad()
                torch.stack([loss, *penalties]).sum().backward()
                optimizer.step()
                sums += _score(logits.detach(), labels[batch])
            (train_loss, train_accuracy), (test_loss, test_accuracy) = (sums / count).tolist(), _test(network, *test)
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": train_loss,
                    "train_accuracy": train_accuracy,
                    "test_loss": test_loss,
                    "test_accuracy": test_accuracy,
                }
            )
    return history, {}


def _test(network: nn.Module, features: Tensor, labels: Tensor) -> list[float]:
    network.eval()
    sums = torch.zeros(2, device=labels.device, dtype=torch.float64)
    with torch.inference_mode():
        for batch in torch.arange(len(labels), device=labels.device).split(TEST_BATCH_SIZE):
            sums += _score(network(features[batch]), labels[batch])  # a copy: a network may work in place
    return cast(list[float], (sums / len(labels)).tolist())


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed loss and number of hits."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, (logits.argmax(dim=1) == labels).sum()]).double()
