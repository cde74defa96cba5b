"""The function `fit`, which pretrains a task in an output folder and resumes an interrupted run there."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingDependencyError

try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
except ImportError as error:
    raise MissingDependencyError(
        "fit() needs Lightning, which is not installed: pip install 'ssl-pretext[train]'"
    ) from error

from ssl_pretext.augment import Augment, Augmentation, PerImage, create_augmentation
from ssl_pretext.data import ImageStore, ImageStream, as_store
from ssl_pretext.data.convert import as_training_images
from ssl_pretext.data.loader import BatchLoader, Loader
from ssl_pretext.data.sample_stream import SampleLoader, SampleStream
from ssl_pretext.data.stream_loader import StreamLoader
from ssl_pretext.system.compute_format import AUTO, CONTIGUOUS, ComputeFormat, set_memory_format
from ssl_pretext.system.console import progress_on_screen
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import json_sha256, read_json, storage_errors, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.malloc import keep_freed_memory
from ssl_pretext.system.processes import check_launcher, on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.tasks.checkpoint import AVERAGED
from ssl_pretext.training.callbacks import callbacks as run_callbacks
from ssl_pretext.training.checkpoints import check_checkpoint
from ssl_pretext.training.compute_format import choose_format
from ssl_pretext.training.config import DOUBLE, HALF_MIXED, FitConfig
from ssl_pretext.training.feature_check import check_features
from ssl_pretext.training.image_manifest import Images, manifest_changes, write_manifest
from ssl_pretext.training.lightning_module import CHECKPOINT, PretextModule
from ssl_pretext.training.loggers import check_loggers, create_loggers
from ssl_pretext.training.modes import set_train_mode
from ssl_pretext.training.optimization import check_optimization, gradient_checkpointing
from ssl_pretext.training.page_callbacks import PagePart, RunPage
from ssl_pretext.training.stopping import StopOnSignal
from ssl_pretext.training.trainer import create_trainer, lightning_settings, torch_settings, unused_parameters

__all__ = ["check_no_stray_checkpoint", "check_request", "fit", "holds_run"]

FIT_FILE = "fit.json"
RAISING = (
    ". Only a run with schedule='constant', warmup=0 and no max_steps can be given more epochs, because other learning "
    "rates depend on the number of steps from the start; initialize_from() starts a new run from the trained weights"
)


def fit(
    task: PretextTask,
    images: Any,
    config: FitConfig,
    *,
    validation: Any = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str | Logger] = ("tensorboard", "csv"),
) -> list[dict[str, Any]]:
    """Pretrains a task in place, and writes checkpoints, logs and the trained task to the output folder.

    The folder `config.out` then holds `checkpoints/last.ckpt` (written after each epoch, every `checkpoint_minutes`,
    and on a signal), `logs/` (for TensorBoard and as CSV), `fit.json` (the settings), `images.json` and
    `hashes.safetensors` (the images),
    `history.json`, `report.html` (losses and examples, written after each epoch), `task/` (for
    `PretextTask.from_pretrained`) and `health.json` (whether the features have collapsed).
    With `config.ema_decay`, `task-ema/` is the task with the averaged weights.
    A run that was killed and is resumed with `resume=True` ends with the same weights as a run that was not. Under
    `torchrun`, each batch is divided among the processes.

    The estimated time and a line per epoch are shown on the screen, in a terminal and in a notebook beside a progress
    bar, unless the caller's logging shows them. `logging.getLogger("ssl_pretext").setLevel("WARNING")` hides the lines.

    The task is trained in train mode, in whatever mode it is given, and is in eval mode afterward. Frozen parts stay in
    eval mode: those that are in eval mode, have parameters, and have none that requires gradients.

    Ctrl-C and SIGTERM, and in a job of Slurm also SIGUSR1 and SIGUSR2, end the run after the current step with a
    checkpoint, if `fit` is called in the main thread.

    Args:
        task: The task to train. Its weights are changed in place.
        images: Training images; their labels are not used. They are an `ImageStore`, an `ImageStream`, a dataset or a
            loader of PyTorch or Hugging Face, or `Samples` of one with other keys. An indexed dataset is read once into
            a store (`ImageStore.from_dataset`), which freezes random transforms. A DataLoader and an iterable dataset
            are read again in each epoch; the batches of a DataLoader are used as they are, whatever
            `config.batch_size` is. A run with one of them can be resumed, but not exactly, because their order is
            unknown. For all that is not stored, statistics that are measured before and after training (centers
            and scales of bands, priors of losses, health of features) are computed on the first 2,048 images.
        config: Configuration of the run.
        validation: Images to compute `val_loss` on: an `ImageStore`, or a dataset or a loader, which is stored. They do
            not influence the training.
        augment: A transform from elsewhere instead of `config.augment`, such as one of torchvision or kornia: a
            function from an image `(C, H, W)` of floats to one of the same shape. It is called for each image, with
            its own seed, so that a resumed run gets the same images.
        callbacks: Callbacks of Lightning, which run after those of the library.
        loggers: Names `"tensorboard"`, `"csv"`, `"wandb"` or `"mlflow"`, or loggers of Lightning.

    Returns:
        One row `{"epoch", "train_loss", "val_loss", "terms", "learning_rate"}` per epoch; `val_loss` is None without
        `validation`, and the learning rate is that after the epoch.

    Raises:
        ArgumentError: An argument has the wrong type; there are no images; the device is not available; `batch_size`
            is smaller than the number of processes; the saved task could not be loaded again; the optimizer, the
            schedule or the encoder does not support what `config` asks for; or another launcher than `torchrun` has
            started several processes.
        UnknownNameError: There is no optimizer or logger of this name.
        MissingDependencyError: The library of a logger is not installed.
        CheckpointError: `out` contains a run and `resume` is off; the run in it has other settings or other images (the
            message says what changed); or its checkpoint is damaged.
        FolderInUseError: Another process is training in `out`.
        StorageError: `out` cannot be written to. The last checkpoint is not affected.
        NotFiniteError: A loss or a weight is NaN or infinite. No checkpoint contains it.
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: Another signal was received. Unless this exception is caught, the process ends with the exit code
            128 plus the number of the signal.
    """
    check_launcher()
    check_request(task, config, augment=augment, callbacks=callbacks, loggers=loggers)
    augmentation = _augmentation(task, config, augment)
    images = as_training_images(images)
    if not isinstance(images, SampleStream) and len(images) == 0:
        raise ArgumentError(f"fit() needs at least one image, got an empty {type(images).__name__}")
    validation = None if validation is None else as_store(validation, target=None)
    if isinstance(images, SampleStream) and images.num_batches is None and config.max_steps is None:
        check_optimization(task, config, steps_known=False)
    out = Path(config.out)
    world = rank_info().world
    if config.batch_size < world:
        raise ArgumentError(
            f"FitConfig.batch_size is the total over all processes; for {world} processes it must be at least {world}, "
            f"got {config.batch_size}"
        )
    with progress_on_screen(), exclusive_lock(out, "checkpoints", "task"), lightning_settings():
        return _fit(task, images, config, out, validation, augmentation, callbacks, loggers)


def check_request(
    task: PretextTask,
    config: FitConfig,
    *,
    augment: Callable[[Tensor], Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str | Logger] = (),
) -> None:
    """Checks all arguments of `fit` but the images. The command `pretrain` calls it before it writes its first file.

    The arguments and errors are those of `fit`.
    """
    if not isinstance(task, PretextTask):
        raise ArgumentError(f"fit() needs a pretext task, such as create_task() returns, got {type(task).__name__}")
    if not isinstance(config, FitConfig):
        raise ArgumentError(
            f"fit() needs a FitConfig as config, such as FitConfig(out='runs/first'), got {type(config).__name__}"
        )
    device = resolve_device(config.device, "FitConfig.device")
    if ":" in device and rank_info().world > 1:
        raise ArgumentError(
            f"FitConfig.device is {device!r}, but torchrun gives each process a GPU of its own; use 'cuda'"
        )
    if config.precision == HALF_MIXED and device == "cpu":
        raise ArgumentError(f"FitConfig.precision {HALF_MIXED!r} needs a GPU; use 'bf16-mixed' on a CPU")
    if isinstance(callbacks, Callback) or any(not isinstance(callback, Callback) for callback in callbacks):
        raise ArgumentError(f"fit() needs a list of Lightning's callbacks as callbacks, got {callbacks!r}")
    check_loggers(loggers)
    task.check_loadable()
    _augmentation(task, config, augment)
    check_optimization(task, config, steps_known=True)


def _total_steps(batches: Loader[Any], config: FitConfig) -> float:
    """The number of optimizer steps of the run; infinity if it is unknown."""
    most = math.inf if config.max_steps is None else config.max_steps
    if isinstance(batches, SampleLoader) and batches.images.num_batches is None:
        return most
    return min(most, config.epochs * -(-len(batches) // config.accumulate))


def _augmentation(
    task: PretextTask, config: FitConfig, transform: Callable[[Tensor], Tensor] | None
) -> Augmentation | PerImage | None:
    """Creates the augmentation of a run; None if images are not augmented."""
    if transform is None:
        spec = task.default_augmentation if config.augment is None else config.augment
        augmentation = create_augmentation(spec, photos=task.image_space.is_color)
        return augmentation if augmentation.steps else None
    if config.augment is not None:
        raise ArgumentError("fit() got two augmentations, in FitConfig.augment and as augment; pass one of them")
    return transform if isinstance(transform, Augmentation) else PerImage(transform)


def _fit(
    task: PretextTask,
    images: Images,
    config: FitConfig,
    out: Path,
    validation: ImageStore | None,
    augment: Augment | None,
    callbacks: Sequence[Callback],
    loggers: Sequence[str | Logger],
) -> list[dict[str, Any]]:
    sample = images if isinstance(images, ImageStore) else images.sample()
    task.measure(sample)  # also in a resumed run, whose images are the same; what is measured belongs to its identity
    config = _with_format(task, sample, config, out)
    checkpoint = on_rank_zero("fit", lambda: _prepare(out, config, images, task, augment))
    task.trained_on = replace(task.trained_on, image_size=images.image_size, resize=images.resize, settings=None)
    if checkpoint is None:  # a checkpoint already contains these statistics
        task.prepare(sample)
    set_memory_format(task, config.memory_format)
    stop = StopOnSignal(out / CHECKPOINT)
    number = None if isinstance(images, SampleStream) else len(images)
    parts = [callback for callback in callbacks if isinstance(callback, PagePart)]
    page = RunPage(sample if validation is None else validation, number, config, parts)
    trainer = create_trainer(
        out,
        config,
        [*run_callbacks(images, out, config, callbacks), page, stop],
        create_loggers(loggers, out),
        num_images=number,
        all_used=_all_used(task, sample),
    )
    for logger in trainer.loggers:
        logger.log_hyperparams({"task": task.name, "encoder": task.encoder_name, **config.fingerprint()})
    device = trainer.strategy.root_device
    loader_type: Any = {ImageStream: StreamLoader, SampleStream: SampleLoader}.get(type(images), BatchLoader)
    training_batches = loader_type(
        images, config.batch_size, seed=config.seed, augment=augment, views=task.num_views, device=device
    )
    module = PretextModule(task, config, total_steps=_total_steps(training_batches, config))
    validation_batches = (
        None
        if validation is None
        else BatchLoader(
            validation,
            config.batch_size,
            seed=None,
            augment=augment if task.num_views > 1 else None,
            views=task.num_views,
            device=device,
        )
    )
    memory = keep_freed_memory() if device.type == "cpu" else nullcontext()
    recomputing = gradient_checkpointing(task) if config.gradient_checkpointing else nullcontext()
    with memory, recomputing, torch_settings(config.precision, device), stop.handling_signals(), storage_errors(out):
        set_train_mode(task)
        try:
            trainer.fit(
                module,
                training_batches,
                validation_batches,
                ckpt_path=str(checkpoint) if checkpoint else None,
                weights_only=True,
            )
        finally:
            module.eval()
            set_memory_format(module, CONTIGUOUS)
            if config.precision == DOUBLE:
                module.float()
    run_settings = {"images": training_batches.images_per_epoch, "sha256": images.sha256, **config.fingerprint()}
    run_settings["augment"] = repr(augment)
    task.trained_on = replace(task.trained_on, settings=run_settings)
    on_rank_zero("fit", lambda: _finish(task, module.average, sample, out, device))
    task.to("cpu")
    return module.history


def _with_format(task: PretextTask, images: ImageStore, config: FitConfig, out: Path) -> FitConfig:
    """Replaces `"auto"` by what the run in the folder was started with, or else by what is fastest."""
    if AUTO not in (config.precision, config.memory_format):
        return config

    def choose() -> dict[str, Any]:
        names = [name for name in ComputeFormat._fields if getattr(config, name) == AUTO]
        before = read_json(out / FIT_FILE) if config.resume and holds_run(out) else None
        if isinstance(before, dict) and before.keys() >= {*names}:
            return {name: before[name] for name in names}
        device = torch.device(resolve_device(config.device, "FitConfig.device"))
        with keep_freed_memory() if device.type == "cpu" else nullcontext():
            chosen = choose_format(
                task,
                images,
                batch_size=max(1, config.batch_size // rank_info().world),
                device=device,
                precision=config.precision,
                memory_format=config.memory_format,
            )
        return chosen._asdict()

    return replace(config, **on_rank_zero("format", choose))


def _all_used(task: PretextTask, images: ImageStore) -> bool:
    """Whether all trained parameters get gradients; asked only of several processes, which would wait for them."""
    few = range(min(2, len(images)))
    return rank_info().world == 1 or on_rank_zero("fit", lambda: not unused_parameters(task, images.images(few)))


def _finish(
    task: PretextTask, average: AveragedModel | None, images: ImageStore, out: Path, device: torch.device
) -> None:
    task.save_pretrained(out / "task")
    if average is not None:
        averaged = cast(PretextTask, average.module)
        averaged.trained_on = task.trained_on
        averaged.save_pretrained(out / AVERAGED)
    check_features(task, images, out, device)


def holds_run(out: Path) -> bool:
    """Whether a folder holds a run with a checkpoint or a trained task; a run that failed before may be overwritten."""
    return (out / FIT_FILE).exists() and ((out / CHECKPOINT).exists() or (out / "task").exists())


def check_no_stray_checkpoint(out: Path) -> None:
    """Raises if a folder has a checkpoint without the file that says which run it belongs to.

    Raises:
        CheckpointError: There is such a checkpoint.
    """
    if (out / CHECKPOINT).exists() and not (out / FIT_FILE).exists():
        raise CheckpointError(
            f"{out} has a checkpoint, {CHECKPOINT}, but no {FIT_FILE}, which says which run it belongs to, so that it "
            f"cannot be resumed; restore {FIT_FILE}, remove the checkpoint, or choose another folder"
        )


def _prepare(out: Path, config: FitConfig, images: Images, task: PretextTask, augment: Augment | None) -> Path | None:
    """Checks that the folder is free or holds this run; returns the checkpoint to resume from, if there is one."""
    identity = config.fingerprint() | {"images": images.sha256, "image_size": str(images.image_size)}
    identity["augment"] = repr(augment)
    # Tasks with other losses, or with bands of another center and scale, may have the same weights.
    spaces = [space.describe() for space in task.channel_spaces()]
    if task.trained_on.initialized_from is not None:
        identity["initialized_from"] = task.trained_on.initialized_from
    identity["task"] = json_sha256([task.name, task.options(), spaces])
    written, checkpoint = out / FIT_FILE, out / CHECKPOINT
    check_no_stray_checkpoint(out)
    if holds_run(out):
        if not config.resume:
            raise CheckpointError(
                f"{out} holds another pretraining run; pass resume=True to resume it, or choose another folder"
            )
        before = read_json(written)
        if not isinstance(before, dict):
            raise CheckpointError(f"{written} does not hold the settings of a run; it may be damaged")
        differing = [key for key in {**before, **identity} if identity.get(key) != before.get(key)]
        if "epochs" in differing and config.can_extend(before["epochs"]):
            differing.remove("epochs")
        if differing == ["images"]:
            raise CheckpointError(
                f"the images are not those that the run in {out} was started with: {manifest_changes(out, images)}. "
                "Restore them to resume the run, or start in another folder"
            )
        if differing:
            raise CheckpointError(
                f"the run in {out} was started with other settings ({', '.join(differing)}); resume it with the same "
                f"settings, or start in another folder{RAISING * ('epochs' in differing)}"
            )
    else:
        write_manifest(out, images)
    write_json(written, identity)  # after the manifest, because this file marks the folder as that of a run
    if not checkpoint.exists():
        return None
    check_checkpoint(checkpoint)
    return checkpoint
