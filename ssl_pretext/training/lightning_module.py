"""The LightningModule that trains a task: its steps, its history, and the random state that checkpoints store."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from ssl_pretext.errors import ArgumentError, MissingDependencyError

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingDependencyError(
        "PretextModule needs Lightning, which is not installed: pip install 'ssl-pretext[train]'"
    ) from error

from ssl_pretext.data.loader import Loader
from ssl_pretext.losses import Loss
from ssl_pretext.system.files import write_json
from ssl_pretext.system.processes import gather_from_all
from ssl_pretext.tasks import PretextTask, TaskOutput
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.finite import FiniteCheck
from ssl_pretext.training.optimization import create_optimizer, create_schedule

__all__ = ["CHECKPOINT", "CompiledNetworks", "PretextModule"]

CHECKPOINT = "checkpoints/last.ckpt"  # relative to the folder of the run

log = logging.getLogger(__name__)


@dataclass
class _Sums:
    """Sums of the loss terms over the images of one epoch; they stay on the device, so that no step waits for it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0

    def add_means(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Adds the terms of a batch, given as means over its images."""
        self.add_sums({name: value.detach() * images for name, value in terms.items()}, images)

    def add_sums(self, values: Mapping[str, Tensor], images: int) -> None:
        """Adds sums over a number of images."""
        for name, value in values.items():
            self.values[name] = self.values[name] + value if name in self.values else value
        self.images += images

    def means(self, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Returns the means over the images of all processes; `total` sums a value over the processes."""
        images = int(total(torch.tensor(self.images)))
        return {name: float(total(value)) / max(1, images) for name, value in self.values.items()}


class CompiledNetworks:
    """A context manager in which networks are compiled; outside of it they are not.

    Losses are not compiled: some compute gradients within a step, which a compiled graph does not support.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.compiled = [(network, torch.compile(network.forward)) for network in networks]

    def __enter__(self) -> None:
        for network, forward in self.compiled:
            network.forward = forward

    def __exit__(self, *_: object) -> None:
        for network, _forward in self.compiled:
            del network.forward  # uncovers the method of the class


@contextmanager
def _explained(images: Tensor) -> Iterator[None]:
    """Explains the error of a normalization layer that gets a single value per channel."""
    try:
        yield
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        raise ArgumentError(
            f"a normalization layer of the task got a single value per channel from {len(images)} images of "
            f"{images.shape[-2]}×{images.shape[-1]} pixels, of which it can compute no variance ({error}). Choose a "
            "batch_size of at least two images per process, larger images, or an encoder with another normalization"
        ) from error


def _images_of(batch: Any) -> Tensor:
    """The images of a batch of any loader, without what follows them, such as labels."""
    return cast(Tensor, batch[0] if isinstance(batch, tuple | list) else batch)


def _moving_average(task: PretextTask, decay: float) -> AveragedModel:
    """An exponential moving average of a task's weights and of the statistics of its normalization layers."""
    average = AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)  # otherwise several processes would wait for its gradients


class PretextModule(pl.LightningModule):
    """Trains a task, and stores its history and random state in every checkpoint.

    `fit` uses it with a Trainer that it sets up. With a Trainer of your own, `max_epochs`, `max_steps`,
    `accumulate_grad_batches`, `gradient_clip_val`, precision and device are those of the Trainer, whatever `config`
    says. Its loaders yield batches of images `(B, C, H, W)`, or tuples that begin with one.

    Args:
        task: The task to train. Call its `measure` and `prepare` with the training images first, as `fit` does.
        config: Configuration of the run. `history.json` is written to its output folder.
        total_steps: Number of optimizer steps of the run, from which the learning rate is computed; infinity if it is
            unknown. By default the Trainer is asked.

    Attributes:
        history: One row per epoch, as `fit` returns them.
        average: The exponential moving average of the task, whose weights are those of `average.module`; None if
            `config.ema_decay` is 0.

    Examples:
        >>> import tempfile
        >>> import ssl_pretext as sp
        >>> task, photos = sp.create_task("colorization", encoder="autoencoder"), torch.rand(4, 3, 32, 32)
        >>> task.prepare(sp.ImageStore.from_arrays(photos, [0] * 4))
        >>> trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        ...     enable_model_summary=False, accelerator="cpu")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     module = PretextModule(task, sp.FitConfig(out=folder))
        ...     batches = torch.utils.data.DataLoader(photos, batch_size=2)
        ...     trainer.fit(module, batches, batches)
        >>> len(module.history), task.trained_on.image_size
        (1, 32)
    """

    def __init__(self, task: PretextTask, config: FitConfig, *, total_steps: float | None = None) -> None:
        super().__init__()
        self.task, self.config, self.total_steps = task, config, total_steps
        self.average = _moving_average(task, config.ema_decay) if config.ema_decay else None
        self.history: list[dict[str, Any]] = []
        self.compiled_networks = CompiledNetworks(task.networks() if config.compile else [])
        self.restored: dict[str, Any] | None = None  # this module's part of the checkpoint that the run resumes from
        self.training_sums, self.validation_sums = _Sums(), _Sums()
        self.images_of_step = 0  # images of this process whose gradients have been added since the last step
        self.finite_check = FiniteCheck(Path(config.out), Path(config.out) / CHECKPOINT)

    @override
    def configure_optimizers(self) -> Any:
        if self.total_steps is None:
            # This creates the loaders, so that Lightning does not restore the state of those that have one.
            self.total_steps = float(self.trainer.estimated_stepping_batches)
            self.total_steps = math.inf if self.total_steps < 0 else self.total_steps
        if self.total_steps == math.inf and self.config.schedule is None:
            log.info("the number of steps is unknown, so the learning rate is constant; set max_steps for a schedule")
        optimizer = create_optimizer(self.task, self.config)
        scheduler = create_schedule(optimizer, self.config, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @override
    def training_step(self, batch: Any, _index: int) -> Tensor:
        images = _images_of(batch)
        with self.compiled_networks, _explained(images):
            output = self.task(images)
        if not isinstance(output, TaskOutput):
            raise ArgumentError(
                f"forward() of the task {self.task.name!r} must return a TaskOutput, got {type(output).__name__}"
            )
        self.finite_check.observe(self.global_step + 1, output, self._files())
        loader = self.trainer.train_dataloader
        weight = loader.batch_weight if isinstance(loader, Loader) else 1.0
        self.training_sums.add_means(output.terms, len(images) if weight else 0)
        self.log_dict({f"train/{name}": value.detach() for name, value in output.terms.items()}, prog_bar=True)
        self.log("train/learning_rate", max(group["lr"] for group in self.optimizers().param_groups))
        if self.trainer.accumulate_grad_batches > 1:
            # The sum of the losses of all images relative to the number of a full batch: `on_before_optimizer_step`
            # divides it by the images of all batches, whose number is not known before.
            own = len(images) if weight else 0
            self.images_of_step += own
            weight = own * self.trainer.world_size / self.config.batch_size
        # Each process has the mean loss over its images. Gradients are averaged over the processes, so the weight makes
        # up for different numbers of images.
        return output.loss if weight == 1 else weight * output.loss

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        batches = self.trainer.accumulate_grad_batches
        if batches == 1:
            return
        images = int(self._total(torch.tensor(self.images_of_step)))
        self.images_of_step = 0
        factor = batches * self.config.batch_size / images  # Lightning has divided each loss by the number of batches
        if factor != 1:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)

    @override
    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average is not None:  # here, because checkpoints are saved before `on_train_batch_end` of this class
            self.average.update_parameters(self.task)

    @override
    def validation_step(self, batch: Any, index: int) -> None:
        images, loader = _images_of(batch), self.trainer.val_dataloaders
        # The same parts of the images are hidden in every epoch, and the random state of the training does not change.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed + index)
            count = 0 if isinstance(loader, Loader) and not loader.batch_weight else len(images)
            self.validation_sums.add_means(self.task(images).terms, count)

    @override
    def on_fit_start(self) -> None:
        if self.restored is None:
            torch.manual_seed(self.config.seed + self.global_rank)
            return
        # Restored here, because by now the task is on its device, where the states of the losses must be.
        states, world = self.restored["processes"], self.trainer.world_size
        if len(states) == world:
            states = [states[self.global_rank]]
            torch.set_rng_state(states[0]["random"])
            if self.device.type == "cuda" and states[0]["cuda_random"] is not None:
                torch.cuda.set_rng_state(states[0]["cuda_random"], self.device)
        else:
            log.warning(
                "the number of processes changed from %d to %d: random numbers will differ from those of a run that "
                "was not interrupted",
                len(states),
                world,
            )
            seed = (self.config.seed * 1_000_003 + self.global_step) * 1_000_003 + self.global_rank
            torch.manual_seed(seed % 2**64)
            states = states if self.global_rank == 0 else []
        for state in states:
            self.training_sums.add_sums(state["sums"], state["images"])
        for name, loss in self._losses():
            loss.load_training_state(self.restored["losses"][name])

    @override
    def on_train_epoch_end(self) -> None:
        self.finite_check.check_pending()
        terms, validation_terms = (sums.means(self._total) for sums in (self.training_sums, self.validation_sums))
        row = {
            "epoch": self.current_epoch + 1,
            "train_loss": sum(terms.values()),
            "val_loss": sum(validation_terms.values()) if validation_terms else None,
            "terms": terms,
            "learning_rate": max(group["lr"] for group in self.optimizers().param_groups),
        }
        self.history.append(row)
        self.training_sums, self.validation_sums = _Sums(), _Sums()
        self.log("train/loss", row["train_loss"])
        if validation_terms:
            self.log("val/loss", row["val_loss"])
        if self.trainer.is_global_zero:
            write_json(Path(self.config.out) / "history.json", self.history)
        validation = f", validation {row['val_loss']:.4f}" if validation_terms else ""
        log.info("epoch %d of %s: loss %.4f%s", row["epoch"], self.trainer.max_epochs, row["train_loss"], validation)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.finite_check.check_weights(self.global_step, self.task, self._files())
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
        self.restored = restored = checkpoint["pretext"]
        self.finite_check.checkpoint_step = checkpoint["global_step"]
        self.history = list(restored["history"])

    def _total(self, value: Tensor) -> Tensor:
        """Returns the sum of a value over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum"))

    def _files(self) -> list[str]:
        """Returns the names of the images in the last training batch, if its loader knows them."""
        loader = self.trainer.train_dataloader
        return loader.last_names() if isinstance(loader, Loader) else []

    def _losses(self) -> Iterator[tuple[str, Loss]]:
        return ((name, module) for name, module in self.task.named_modules() if isinstance(module, Loss))
