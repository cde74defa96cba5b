"""The Trainer of Lightning that a run uses, and the settings of Lightning and PyTorch during a run."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.system.processes import rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.checkpoints import AtomicCheckpointIO
from ssl_pretext.training.config import TF32, FitConfig

__all__ = ["create_trainer", "is_resumable", "lightning_settings", "torch_settings", "unused_parameters"]


def create_trainer(
    out: Path,
    config: FitConfig,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    *,
    num_images: int | None,
    all_used: bool,
) -> pl.Trainer:
    """Creates the Trainer of a run.

    Args:
        out: Folder of the run.
        config: Configuration of the run.
        callbacks: Callbacks of the run.
        loggers: Loggers of the run.
        num_images: Number of training images, or None if it is unknown.
        all_used: Whether all trained parameters get gradients; see `unused_parameters`.
    """
    _, world, local = rank_info()
    kind, _, number = config.device.partition(":")
    automatic = config.strategy == "auto"
    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        strategy=DDPStrategy(find_unused_parameters=not all_used) if world > 1 and automatic else config.strategy,
        devices=[int(number)] if number else local,
        num_nodes=world // local,
        precision="32-true" if config.precision == TF32 else config.precision,
        max_epochs=config.epochs,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm or None,
        logger=list(loggers),
        callbacks=list(callbacks),
        # Lightning would otherwise take its processes from the variables of Slurm and of other launchers, and save
        # and resume at the signals of Slurm in its own way.
        plugins=[AtomicCheckpointIO(), TorchElasticEnvironment() if world > 1 else LightningEnvironment()],
        # In a job of Slurm, Lightning resumes from a file hpc_ckpt_*.ckpt in this folder without being asked, so it is
        # one that does not exist. Nothing is written to it.
        default_root_dir=out / "none",
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10 if num_images is None or num_images > 49 * config.batch_size else 1,
    )


def is_resumable(trainer: pl.Trainer, batch: int) -> bool:
    """Whether a run that resumes from a checkpoint after this batch ends like one that was not interrupted.

    That is so between two optimizer steps, because a checkpoint holds no gradients. From a checkpoint after the last
    batch of an epoch or of the run, Lightning would skip the end of the epoch, which saves a checkpoint anyway.

    Args:
        trainer: The Trainer of the run.
        batch: Index of the batch in its epoch.
    """
    is_last = trainer.is_last_batch or trainer.should_stop
    return not is_last and (batch + 1) % trainer.accumulate_grad_batches == 0


def unused_parameters(task: PretextTask, images: Tensor) -> list[str]:
    """Returns the names of the trained parameters that get no gradient, such as those of a head that is not used.

    Several processes would wait for these gradients. The loss is computed in eval mode, and neither gradients nor the
    random state change.

    Args:
        task: The task.
        images: A batch of images to compute the loss on.
    """
    trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    if not trained:
        return []
    device = next(iter(trained.values())).device
    with eval_mode(task), torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        loss = task(task.repeat_as_views(images).to(device)).loss
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]


@contextmanager
def lightning_settings() -> Iterator[None]:
    """Hides what Lightning logs and warns of in the block, and makes it log in the first process of the run.

    It logs about devices that it does not use and advertises products. It warns of loader workers and validation loops,
    which does not apply to the loaders of this library. Its loggers write in the process whose rank is 0, and it reads
    the rank from `RANK`, `SLURM_PROCID` and others, which also other programs set.
    """
    logger, rank = logging.getLogger("lightning.pytorch"), rank_zero_only.rank
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    rank_zero_only.rank = rank_info().rank
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.simplefilter("ignore", PossibleUserWarning)
            yield
    finally:
        logger.setLevel(level)
        rank_zero_only.rank = rank


@contextmanager
def torch_settings(precision: str, device: torch.device) -> Iterator[None]:
    """Changes PyTorch's global settings during a run, and restores them afterward."""
    benchmark = torch.backends.cudnn.benchmark
    matmul_precision = torch.get_float32_matmul_precision() if precision == TF32 else None
    try:
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # pays off because all batches but the last have one size
        if matmul_precision:
            torch.set_float32_matmul_precision("high")
        with warnings.catch_warnings():
            # From torch.compile, and from the gradients of 1×1 convolutions in several processes.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if matmul_precision:
            torch.set_float32_matmul_precision(matmul_precision)
