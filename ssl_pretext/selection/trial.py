"""A trial run of a few steps, from which the time of longer runs is estimated."""

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from ssl_pretext.data import ImageStore
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = ["RunTime", "time_run"]

STEPS = 3  # the first of them is not counted, because it allocates memory


@dataclass(frozen=True)
class RunTime:
    """How long a run takes.

    Attributes:
        step: Seconds per step.
        overhead: Seconds to begin and to end it.
    """

    step: float
    overhead: float


def time_run(task: PretextTask, images: ImageStore, config: FitConfig) -> RunTime:
    """Trains a task for a few steps in a temporary folder beside that of the run. Its weights are changed.

    Args:
        task: A task like the one to train.
        images: The training images.
        config: Configuration of the run.
    """
    clock = _Clock()
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trial-", dir=Path(config.out).parent) as folder:
        few = replace(config, out=folder, epochs=STEPS, max_steps=STEPS)
        fit(task, images, few, callbacks=[clock], loggers=())
        seconds = time.perf_counter() - start
    step = statistics.fmean(clock.seconds[1:])
    return RunTime(step, max(0.0, seconds - STEPS * step))


class _Clock(Callback):
    """Measures the time from each step to the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last = 0.0

    @override
    def on_train_start(self, *_: Any) -> None:
        self.last = time.perf_counter()

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
