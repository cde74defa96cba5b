"""The task as Lightning sees it: its steps, its history, and the random state that a checkpoint must carry."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from ssl_pretext.config import write_json
from ssl_pretext.fitting import FitConfig
from ssl_pretext.losses import Loss
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.watch import Watch

__all__ = ["CHECKPOINT", "Training"]

CHECKPOINT = "checkpoints/last.ckpt"  # in the folder of the run

log = logging.getLogger(__name__)


@dataclass
class _Sums:
    """Running sums of the loss terms of one epoch, kept on the device so that no step waits for it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        for name, value in terms.items():
            self.values[name] = self.values.get(name, torch.zeros_like(value)) + value.detach() * images
        self.images += images

    def means(self) -> dict[str, float]:
        return {name: float(value) / max(1, self.images) for name, value in self.values.items()}


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


class Training(pl.LightningModule):
    """The task with its optimiser, its history and the random state that a checkpoint must carry."""

    def __init__(self, task: PretextTask, config: FitConfig) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.history: list[dict[str, Any]] = []
        self.networks = _Networks(task.networks() if config.compile else [])
        self.saved: dict[str, Any] | None = None
        self.training_sums, self.validation_sums = _Sums(), _Sums()
        self.watch = Watch(Path(config.out), Path(config.out) / CHECKPOINT)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.task.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def training_step(self, images: Tensor, _index: int) -> Tensor:
        with self.networks:
            output = self.task(images)
        self.watch.see(self.global_step + 1, output, self._files())
        self.training_sums.add(output.terms, len(images))
        self.log_dict({f"train/{name}": value.detach() for name, value in output.terms.items()}, prog_bar=True)
        return cast(Tensor, output.loss)

    def validation_step(self, images: Tensor, index: int) -> None:
        # What is hidden is the same in every epoch, and the random state of the training stays as it is.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed + index)
            self.validation_sums.add(self.task(images).terms, len(images))

    def on_fit_start(self) -> None:
        if self.saved is None:
            torch.manual_seed(self.config.seed + self.global_rank)
            return
        # Now that the task is on its device, where the states of the losses must be.
        torch.set_rng_state(self.saved["random"])
        if self.device.type == "cuda" and self.saved.get("cuda_random") is not None:
            torch.cuda.set_rng_state(self.saved["cuda_random"], self.device)
        for name, loss in self._losses():
            loss.load_training_state(self.saved["losses"][name])

    def on_train_epoch_end(self) -> None:
        self.watch.settle()
        terms, judged = self.training_sums.means(), self.validation_sums.means()
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.watch.check_weights(self.global_step, self.task, self._files())
        checkpoint["pretext"] = {
            "history": self.history,
            "sums": (dict(self.training_sums.values), self.training_sums.images),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "losses": {name: loss.training_state() for name, loss in self._losses()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = saved = checkpoint["pretext"]
        self.watch.kept_step = checkpoint["global_step"]
        self.history = list(saved["history"])
        self.training_sums = _Sums(dict(saved["sums"][0]), saved["sums"][1])

    def _files(self) -> list[str]:
        return cast(list[str], self.trainer.train_dataloader.names_given())

    def _losses(self) -> Iterator[tuple[str, Loss]]:
        return ((name, part) for name, part in self.task.named_modules() if isinstance(part, Loss))
