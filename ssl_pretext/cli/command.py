"""What every command line here does alike: where it speaks, how it fails, and with which exit code."""

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

from ssl_pretext.errors import PretextError, StorageError
from ssl_pretext.system.files import WRITING

__all__ = ["run_command"]

DONE, STOPPED, REFUSED = 0, 1, 2
PATIENCE = 1.5  # seconds after Ctrl-C until a process is ended in the middle of whatever it does
GRACE = 0.2  # and more, once a file that was being written is whole
WHOLE = "What was written is whole: start it again, with --resume if it has that option."


def run_command(program: str, work: Callable[[], None]) -> int:
    """Runs work that logs to the screen; what goes wrong ends in one line on standard error.

    Args:
        program: What the line begins with.
        work: May raise `KeyboardInterrupt(how_to_go_on)`.

    Returns:
        The exit code: 0 done; 1 stopped by Ctrl-C or by the system, such as a full disk; 2 the request was wrong.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding cannot say
    screen = _Screen(sys.stdout)
    screen.setFormatter(_Harmless("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[screen], force=True)
    atexit.register(gc.freeze)  # Python looks for garbage once more before it ends: seconds, with torch loaded
    try:
        with _ending_in_time(program):
            work()
        if sys.stdout is not None:  # else it was closed, as for a service
            sys.stdout.flush()
    except StorageError as error:
        return _ended(program, str(error), STOPPED)
    except PretextError as error:
        return _ended(program, str(error), REFUSED)
    except KeyboardInterrupt as error:
        return _ended(program, f"stopped by Ctrl-C. {error}", STOPPED)
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has; leave nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED
    except OSError as error:
        return _ended(program, str(error), STOPPED)
    return DONE


@contextmanager
def _ending_in_time(program: str) -> Iterator[None]:
    """Ends the process soon after Ctrl-C, even from within a long computation in C, which Python does not interrupt.

    A file that is being written is waited for. Nothing else can be lost: files are written beside and renamed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    done = threading.Event()
    heard, says = os.pipe()
    os.set_blocking(says, False)

    def watch() -> None:
        while (said := os.read(heard, 1)) and said[0] != signal.SIGINT:
            pass
        if said and not done.wait(PATIENCE):
            with WRITING:
                if not done.wait(GRACE):
                    _ended(program, f"stopped by Ctrl-C in the middle of a computation. {WHOLE}", STOPPED)
                    os._exit(STOPPED)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    before = signal.set_wakeup_fd(says, warn_on_full_buffer=False)
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(says)  # the end of what `watch` reads
        watching.join()
        os.close(heard)


class _Screen(logging.StreamHandler):  # type: ignore[type-arg]  # which Python 3.10 does not take
    """Lets the work go on in silence where whoever read the output has left."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


class _Harmless(logging.Formatter):
    """Shows what a terminal would take for commands, which file names may hold."""

    def format(self, record: logging.LogRecord) -> str:
        return _harmless(super().format(record))


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _ended(program: str, reason: str, code: int) -> int:
    print(f"{program}: {_harmless(' '.join(reason.split()))}", file=sys.stderr)
    return code
