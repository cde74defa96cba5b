"""Signals that ask the process to stop: Ctrl-C, SIGTERM, a closed terminal, and the warnings of Slurm."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Stopped", "exit_code", "handle_stop_signals", "signal_name", "stop_error", "stop_signals"]

# Windows has neither SIGHUP nor SIGUSR1 and SIGUSR2. The last two are sent as `sbatch --signal` asks for.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
SLURM_SIGNALS = ("SIGUSR1", "SIGUSR2")

Handler = Callable[[int, FrameType | None], Any]


class Stopped(SystemExit):
    """A signal other than Ctrl-C asked the process to stop; unless it is caught, the process ends with its exit code.

    Args:
        number: Number of the signal.
        advice: A sentence that says how to continue.

    Attributes:
        signal: Number of the signal.
        advice: The sentence.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(exit_code(number))
        self.signal, self.advice = number, advice


def stop_signals() -> list[int]:
    """Returns the signals that ask this process to stop; SIGUSR1 and SIGUSR2 are among them in a job of Slurm.

    Signals that the process was started to ignore are left out, such as SIGHUP under `nohup`, and so are those that a
    library handles in C.
    """
    names = [*STOP_SIGNALS, *(SLURM_SIGNALS if "SLURM_JOB_ID" in os.environ else ())]
    numbers = [int(getattr(signal, name)) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def exit_code(number: int) -> int:
    """Returns the exit code of a process that a signal has stopped, as shells have it: 128 plus its number."""
    return 128 + number


def signal_name(number: int) -> str:
    """Returns the name of a signal for messages, such as `"Ctrl-C"` or `"the signal SIGTERM"`."""
    return "Ctrl-C" if number == signal.SIGINT else f"the signal {signal.Signals(number).name}"


def stop_error(number: int) -> BaseException:
    """Returns the exception that a signal raises: `KeyboardInterrupt` for Ctrl-C, and otherwise `Stopped`."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


@contextmanager
def handle_stop_signals(handler: Handler) -> Iterator[None]:
    """Handles the signals that ask the process to stop within the block, and restores their handlers afterward.

    Does nothing in other threads than the main thread, which alone can handle signals.

    Args:
        handler: Function that is called with the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
