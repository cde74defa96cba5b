"""`fit`: pretraining on Lightning. The only file that knows Lightning."""

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.config import read_json, write_json
from ssl_pretext.data import ImageStore
from ssl_pretext.data.batches import BatchLoader
from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssl_pretext.fitting import TF32, FitConfig
from ssl_pretext.losses import Loss
from ssl_pretext.tasks import PretextTask

try:
    import lightning.pytorch as pl
    from lightning.fabric.utilities.warnings import PossibleUserWarning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
except ImportError as error:
    raise MissingDependencyError("fit() trains with Lightning: pip install 'ssl-pretext[train]'") from error

__all__ = ["fit"]

log = logging.getLogger(__name__)

ESTIMATE_AFTER = 10  # steps that the time estimate is taken from, after one of warm-up


def fit(
    task: PretextTask, images: ImageStore, config: FitConfig, *, validation: ImageStore | None = None
) -> list[dict[str, Any]]:
    """Pretrains a task in place.

    Writes into `config.out`: `checkpoints/last.ckpt` (each epoch, every `checkpoint_minutes`, and on Ctrl-C),
    `logs/` for TensorBoard and as CSV, `fit.json` (the configuration), `history.json`, and at the end `task/` for
    `from_pretrained`. A run that was killed and is started again with `resume=True` ends with the weights of one that
    was not. Under `torchrun` each process takes its share of every batch.

    Args:
        task: Trained in place.
        images: What it is trained on; no labels are read.
        config: How.
        validation: Images for `val_loss`; nothing is chosen by it.

    Returns:
        A row `{"epoch", "train_loss", "val_loss", "terms"}` per epoch; `val_loss` is None without `validation`.

    Raises:
        ArgumentError: There are no images.
        CheckpointError: `out` holds a run and `resume` is off, or the run in it was another one.
        KeyboardInterrupt: On Ctrl-C, once the step is done and the checkpoint is written.
    """
    if len(images) == 0:
        raise ArgumentError("fit() got an image store without images")
    out = Path(config.out)
    checkpoint = _prepare(out, config, images)
    task.image_size, task.resize = images.image_size, images.resize
    if checkpoint is None:  # else it brings what was measured along
        task.prepare(images)
    module = _Module(task, config)
    trainer = pl.Trainer(
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        precision="32-true" if config.precision == TF32 else config.precision,
        max_epochs=config.epochs,
        logger=[TensorBoardLogger(out, "logs", "tensorboard"), CSVLogger(out, "logs", "csv")],
        callbacks=_callbacks(out, config),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1 if len(images) <= 49 * config.batch_size else 10,
    )
    device = trainer.strategy.root_device
    training = BatchLoader(images, config.batch_size, seed=config.seed, augment=config.augment, device=device)
    validating = None if validation is None else BatchLoader(validation, config.batch_size, seed=None, device=device)
    with warnings.catch_warnings(), _switches(config.precision, device), _interruptible():
        # Advice on loader workers and validation loops, which does not apply here.
        warnings.filterwarnings("ignore", module="lightning")
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # torch.compile's look
        trainer.fit(module, training, validating, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    if trainer.is_global_zero:
        task.save_pretrained(out / "task")
    task.to("cpu")
    return module.history


def _prepare(out: Path, config: FitConfig, images: ImageStore) -> Path | None:
    """Checks the folder against the configuration; returns the checkpoint to go on from."""
    identity = config.fingerprint() | {"images": images.sha256, "image_size": str(images.image_size)}
    written, checkpoint = out / "fit.json", out / "checkpoints" / "last.ckpt"
    if written.exists():
        if not config.resume:
            raise CheckpointError(f"{out} holds another pretraining run; pass resume=True or choose another folder")
        before = {"augment": False} | read_json(written)  # older runs had no choice
        if differing := [key for key, value in before.items() if identity.get(key) != value]:
            raise CheckpointError(
                f"the run in {out} had other settings ({', '.join(differing)}); resume it with the same ones, or "
                "start in another folder"
            )
    write_json(written, identity)
    return checkpoint if checkpoint.exists() else None


@contextmanager
def _switches(precision: str, device: torch.device) -> Iterator[None]:
    """PyTorch's global switches for the length of a run."""
    benchmark = torch.backends.cudnn.benchmark
    products = torch.get_float32_matmul_precision() if precision == TF32 else None
    try:
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches are of one size, and a last one
        if products:
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if products:
            torch.set_float32_matmul_precision(products)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C reaches the caller as it does elsewhere; Lightning ends the process instead, deaf to any further one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from error


def _callbacks(out: Path, config: FitConfig) -> list[Callback]:
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        _Narrator(),
        # One file, overwritten: "last" is what a resumed run asks for.
        _LastCheckpoint(folder, filename="last", every_n_epochs=1, save_on_train_epoch_end=True),
        _LastCheckpoint(folder, filename="last", train_time_interval=timedelta(minutes=config.checkpoint_minutes)),
        _Interruption(folder / "last.ckpt"),
    ]
    return [*callbacks, TQDMProgressBar()] if sys.stderr.isatty() else callbacks


class _LastCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose file is replaced at once, and not numbered beside an older one."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, save_top_k=1, enable_version_counter=False, **options)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}{self._train_time_interval}"


class _Interruption(Callback):
    """Ends a run on Ctrl-C between two steps, where its state is whole, with a checkpoint of it.

    Lightning's own OnExceptionCheckpoint saves in the middle of a step, and resumes without being asked.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked = checkpoint, False
        self.previous: Any = None

    def on_fit_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._ask)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None

    def _ask(self, *_: Any) -> None:
        if self.asked:  # the second Ctrl-C does not wait for the step
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked:
            trainer.save_checkpoint(self.checkpoint)
            log.info("interrupted after step %d; resume goes on from there", trainer.global_step)
            raise KeyboardInterrupt

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.asked:  # the checkpoint before the validation stands
            raise KeyboardInterrupt


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


class _Module(pl.LightningModule):
    """The task with its optimiser, its history and the random state that a checkpoint must carry."""

    def __init__(self, task: PretextTask, config: FitConfig) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.history: list[dict[str, Any]] = []
        self.networks = _Networks(task.networks() if config.compile else [])
        self.saved: dict[str, Any] | None = None
        self.training_sums, self.validation_sums = _Sums(), _Sums()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.task.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def training_step(self, images: Tensor, _index: int) -> Tensor:
        with self.networks:
            output = self.task(images)
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
        checkpoint["pretext"] = {
            "history": self.history,
            "sums": (dict(self.training_sums.values), self.training_sums.images),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "losses": {name: loss.training_state() for name, loss in self._losses()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = saved = checkpoint["pretext"]
        self.history = list(saved["history"])
        self.training_sums = _Sums(dict(saved["sums"][0]), saved["sums"][1])

    def _losses(self) -> Iterator[tuple[str, Loss]]:
        return ((name, part) for name, part in self.task.named_modules() if isinstance(part, Loss))


class _Narrator(Callback):
    """Says after the first steps how long the run will take and how much memory it needs."""

    def __init__(self) -> None:
        self.begun: float | None = None
        self.first = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.begun is None:
            self.begun, self.first = time.perf_counter(), trainer.global_step
        elif trainer.global_step == self.first + ESTIMATE_AFTER:
            if torch.cuda.is_available() and trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
                memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory"
            else:
                memory = f"{_peak_resident():.1f} GiB of memory"
            seconds = (time.perf_counter() - self.begun) / ESTIMATE_AFTER
            steps = trainer.estimated_stepping_batches - trainer.global_step
            log.info(
                "%d steps to go at %.2f s each: about %s; %s so far", steps, seconds, _duration(steps * seconds), memory
            )


def _peak_resident() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
