"""What all command-line programs of this project share: log output, error messages, exit codes and Ctrl-C."""

import atexit
import gc
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ssl_pretext.errors import PretextError, ReadError, StorageError
from ssl_pretext.system.files import WRITE_LOCK

__all__ = ["run_command"]

DONE, STOPPED, REFUSED = 0, 1, 2
EXIT_TIMEOUT = 1.5  # seconds after Ctrl-C until the process is ended in the middle of its work
TIMEOUT_AFTER_WRITE = 0.2  # further seconds when a file that was being written is complete
RESTART_ADVICE = "All files that were written are complete. Run the same command again, with --resume if it has it."


def run_command(program: str, work: Callable[[], None]) -> int:
    """Runs the work of a command-line program, with log output on the screen and errors as one line each.

    Args:
        program: Name of the program, with which the line of an error begins.
        work: The function to run. It may raise `KeyboardInterrupt(advice)`, where the advice says how to continue.

    Returns:
        The exit code: 0 if the work is done; 1 if it was stopped by Ctrl-C or by the system, for example by a full
        disk; 2 if the request was wrong.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the output's encoding does not have
    handler = _ConsoleHandler(sys.stdout)
    handler.setFormatter(_EscapingFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    atexit.register(gc.freeze)  # at exit Python collects garbage once more, which takes seconds when torch is loaded
    try:
        with _exit_soon_after_ctrl_c(program):
            work()
        if sys.stdout is not None:  # it is None in a process without standard output, such as a service
            sys.stdout.flush()
    except (ReadError, StorageError) as error:
        return _report_failure(program, str(error), STOPPED)
    except PretextError as error:
        return _report_failure(program, str(error), REFUSED)
    except KeyboardInterrupt as error:
        return _report_failure(program, f"stopped by Ctrl-C. {error}", STOPPED)
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit would fail, too
        return STOPPED
    except OSError as error:
        return _report_failure(program, str(error), STOPPED)
    return DONE


@contextmanager
def _exit_soon_after_ctrl_c(program: str) -> Iterator[None]:
    """Ends the process soon after Ctrl-C, even within a long computation in C, which Python does not interrupt.

    A file that is being written is completed first. Other data cannot be damaged, because every file is written under
    a temporary name and then renamed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def wait_for_ctrl_c() -> None:
        while (received := os.read(read_end, 1)) and received[0] != signal.SIGINT:
            pass
        if received and not done.wait(EXIT_TIMEOUT):
            with WRITE_LOCK:
                if not done.wait(TIMEOUT_AFTER_WRITE):
                    reason = f"stopped by Ctrl-C in the middle of a computation. {RESTART_ADVICE}"
                    _report_failure(program, reason, STOPPED)
                    os._exit(STOPPED)

    thread = threading.Thread(target=wait_for_ctrl_c, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(write_end)  # ends the loop of the thread
        thread.join()
        os.close(read_end)


class _ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it has no type argument in Python 3.10
    """Ignores that the reader of the output has closed it, so that the work continues without output."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


class _EscapingFormatter(logging.Formatter):
    """Escapes control characters, because names of files can contain commands to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return _escape_control_characters(super().format(record))


def _escape_control_characters(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _report_failure(program: str, reason: str, code: int) -> int:
    print(f"{program}: {_escape_control_characters(' '.join(reason.split()))}", file=sys.stderr)
    return code
