"""Callbacks of a run: its checkpoints, the list of unreadable images, and a time estimate."""

import logging
import math
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar

from ssl_pretext.data import ImageStream
from ssl_pretext.system.console import describe_duration, in_notebook
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.processes import gather_from_all
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.image_manifest import Images
from ssl_pretext.training.trainer import is_resumable

__all__ = ["callbacks"]

log = logging.getLogger(__name__)

TIMED_STEPS = 10  # steps that the time estimate is computed from, after one step of warm-up


def callbacks(images: Images, out: Path, config: FitConfig, others: Sequence[Callback]) -> list[Callback]:
    """Returns the callbacks of a run, without the one that stops it; `others` are those that the caller adds."""
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        *([] if config.max_steps is None else [_StopAfterSteps(config.max_steps)]),
        _TimeEstimate(),
        # Both write the same file, because a run resumes from last.ckpt.
        _LastCheckpoint(folder, filename="last", every_n_epochs=1, save_on_train_epoch_end=True),
        _LastCheckpoint(folder, filename="last", train_time_interval=timedelta(minutes=config.checkpoint_minutes)),
    ]
    if isinstance(images, ImageStream):
        callbacks.append(_SkippedImages(images, out / "skipped.json"))
    if (sys.stderr.isatty() or in_notebook()) and not any(isinstance(callback, ProgressBar) for callback in others):
        callbacks.append(TQDMProgressBar())
    return [*callbacks, *others]


class _StopAfterSteps(Callback):
    """Ends a run after a number of optimizer steps, with the end of an epoch.

    The option `max_steps` of Lightning's Trainer is not used, because a run that has it resumes from the end of an
    epoch by ending that epoch once more.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.max_steps  # if a run that has ended is resumed

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.max_steps


class _LastCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that overwrites its file instead of adding a numbered version of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, save_top_k=1, enable_version_counter=False, **options)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}{self._train_time_interval}"

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if is_resumable(trainer, arguments[-1]):
            super().on_train_batch_end(trainer, *arguments)


class _SkippedImages(Callback):
    """Writes a file after each epoch that lists the unreadable images of a stream, including those found before."""

    def __init__(self, images: ImageStream, file: Path) -> None:
        self.images, self.file = images, file

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        found = chain.from_iterable(gather_from_all(self.images.skipped))
        if trainer.is_global_zero:
            before = read_json(self.file) if self.file.exists() else []
            by_name = {image["name"]: image for image in [*before, *found]}
            write_json(self.file, [by_name[name] for name in sorted(by_name)])
            if len(by_name) > len(before):
                log.warning("unreadable and skipped so far: %d, see %s", len(by_name), self.file)


class _TimeEstimate(Callback):
    """Logs after the first steps how long the run will take and how much memory it uses."""

    def __init__(self) -> None:
        self.start: float | None = None
        self.first_step = 0
        self.logged = False

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *arguments: Any) -> None:
        if self.logged or (arguments[-1] + 1) % trainer.accumulate_grad_batches:
            return
        steps = trainer.global_step - self.first_step
        if self.start is None:
            self.start, self.first_step = time.perf_counter(), trainer.global_step
        elif steps >= TIMED_STEPS:
            self.logged = True
            if torch.cuda.is_available() and trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
                memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory"
            else:
                memory = f"{_peak_memory():.1f} GiB of memory"
            seconds = (time.perf_counter() - self.start) / steps
            left = module.total_steps - trainer.global_step
            if left == math.inf:
                log.info("%.2f s per step; %s used so far", seconds, memory)
            else:
                log.info(
                    "%d steps left at %.2f s each, about %s; %s used so far",
                    left,
                    seconds,
                    describe_duration(left * seconds),
                    memory,
                )


def _peak_memory() -> float:
    """The largest amount of memory in GiB that this process has used at one time."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
