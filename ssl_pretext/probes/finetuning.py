"""Fine-tuning: a network is trained further on labeled images, together with a linear layer on its features."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.data import ImageStore, holdout_split
from ssl_pretext.encoders.layer_decay import layer_decay_groups
from ssl_pretext.encoders.modes import train_mode
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.segmentation import LinearMapProbe
from ssl_pretext.probes.targets import KINDS, Kind, accuracy
from ssl_pretext.probes.training import run_on_test_images
from ssl_pretext.representations.base import Representation

__all__ = ["FinetuneConfig", "Finetuned", "PooledLinear", "finetune", "finetuned"]

VALIDATION = 0.2  # fraction of the labeled images on which the number of epochs is selected
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises from 0


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Config):
    """Configuration of fine-tuning.

    Attributes:
        learning_rate: Learning rate of AdamW at the end of the warm-up.
        weight_decay: Weight decay of AdamW.
        batch_size: Approximate number of images per step; the images are divided into batches of nearly equal size.
        layer_decay: Factor by which the learning rate falls from each layer of the network to the one below it, for
            networks of timm; 1 stands for one rate. A network with random weights, which is trained from scratch, has
            one rate in any case.
        patience: Number of epochs without improvement on a fifth of the *training* images after which training stops.
            The network is then trained again, on all training images, for the number of epochs that was best. If it is
            None, nothing is held out, and the last epoch counts.

    Raises:
        ArgumentError: A number is out of range.

    Examples:
        >>> FinetuneConfig(layer_decay=0.75, patience=5).learning_rate
        0.001
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 32
    layer_decay: float = 1.0
    patience: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("FinetuneConfig.batch_size (BatchNorm needs two images)", self.batch_size, least=2)
        if self.patience is not None:
            whole_number("FinetuneConfig.patience", self.patience)
        for name, fits, needed in (
            ("learning_rate", 0 < self.learning_rate < math.inf, "a positive number"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number of at least 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1"),
        ):
            if not fits:
                raise ArgumentError(f"FinetuneConfig.{name} must be {needed}, got {getattr(self, name)!r}")

    def card(self) -> dict[str, Any]:
        """Returns the entries of the probe card that describe the training."""
        held_out = f"{VALIDATION:.0%} of the training images"
        selection = "last epoch" if self.patience is None else f"epochs on {held_out}, then again on all of them"
        return {
            "optimizer": "AdamW",
            **self.to_dict(),
            "schedule": "linear warm-up over a tenth of the steps, then cosine",
            "selection": selection,
        }


class PooledLinear(nn.Module):
    """Averages feature maps over all positions, normalizes them and applies a linear layer.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_outputs: Number of outputs; the output is `(B, num_outputs)`.
    """

    def __init__(self, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        # Features of different networks differ in size by orders of magnitude, and the layer on top should not notice.
        self.norm = nn.BatchNorm1d(in_channels, affine=False)
        self.linear = nn.Linear(in_channels, num_outputs)

    @override
    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.norm(features.mean(dim=(2, 3))))
        return outputs

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Returns a linear layer on the averaged features that computes the same in eval mode, without the norm."""
        layer = nn.Linear(self.linear.in_features, self.linear.out_features)
        mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
        layer.weight.copy_(self.linear.weight / (variance + self.norm.eps).sqrt())
        layer.bias.copy_(self.linear.bias - layer.weight @ mean)
        return layer


@dataclass(frozen=True)
class Finetuned:
    """A representation whose networks are fine-tuned, with the layer on its features.

    Attributes:
        head: The layer on the features, in eval mode: a `PooledLinear`, or a `LinearMapProbe` for masks and maps.
        history: A row per epoch, without test results.
        settings: The number of epochs that was selected and the result on held-out training images; empty if nothing
            was held out.
        outputs: Function from images `(B, C, H, W)` to outputs.
    """

    head: nn.Module
    history: list[dict[str, float]]
    settings: dict[str, Any]
    outputs: Callable[[Tensor], Tensor]


def finetune(
    representation: Representation,
    train: tuple[ImageStore, Tensor],
    test: tuple[ImageStore, Tensor],
    *,
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    training: FinetuneConfig | None = None,
    device: str = "cpu",
) -> Outcome:
    """Fine-tunes a network as `finetuned` does, and tests it once.

    Args:
        representation: The representation whose networks are trained.
        train: Labeled images and their targets.
        test: Test images and their targets, which choose nothing.
        kind: Kind of the targets.
        num_outputs: Number of classes, labels or numbers.
        epochs: Number of passes over the training images, the largest one if it is selected.
        seed: Seed of everything that is random.
        training: Configuration of the training.
        device: Device on which the network is trained.

    Returns:
        The history with a row per epoch, of which only the last has test results; the selected number of epochs with
        its result on held-out training images; and the predictions.

    Raises:
        ArgumentError: There is a `layer_decay`, and the layers of the network have no order.
    """
    images, targets = test
    options: dict[str, Any] = {"num_outputs": num_outputs, "epochs": epochs, "seed": seed, "training": training}
    with finetuned(representation, train, kind=kind, device=device, **options) as trained:
        test_loss, test_accuracy, predictions = run_on_test_images(
            lambda batch: trained.outputs(images.images(batch).to(device)), targets.to(device), kind
        )
    trained.history[-1]["test_loss"] = test_loss
    if kind.name == "class":
        trained.history[-1]["test_accuracy"] = test_accuracy
    return Outcome(trained.history, trained.settings, predictions)


@contextmanager
def finetuned(
    representation: Representation,
    train: tuple[ImageStore, Tensor],
    *,
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    training: FinetuneConfig | None = None,
    device: str = "cpu",
) -> Iterator[Finetuned]:
    """Trains a network and a linear layer on its features by AdamW for a block, after which its weights are restored.

    The learning rate rises linearly over the first tenth of the steps and then falls to 0 along a cosine. Each training
    image is flipped horizontally with a probability of one half, unless there is a target for each pixel.

    Args:
        representation: The representation whose networks are trained.
        train: Labeled images and their targets.
        kind: Kind of the targets.
        num_outputs: Number of classes, labels or numbers.
        epochs: Number of passes over the training images, the largest one if it is selected.
        seed: Seed of the weights of the linear layer, of the order of the images, of flips, of dropout, and of the
            choice of held-out images.
        training: Configuration of the training.
        device: Device on which the network is trained.

    Raises:
        ArgumentError: There is a `layer_decay`, and the layers of the network have no order.
    """
    training, (images, targets) = training or FinetuneConfig(), train
    job = _Job(representation, kind, num_outputs, epochs, seed, training, device)
    with _restored(job.networks, device), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        settings = {} if training.patience is None else _select_epochs(job, images, targets, training.patience)
        heads, history = zip(*islice(job.train(images, targets), settings.get("trained_epochs", epochs)), strict=True)
        head = heads[-1]  # they are one module
        yield Finetuned(head, list(history), settings, lambda pixels: head(representation.features(pixels)))


def _select_epochs(job: "_Job", images: ImageStore, targets: Tensor, patience: int) -> dict[str, Any]:
    """Finds the number of epochs that is best on held-out training images; empty if none can be held out."""
    strata = job.kind.strata(targets)
    names = [str(index) for index in range(len(strata))]
    kept, held_out = (torch.tensor(part) for part in holdout_split(names, strata, fraction=VALIDATION, seed=job.seed))
    if not len(held_out):
        return {}
    validation, truth = images.subset(held_out), targets[held_out].to(job.device)
    best: dict[str, Any] = {}
    best_score = (-math.inf, -math.inf)
    with _restored(job.networks, job.device):
        for epoch, (head, _) in enumerate(job.train(images.subset(kept), targets[kept]), start=1):
            outputs_of = partial(job.outputs, head, validation)
            loss, hits, _ = run_on_test_images(outputs_of, truth, job.kind)
            if (score := (hits, -loss)) > best_score:
                result = {"validation_accuracy": hits} if job.kind.name == "class" else {"validation_loss": loss}
                best, best_score = {"trained_epochs": epoch, **result}, score
            elif epoch - best.get("trained_epochs", 0) >= patience:
                break
    return best


@dataclass(frozen=True)
class _Job:
    """A training that can be run on several sets of images; see `finetuned`."""

    representation: Representation
    kind: Kind
    num_outputs: int
    epochs: int
    seed: int
    training: FinetuneConfig
    device: str

    @property
    def networks(self) -> list[nn.Module]:
        modules = {id(part.backbone.module): part.backbone.module for part in self.representation.parts}
        return [module for module in modules.values() if module is not None]

    def outputs(self, head: nn.Module, images: ImageStore, batch: Tensor) -> Tensor:
        """Computes the outputs of the network for images with the given indices."""
        outputs: Tensor = head(self.representation.features(images.images(batch).to(self.device)))
        return outputs

    def train(self, images: ImageStore, targets: Tensor) -> Iterator[tuple[nn.Module, dict[str, float]]]:
        """Yields the layer on the features, in eval mode, and a row of the history after each epoch."""
        count, device, is_class = len(targets), self.device, self.kind.name == "class"
        torch.manual_seed(self.seed)
        with torch.no_grad():
            channels = self.representation.features(images.images([0]).to(device)).shape[1]
        head = (LinearMapProbe if self.kind.has_pixels else PooledLinear)(channels, self.num_outputs).to(device)
        rate, decay = self.training.learning_rate, self.training.weight_decay
        optimizer = torch.optim.AdamW(self._parameters(head), lr=rate, weight_decay=decay)
        batches = max(1, count // self.training.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_cosine(self.epochs * batches))
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(self.epochs):
            order = torch.randperm(count, generator=generator)
            loss_sum = hits = 0.0
            # Batches are nearly equal, because BatchNorm has no variance in a last batch of a single image.
            for batch in order.tensor_split(batches):
                pixels = images.images(batch).to(device)
                flipped = torch.rand(len(batch), generator=generator) < 0.5
                if not self.kind.has_pixels:
                    pixels = torch.where(flipped.to(device)[:, None, None, None], pixels.flip(-1), pixels)
                truth = targets[batch].to(device)
                with ExitStack() as modes:
                    for network in (*self.networks, head):
                        modes.enter_context(train_mode(network))
                    logits = head(self.representation.features(pixels))
                loss = self.kind.loss(logits, truth)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                loss_sum += len(batch) * loss.item()
                hits += len(batch) * accuracy(logits.detach(), truth) if is_class else 0.0
            row = {"epoch": epoch + 1, "train_loss": loss_sum / count}
            yield head.eval(), row | ({"train_accuracy": hits / count} if is_class else {})

    def _parameters(self, head: nn.Module) -> list[dict[str, Any]]:
        """The parameters to train, in groups."""
        networks, training = self.networks, self.training
        every = [parameter for network in (*networks, head) for parameter in _trainable(network)]
        # Random weights have nothing to keep: slower lower layers would only make the control weaker.
        if training.layer_decay == 1 or self.representation.initialization is not None:
            return [{"params": every}]
        groups = layer_decay_groups(
            networks,
            layer_decay=training.layer_decay,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        grouped = {id(parameter) for group in groups for parameter in group["params"]}
        return [*groups, {"params": [parameter for parameter in every if id(parameter) not in grouped]}]


def _warm_up_and_cosine(steps: int) -> Callable[[int], float]:
    warm_up = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters to train: those that require gradients, or all if none does, as in a network that was frozen."""
    every = list(network.parameters())
    return [parameter for parameter in every if parameter.requires_grad] or every


@contextmanager
def _restored(networks: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Restores the weights, the buffers and the flags of networks after the block."""
    states = [copy.deepcopy(network.state_dict()) for network in networks]
    flags = [[parameter.requires_grad for parameter in network.parameters()] for network in networks]
    homes = [
        next((parameter.device for parameter in network.parameters()), torch.device("cpu")) for network in networks
    ]
    try:
        for network in networks:
            network.to(device)
            for parameter in _trainable(network):
                parameter.requires_grad_(True)
        yield
    finally:
        for network, state, flag, home in zip(networks, states, flags, homes, strict=True):
            network.to(home).load_state_dict(state)
            network.zero_grad(set_to_none=True)
            for parameter, required in zip(network.parameters(), flag, strict=True):
                parameter.requires_grad_(required)
