"""The task as Lightning sees it: its steps, its history, and the random state that a checkpoint must carry."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.losses import Loss
from ssl_pretext.system.files import write_json
from ssl_pretext.system.processes import gather_from_all
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.finite import FiniteCheck

__all__ = ["CHECKPOINT", "PretextModule"]

CHECKPOINT = "checkpoints/last.ckpt"  # in the folder of the run

log = logging.getLogger(__name__)


@dataclass
class _Sums:
    """Running sums of the loss terms of one epoch, kept on the device so that no step waits for it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Adds the mean terms of a batch."""
        self.take({name: value.detach() * images for name, value in terms.items()}, images)

    def take(self, values: Mapping[str, Tensor], images: int) -> None:
        """Adds other sums."""
        for name, value in values.items():
            self.values[name] = self.values[name] + value if name in self.values else value
        self.images += images

    def means(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over the images of all processes; `total` adds up what each of them has."""
        images = int(total(torch.tensor(self.images)))
        return {name: float(total(value)) / max(1, images) for name, value in self.values.items()}


class _Networks:
    """The task's networks, compiled within the block and as they were outside of it.

    Losses are left out: some differentiate within a step, which a compiled graph cannot.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.compiled = [(network, torch.compile(network.forward)) for network in networks]

    def __enter__(self) -> None:
        for network, forward in self.compiled:
            network.forward = forward

    def __exit__(self, *_: object) -> None:
        for network, _forward in self.compiled:
            del network.forward  # the class's own is seen again


class PretextModule(pl.LightningModule):
    """The task with its optimizer, its history and the random state that a checkpoint must carry."""

    def __init__(self, task: PretextTask, config: FitConfig) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.history: list[dict[str, Any]] = []
        self.networks = _Networks(task.networks() if config.compile else [])
        self.saved: dict[str, Any] | None = None
        self.training_sums, self.validation_sums = _Sums(), _Sums()
        self.watch = FiniteCheck(Path(config.out), Path(config.out) / CHECKPOINT)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.task.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    @override
    def training_step(self, images: Tensor, _index: int) -> Tensor:
        with self.networks:
            output = self.task(images)
        self.watch.see(self.global_step + 1, output, self._files())
        share = self.trainer.train_dataloader.share
        self.training_sums.add(output.terms, len(images) if share else 0)
        self.log_dict({f"train/{name}": value.detach() for name, value in output.terms.items()}, prog_bar=True)
        # Gradients are averaged over the processes, each of which takes the mean of its own images.
        return cast(Tensor, output.loss if share == 1 else share * output.loss)

    @override
    def validation_step(self, images: Tensor, index: int) -> None:
        # What is hidden is the same in every epoch, and the random state of the training stays as it is.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed + index)
            images_counted = len(images) if self.trainer.val_dataloaders.share else 0
            self.validation_sums.add(self.task(images).terms, images_counted)

    @override
    def on_fit_start(self) -> None:
        if self.saved is None:
            torch.manual_seed(self.config.seed + self.global_rank)
            return
        # Now that the task is on its device, where the states of the losses must be.
        states, world = self.saved["processes"], self.trainer.world_size
        if len(states) == world:
            states = [states[self.global_rank]]
            torch.set_rng_state(states[0]["random"])
            if self.device.type == "cuda" and states[0]["cuda_random"] is not None:
                torch.cuda.set_rng_state(states[0]["cuda_random"], self.device)
        else:
            log.warning("%d processes go on for %d: what is drawn at random is not the same", world, len(states))
            mixed = (self.config.seed * 1_000_003 + self.global_step) * 1_000_003 + self.global_rank
            torch.manual_seed(mixed % 2**64)
            states = states if self.global_rank == 0 else []
        for state in states:
            self.training_sums.take(state["sums"], state["images"])
        for name, loss in self._losses():
            loss.load_training_state(self.saved["losses"][name])

    @override
    def on_train_epoch_end(self) -> None:
        self.watch.settle()
        terms, judged = (sums.means(self._total) for sums in (self.training_sums, self.validation_sums))
        row = {
            "epoch": self.current_epoch + 1,
            "train_loss": sum(terms.values()),
            "val_loss": sum(judged.values()) if judged else None,
            "terms": terms,
        }
        self.history.append(row)
        self.training_sums, self.validation_sums = _Sums(), _Sums()
        self.log("train/loss", row["train_loss"])
        if judged:
            self.log("val/loss", row["val_loss"])
        if self.trainer.is_global_zero:
            write_json(Path(self.config.out) / "history.json", self.history)
        judged_text = f", validation {row['val_loss']:.4f}" if judged else ""
        log.info("epoch %d of %d: loss %.4f%s", row["epoch"], self.config.epochs, row["train_loss"], judged_text)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.watch.check_weights(self.global_step, self.task, self._files())
        checkpoint["pretext"] = {
            "history": self.history,
            "processes": gather_from_all(
                {
                    "sums": {name: value.cpu() for name, value in self.training_sums.values.items()},
                    "images": self.training_sums.images,
                    "random": torch.get_rng_state(),
                    "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
                }
            ),
            "losses": {name: loss.training_state() for name, loss in self._losses()},
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = saved = checkpoint["pretext"]
        self.watch.kept_step = checkpoint["global_step"]
        self.history = list(saved["history"])

    def _total(self, value: Tensor) -> Tensor:
        """The sum of what all processes have."""
        return cast(Tensor, self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum"))

    def _files(self) -> list[str]:
        return cast(list[str], self.trainer.train_dataloader.last_names())

    def _losses(self) -> Iterator[tuple[str, Loss]]:
        return ((name, part) for name, part in self.task.named_modules() if isinstance(part, Loss))
