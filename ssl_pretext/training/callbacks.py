"""What happens between the steps of a run: its checkpoint, Ctrl-C, and how long it will take."""

import _thread
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.processes import gather_from_all
from ssl_pretext.training.config import FitConfig

__all__ = ["callbacks", "interruptible"]

log = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds that Ctrl-C waits for the end of a step
ESTIMATE_AFTER = 10  # steps that the time estimate is taken from, after one of warm-up


def callbacks(images: ImageStore | ImageStream, out: Path, config: FitConfig, *, alone: bool) -> list[Callback]:
    """The callbacks of a run, of one process `alone` or of one among several."""
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        _Narrator(),
        # One file, overwritten: "last" is what a resumed run asks for.
        _LastCheckpoint(folder, filename="last", every_n_epochs=1, save_on_train_epoch_end=True),
        _LastCheckpoint(folder, filename="last", train_time_interval=timedelta(minutes=config.checkpoint_minutes)),
    ]
    if isinstance(images, ImageStream):
        callbacks.append(_Skipped(images, out / "skipped.json"))
    if alone:  # several would stop at different steps, and each wait for the others to save
        callbacks.append(_Interruption(folder / "last.ckpt"))
    return [*callbacks, TQDMProgressBar()] if sys.stderr.isatty() else callbacks


class _LastCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint whose file is replaced at once, and not numbered beside an older one."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, save_top_k=1, enable_version_counter=False, **options)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}{self._train_time_interval}"

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        # From after the last batch Lightning goes on with the next epoch, and leaves out what ends this one.
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


class _Interruption(Callback):
    """Ends a run on Ctrl-C between two steps, where its state is whole, with a checkpoint of it.

    A step that takes longer than `PATIENCE` is given up; the checkpoint before it stands. Lightning's own
    OnExceptionCheckpoint saves in the middle of a step, and resumes without being asked.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.asked, self.done = checkpoint, False, False
        self.late = threading.Timer(PATIENCE, _thread.interrupt_main)  # as by a second Ctrl-C
        self.late.daemon = True

    def on_fit_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._ask)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.late.cancel()

    def _ask(self, *_: Any) -> None:
        if self.asked:  # the second Ctrl-C does not wait for the step
            raise KeyboardInterrupt
        self.asked = True
        self.late.start()

    def on_exception(self, trainer: pl.Trainer, _module: pl.LightningModule, exception: BaseException) -> None:
        self.late.cancel()  # here too: after Ctrl-C Lightning leaves `teardown` out
        if isinstance(exception, KeyboardInterrupt) and not self.done:
            log.info("interrupted in the middle of an epoch; resume goes on from the last checkpoint")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked and not trainer.is_last_batch:  # after which the checkpoint of the epoch comes
            self.late.cancel()
            trainer.save_checkpoint(self.checkpoint)
            self._stop(trainer)

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.asked:  # the checkpoint before the validation stands
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.asked:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        self.done = True
        log.info("interrupted after step %d; resume goes on from there", trainer.global_step)
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches the caller as it does elsewhere; Lightning ends the process instead, deaf to any further one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:  # however it ended: Lightning leaves `teardown` out at times
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


class _Skipped(Callback):
    """Writes after each epoch what could not be read of a stream, beside what could not before."""

    def __init__(self, images: ImageStream, file: Path) -> None:
        self.images, self.file = images, file

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        found = chain.from_iterable(gather_from_all(self.images.skipped))
        if trainer.is_global_zero:
            before = read_json(self.file) if self.file.exists() else []
            reasons = {one["name"]: one for one in [*before, *found]}
            write_json(self.file, [reasons[name] for name in sorted(reasons)])
            if len(reasons) > len(before):
                log.warning("unreadable and skipped so far: %d, see %s", len(reasons), self.file)


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
