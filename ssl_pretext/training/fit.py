"""`fit`: pretrains a task in a run folder, and resumes it there."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise MissingDependencyError("fit() trains with Lightning: pip install 'ssl-pretext[train]'") from error

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.data.loader import BatchLoader
from ssl_pretext.data.stream_loader import StreamLoader
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import json_sha256, read_json, storage_errors, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.system.processes import on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.callbacks import callbacks, interruptible
from ssl_pretext.training.checkpoints import AtomicCheckpointIO, check_checkpoint
from ssl_pretext.training.config import TF32, FitConfig
from ssl_pretext.training.feature_check import check_features
from ssl_pretext.training.image_manifest import manifest_changes, write_manifest
from ssl_pretext.training.lightning_module import CHECKPOINT, PretextModule

__all__ = ["fit", "holds_run"]

FIT_FILE = "fit.json"


def fit(
    task: PretextTask, images: ImageStore | ImageStream, config: FitConfig, *, validation: ImageStore | None = None
) -> list[dict[str, Any]]:
    """Pretrains a task in place.

    Writes into `config.out`: `checkpoints/last.ckpt` (each epoch, every `checkpoint_minutes`, and on Ctrl-C),
    `logs/` for TensorBoard and as CSV, `fit.json` (the configuration), `history.json`, and at the end `task/` for
    `from_pretrained` and `health.json`, which tells whether its features have collapsed. A run that was killed and is
    started again with `resume=True` ends with the weights of one that was not. Under `torchrun` each process takes its
    share of every batch.

    Args:
        task: Trained in place.
        images: What it is trained on; no labels are read. Of a stream, what is measured before and after (priors of
            losses, health of features) is measured on its `sample()`.
        config: How.
        validation: Images for `val_loss`; nothing is chosen by it.

    Returns:
        A row `{"epoch", "train_loss", "val_loss", "terms"}` per epoch; `val_loss` is None without `validation`.

    Raises:
        ArgumentError: An argument is of another type; there are no images, no such device, or fewer images in a batch
            than processes; or the task's class could not load what would be saved.
        CheckpointError: `out` holds a run and `resume` is off, the run in it was another one, or of other images (the
            message says what changed), or its checkpoint is damaged.
        FolderInUseError: Another process trains in `out`.
        StorageError: `out` cannot be written to; the last checkpoint stays.
        NotFiniteError: A loss, or a weight, is NaN or infinite; no checkpoint holds it.
        KeyboardInterrupt: On Ctrl-C, once the step is done and the checkpoint is written.
    """
    _check_arguments(task, images, config)
    task.check_loadable()
    out = Path(config.out)
    world = rank_info().world
    if config.batch_size < world:
        raise ArgumentError(f"batch_size counts the images of all processes; {world} of them need at least {world}")
    with exclusive_lock(out, "checkpoints", "task"), _lightning_silent():
        return _fit(task, images, config, out, validation)


def _check_arguments(task: object, images: object, config: object) -> None:
    """Refuses what is easily handed over instead, such as a folder's name or a tensor."""
    if not isinstance(task, PretextTask):
        raise ArgumentError(f"fit() trains a task, such as create_task() makes, got {type(task).__name__}")
    if not isinstance(images, ImageStore | ImageStream):
        raise ArgumentError(
            f"fit() trains on an ImageStore or an ImageStream, got {type(images).__name__}; ImageStore.from_folder() "
            "reads a folder, ImageStore.from_arrays() takes a tensor or an array"
        )
    if not isinstance(config, FitConfig):
        raise ArgumentError(
            f"fit() takes a FitConfig, such as FitConfig(out='runs/first'), got {type(config).__name__}"
        )
    if len(images) == 0:
        raise ArgumentError("fit() got an image store without images")
    resolve_device(config.device, "FitConfig.device")


def _fit(
    task: PretextTask,
    images: ImageStore | ImageStream,
    config: FitConfig,
    out: Path,
    validation: ImageStore | None,
) -> list[dict[str, Any]]:
    _, world, local = rank_info()
    checkpoint = on_rank_zero("fit", lambda: _prepare(out, config, images, task))
    task.trained_on = TrainedOn(image_size=images.image_size, resize=images.resize)
    few = images.sample() if isinstance(images, ImageStream) else images
    if checkpoint is None:  # else it brings what was measured along
        task.prepare(few)
    module = PretextModule(task, config)
    trainer = pl.Trainer(
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        strategy="ddp" if world > 1 else "auto",
        devices=local,
        num_nodes=world // local,
        precision="32-true" if config.precision == TF32 else config.precision,
        max_epochs=config.epochs,
        logger=[TensorBoardLogger(out, "logs", "tensorboard"), CSVLogger(out, "logs", _part(out / "logs"))],
        callbacks=callbacks(images, out, config, alone=world == 1),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1 if len(images) <= 49 * config.batch_size else 10,
    )
    device = trainer.strategy.root_device
    loader: Any = StreamLoader if isinstance(images, ImageStream) else BatchLoader
    training = loader(images, config.batch_size, seed=config.seed, augment=config.augment, device=device)
    validating = None if validation is None else BatchLoader(validation, config.batch_size, seed=None, device=device)
    on_processor = keep_freed_memory() if device.type == "cpu" else nullcontext()
    switches = _switches(config.precision, device)
    with warnings.catch_warnings(), on_processor, switches, interruptible(), storage_errors(out):
        # Advice on loader workers and validation loops, which does not apply here.
        warnings.filterwarnings("ignore", module="lightning")
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # torch.compile's look
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # of 1×1 convolutions
        trainer.fit(module, training, validating, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    settings = {"images": len(images), "sha256": images.sha256, **config.fingerprint()}
    task.trained_on = replace(task.trained_on, settings=settings)
    on_rank_zero("fit", lambda: _finish(task, few, out, device))
    task.to("cpu")
    return module.history


def _finish(task: PretextTask, images: ImageStore, out: Path, device: torch.device) -> None:
    task.save_pretrained(out / "task")
    check_features(task, images, out, device)


def holds_run(out: Path) -> bool:
    """Whether a run in this folder got as far as a checkpoint: one that failed before has nothing to lose."""
    return (out / FIT_FILE).exists() and ((out / CHECKPOINT).exists() or (out / "task").exists())


def _prepare(out: Path, config: FitConfig, images: ImageStore | ImageStream, task: PretextTask) -> Path | None:
    """Checks the folder against the configuration; returns the checkpoint to go on from."""
    identity = config.fingerprint() | {"images": images.sha256, "image_size": str(images.image_size)}
    identity["task"] = json_sha256([task.name, task.options()])  # other losses may have the same weights
    written, checkpoint = out / FIT_FILE, out / CHECKPOINT
    if holds_run(out):
        if not config.resume:
            raise CheckpointError(f"{out} holds another pretraining run; pass resume=True or choose another folder")
        before = read_json(written)
        if not isinstance(before, dict):
            raise CheckpointError(f"{written} does not hold the settings of a run; it may be damaged")
        differing = [key for key, value in before.items() if identity.get(key) != value]
        if differing == ["images"]:
            raise CheckpointError(
                f"the images are not those that the run in {out} was started with: {manifest_changes(out, images)}. "
                "Restore them to resume the run, or start in another folder"
            )
        if differing:
            raise CheckpointError(
                f"the run in {out} had other settings ({', '.join(differing)}); resume it with the same ones, or "
                "start in another folder"
            )
    else:
        write_manifest(out, images)
    write_json(written, identity)  # last: with it the folder holds a run
    if not checkpoint.exists():
        return None
    check_checkpoint(checkpoint)
    return checkpoint


def _part(logs: Path) -> str:
    """A folder for the CSV file of each time that a run is started or resumed; Lightning removes one that is there."""
    before = len(list(logs.glob("csv*")))
    return f"csv-{before + 1}" if before else "csv"


@contextmanager
def _lightning_silent() -> Iterator[None]:
    """Without what it says of each trainer: devices that are there or not, and products of its makers."""
    talker = logging.getLogger("lightning.pytorch")
    level = talker.level
    talker.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        talker.setLevel(level)


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
