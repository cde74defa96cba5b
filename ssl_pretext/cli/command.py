"""What all command-line programs of this project share: log output, error messages, exit codes and signals."""

import atexit
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ssl_pretext.errors import PretextError, ReadError, StorageError
from ssl_pretext.system.console import EscapingFormatter, escape_control_characters
from ssl_pretext.system.files import WRITE_LOCK
from ssl_pretext.system.processes import rank_info
from ssl_pretext.system.signals import Stopped, exit_code, handle_stop_signals, signal_name, stop_error

__all__ = ["exit_process", "run_command", "stop_at_once"]

DONE, STOPPED, REFUSED = 0, 1, 2
# Seconds after a signal until the process is ended in the middle of its work. `docker stop` kills a process 10 seconds
# after SIGTERM, and `torchrun` kills its processes 30 seconds after a signal. Other signals have no such end.
EXIT_TIMEOUTS = {signal.SIGINT: 1.5, signal.SIGTERM: 8.0}
EXIT_TIMEOUT_OF_SEVERAL = 25.0
TIMEOUT_AFTER_WRITE = 0.2  # further seconds when a file that was being written is complete
RESTART_ADVICE = "All files that were written are complete. Run the same command again, with --resume if it has it."


def run_command(program: str, work: Callable[[], None]) -> int:
    """Runs the work of a command-line program, with log output on the screen and errors as one line each.

    Args:
        program: Name of the program, with which the line of an error begins.
        work: The function to run. It may raise `KeyboardInterrupt(advice)` and `Stopped(number, advice)`, where the
            advice says how to continue.

    Returns:
        The exit code: 0 if the work is done; 1 if it was stopped by the system, for example by a full disk; 2 if the
        request was wrong; 128 plus the number of a signal that stopped it, which is 130 for Ctrl-C and 143 for SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the output's encoding does not have
    handler = _ConsoleHandler(sys.stdout)
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    try:
        with _exit_soon_after_a_signal(program):
            work()
        if sys.stdout is not None:  # it is None in a process without standard output, such as a service
            sys.stdout.flush()
    except (ReadError, StorageError) as error:
        return _report_failure(program, str(error), STOPPED)
    except PretextError as error:
        return _report_failure(program, str(error), REFUSED)
    except KeyboardInterrupt as error:
        return _report_failure(program, f"stopped by Ctrl-C. {error}", exit_code(signal.SIGINT))
    except Stopped as error:
        reason = f"stopped by {signal_name(error.signal)}. {error.advice}"
        return _report_failure(program, reason, exit_code(error.signal))
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit would fail, too
        return STOPPED
    except OSError as error:
        return _report_failure(program, str(error), STOPPED)
    return DONE


def exit_process(code: int) -> NoReturn:
    """Ends the process with an exit code, after what is to be done at its exit.

    Unlike after `sys.exit`, Python does not collect garbage once more, which takes seconds when torch is loaded.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(code)


@contextmanager
def stop_at_once(program: str) -> Iterator[None]:
    """Ends the process as soon as a signal comes within the block, in which nothing may be written.

    An exception in the middle of an import may be replaced by another one, or be ignored.
    """

    def stop(number: int, *_: Any) -> None:
        os._exit(_report_failure(program, f"stopped by {signal_name(number)}.", exit_code(number)))

    with handle_stop_signals(stop):
        yield


@contextmanager
def _exit_soon_after_a_signal(program: str) -> Iterator[None]:
    """Raises an exception after a signal, and ends the process soon after, even within a long computation in C.

    Python handles signals only between steps of its own.

    A file that is being written is completed first. Other data cannot be damaged, because every file is written under
    a temporary name and then renamed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    several = rank_info().world > 1

    def wait_for_a_signal() -> None:
        while (received := os.read(read_end, 1)) and received[0] not in EXIT_TIMEOUTS:
            pass
        if not received:
            return
        number = signal.Signals(received[0])
        if not done.wait(EXIT_TIMEOUT_OF_SEVERAL if several else EXIT_TIMEOUTS[number]):
            with WRITE_LOCK:
                if not done.wait(TIMEOUT_AFTER_WRITE):
                    reason = f"stopped by {signal_name(number)} in the middle of a computation. {RESTART_ADVICE}"
                    os._exit(_report_failure(program, reason, exit_code(number)))

    thread = threading.Thread(target=wait_for_a_signal, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        with handle_stop_signals(_raise_stop_error):
            yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(write_end)  # ends the loop of the thread
        thread.join()
        os.close(read_end)


def _raise_stop_error(number: int, *_: Any) -> None:
    raise stop_error(number)


class _ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it has no type argument in Python 3.10
    """Ignores that the output is closed, by its reader or with its terminal, so that the work continues without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _report_failure(program: str, reason: str, code: int) -> int:
    with suppress(OSError):  # the terminal may be closed
        print(f"{program}: {escape_control_characters(' '.join(reason.split()))}", file=sys.stderr, flush=True)
    return code
