"""Probes that are networks: the documented one, and how they are trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.config import Config, whole_number
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import WeightedRegularizers

__all__ = ["ConvProbe", "ProbeFactory", "ProbeTraining", "train_module"]

ProbeFactory = Callable[[int, int], nn.Module]

TEST_BATCH_SIZE = 256


class ConvProbe(nn.Module):
    """The classifier of the documented experiment: two convolutions, average pooling, one linear layer.

    conv 3×3 (in → 128), BatchNorm, ReLU, conv 3×3 (128 → 256), BatchNorm, global average, linear (256 → classes); the
    convolutions have no bias. With 101 classes 325,093 parameters for 3 input channels, 326,245 for 4.

    Args:
        in_channels: Channels of the features `(B, in_channels, h, w)`.
        num_classes: Outputs `(B, num_classes)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 128, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 256, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(256)
        self.classify = nn.Linear(256, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(features)))
        if self.training:
            pooled = self.norm2(self.conv2(hidden)).mean(dim=(2, 3))
        else:
            # After the ReLU all is affine once BatchNorm's statistics are fixed, so the average may come first: the
            # mean of each window that a kernel entry sees, then one 3×3 product per image instead of h w of them.
            pooled = self.norm2(F.conv2d(_window_means(hidden), self.conv2.weight)).flatten(1)
        return cast(Tensor, self.classify(pooled))


def _window_means(maps: Tensor) -> Tensor:
    """What each entry of a 3×3 kernel sees on average of maps padded by one, `(B, C, h, w)` to `(B, C, 3, 3)`.

    The first sees all but the last row and column, and so on: one pass over the maps, where pooling takes nine.
    """
    rows = maps.sum(dim=2)
    rows = torch.stack([rows - maps[:, :, -1], rows, rows - maps[:, :, 0]], dim=2)  # (B, C, 3, w)
    sums = rows.sum(dim=3)
    sums = torch.stack([sums - rows[..., -1], sums, sums - rows[..., 0]], dim=3)
    return sums / maps[0, 0].numel()


@dataclass(frozen=True, kw_only=True)
class ProbeTraining(Config):
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
        >>> ProbeTraining(learning_rate=1e-3, regularizers={"nuclear_norm": 1e-3}).batch_size
        64
    """

    learning_rate: float = 3e-4
    weight_decay: float = 2e-5
    batch_size: int = 64
    regularizers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = whole_number("batch_size of ProbeTraining (BatchNorm needs two)", self.batch_size, least=2)
        object.__setattr__(self, "batch_size", size)  # JSON-ready
        rates = (self.learning_rate, self.weight_decay)
        if not all(isinstance(rate, float | int) for rate in rates) or not self.learning_rate > 0 <= self.weight_decay:
            raise ArgumentError(f"ProbeTraining takes learning_rate > 0 and weight_decay >= 0, got {rates}")
        WeightedRegularizers(self.regularizers)  # refuses what it does not know

    def card(self) -> dict[str, Any]:
        """What a probe card says of it."""
        return {"optimizer": "AdamW", **self.to_dict(), "loss": "cross-entropy", "selection": "last epoch"}


def train_module(
    factory: ProbeFactory,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    epochs: int,
    seed: int,
    training: ProbeTraining,
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
