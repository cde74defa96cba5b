"""Fine-tuning: a network is trained further on labeled images, together with a linear layer on its features."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.data import ImageStore
from ssl_pretext.encoders.modes import train_mode
from ssl_pretext.probes.outcome import Outcome
from ssl_pretext.probes.segmentation import LinearMapProbe
from ssl_pretext.probes.targets import KINDS, Kind, accuracy
from ssl_pretext.probes.training import ProbeConfig, run_on_test_images
from ssl_pretext.representations.base import Representation

__all__ = ["FINETUNING", "finetune"]

FINETUNING = ProbeConfig(learning_rate=1e-3, weight_decay=0.05, batch_size=32)
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises from 0


class _PooledLinear(nn.Module):
    """Averages feature maps over all positions, normalizes them and applies a linear layer."""

    def __init__(self, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        # Features of different networks differ in size by orders of magnitude, and the layer on top should not notice.
        self.norm = nn.BatchNorm1d(in_channels, affine=False)
        self.linear = nn.Linear(in_channels, num_outputs)

    @override
    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.norm(features.mean(dim=(2, 3))))
        return outputs


def finetune(
    representation: Representation,
    train: tuple[ImageStore, Tensor],
    test: tuple[ImageStore, Tensor],
    *,
    kind: Kind = KINDS["class"],
    num_outputs: int,
    epochs: int,
    seed: int,
    training: ProbeConfig = FINETUNING,
    device: str = "cpu",
) -> Outcome:
    """Trains a network and a linear layer on its features by AdamW, and tests them after the last epoch.

    The learning rate rises linearly over the first tenth of the steps and then falls to 0 along a cosine. Each training
    image is flipped horizontally with a probability of one half, unless there is a target for each pixel. The
    weights of the network are restored afterward.

    Args:
        representation: The representation whose networks are trained.
        train: Labeled images and their targets.
        test: Test images and their targets, which choose nothing.
        kind: Kind of the targets.
        num_outputs: Number of classes, labels or numbers.
        epochs: Number of passes over the training images.
        seed: Seed of the weights of the linear layer, of the order of the images, of flips and of dropout.
        training: Configuration of the training.
        device: Device on which the network is trained.

    Returns:
        The history with a row per epoch, of which only the last has test results; no settings, because none are
        selected; and the predictions.
    """
    (images, targets), count = train, len(train[1])
    modules = list({id(part.backbone.module): part.backbone.module for part in representation.parts}.values())
    networks = [module for module in modules if module is not None]
    is_class = kind.name == "class"
    history: list[dict[str, float]] = []
    with _restored(networks, device), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        with torch.no_grad():
            channels = representation.features(images.images([0]).to(device)).shape[1]
        head = (LinearMapProbe if kind.has_pixels else _PooledLinear)(channels, num_outputs).to(device)
        parameters = [parameter for network in (*networks, head) for parameter in _trainable(network)]
        optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
        batches = max(1, count // training.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_cosine(epochs * batches))
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            order = torch.randperm(count, generator=generator)
            loss_sum = hits = 0.0
            # Batches are nearly equal, because BatchNorm has no variance in a last batch of a single image.
            for batch in order.tensor_split(batches):
                pixels = images.images(batch).to(device)
                flipped = torch.rand(len(batch), generator=generator) < 0.5
                if not kind.has_pixels:
                    pixels = torch.where(flipped.to(device)[:, None, None, None], pixels.flip(-1), pixels)
                truth = targets[batch].to(device)
                with ExitStack() as modes:
                    for network in (*networks, head):
                        modes.enter_context(train_mode(network))
                    logits = head(representation.features(pixels))
                loss = kind.loss(logits, truth)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                loss_sum += len(batch) * loss.item()
                hits += len(batch) * accuracy(logits.detach(), truth) if is_class else 0.0
            history.append({"epoch": epoch + 1, "train_loss": loss_sum / count})
            if is_class:
                history[-1]["train_accuracy"] = hits / count
        head.eval()
        test_images, test_targets = test
        test_loss, test_accuracy, predictions = run_on_test_images(
            lambda batch: head(representation.features(test_images.images(batch).to(device))),
            test_targets.to(device),
            kind,
        )
    history[-1]["test_loss"] = test_loss
    if is_class:
        history[-1]["test_accuracy"] = test_accuracy
    return Outcome(history, {}, predictions)


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
