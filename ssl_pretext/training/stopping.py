"""Stopping a run between two steps when Ctrl-C is pressed or a signal asks for it, with a checkpoint of its state."""

import _thread
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from ssl_pretext.system.processes import rank_info
from ssl_pretext.system.signals import handle_stop_signals, signal_name, stop_error, stop_signals
from ssl_pretext.training.trainer import is_resumable

__all__ = ["StopOnSignal"]

log = logging.getLogger(__name__)

# Seconds that a step may still take after a signal. `docker stop` kills a process 10 seconds after SIGTERM. Slurm sends
# other signals long before it kills a job, so no step is abandoned because of them.
STEP_TIMEOUTS = {signal.SIGINT: 1.0, signal.SIGTERM: 5.0}


class StopOnSignal(Callback):
    """Ends a run after a signal between two steps, where its state is complete, and saves a checkpoint of that state.

    A step that takes longer than its time in `STEP_TIMEOUTS`, or a second Ctrl-C, ends the run at once, and the
    checkpoint before it remains. Lightning's OnExceptionCheckpoint is not used, because it saves in the middle of a
    step and resumes without being asked; and neither is its handler of SIGTERM, which does not save.

    Several processes stop after the same step, even if a signal reaches only one of them: each step sends the signal
    that a process has received to all others, and the next step waits for what was sent. They finish their step
    however long it takes, because each would otherwise wait for the others. `torchrun` passes on its signals, and kills
    its processes 30 seconds later.

    Args:
        checkpoint: File to save the checkpoint to.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint, self.alone = checkpoint, rank_info().world == 1
        self.received = 0  # the number of the last signal
        self.agreed = 0  # the number of a signal that all processes know of
        self.stopped = self.timed_out = False
        self.timer: threading.Timer | None = None
        self.group: Any = None
        self.sent: tuple[torch.Tensor, Any] | None = None

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handles signals within the block, and raises `KeyboardInterrupt` after Ctrl-C.

        Lightning instead ends the process on Ctrl-C, and ignores every further one.
        """
        try:
            with handle_stop_signals(self._receive):
                yield
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:  # not in `teardown`, which Lightning does not always call
            self._cancel_timer()

    def _receive(self, number: int, *_: Any) -> None:
        again = number == signal.SIGINT == self.received
        if self.alone and (self.timed_out or again):
            raise stop_error(number)
        self.received = number
        timeout = STEP_TIMEOUTS.get(signal.Signals(number))
        if self.alone and timeout is not None:
            self._cancel_timer()
            self.timer = threading.Timer(timeout, self._interrupt, [number])
            self.timer.daemon = True
            self.timer.start()

    def _interrupt(self, number: int) -> None:
        self.timed_out = True
        _thread.interrupt_main(signal.Signals(number))  # calls `_receive` again

    def _cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    @override
    def on_fit_start(self, *_: Any) -> None:
        if not self.alone:  # a group of its own, because NCCL would make each step wait for the GPU
            self.group = torch.distributed.new_group(backend="gloo")

    @override
    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread() and signal.SIGTERM in stop_signals():
            signal.signal(signal.SIGTERM, self._receive)  # by now Lightning has replaced this handler by its own

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.agreed = self.agreed or self._agree()
        if self.agreed and is_resumable(trainer, arguments[-1]):  # the last batch is followed by a checkpoint anyway
            self._cancel_timer()
            trainer.save_checkpoint(self.checkpoint)
            self._stop(trainer)

    @override
    def on_validation_batch_end(self, *_: Any) -> None:
        if self.received and self.alone:  # the run resumes from the checkpoint before the validation
            raise stop_error(self.received)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.agreed or (self.received and self.alone):
            self._stop(trainer)

    @override
    def on_train_end(self, *_: Any) -> None:
        self._sent_by_all()

    @override
    def on_exception(self, trainer: pl.Trainer, _module: pl.LightningModule, exception: BaseException) -> None:
        self._cancel_timer()
        if self.received and not self.stopped and isinstance(exception, KeyboardInterrupt | SystemExit):
            self._log(trainer, "in the middle of an epoch", "the last checkpoint")

    def _agree(self) -> int:
        """Returns a signal that any process had received at its last step, the same number in all processes."""
        if self.alone:
            return self.received
        agreed, number = self._sent_by_all(), torch.tensor(self.received)
        operation = torch.distributed.ReduceOp.MAX
        self.sent = number, torch.distributed.all_reduce(number, operation, group=self.group, async_op=True)
        return agreed

    def _sent_by_all(self) -> int:
        """Waits for what all processes sent after the step before, and returns the largest of their numbers."""
        if self.sent is None:
            return 0
        number, sending = self.sent
        sending.wait()
        self.sent = None
        return int(number)

    def _stop(self, trainer: pl.Trainer) -> None:
        self.stopped = True
        number = self.agreed or self.received
        self._log(trainer, f"after step {trainer.global_step}", "there")
        raise stop_error(number)

    def _log(self, trainer: pl.Trainer, where: str, resume_from: str) -> None:
        if trainer.is_global_zero:
            cause = signal_name(self.agreed or self.received)
            log.warning("interrupted by %s %s; the run can be resumed from %s", cause, where, resume_from)
