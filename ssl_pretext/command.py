"""What every command line here does alike: where it speaks, how it fails, and with which exit code."""

import io
import logging
import os
import sys
from collections.abc import Callable

from ssl_pretext.errors import PretextError

__all__ = ["run_command"]

DONE, STOPPED, REFUSED = 0, 1, 2


def run_command(program: str, work: Callable[[], None]) -> int:
    """Runs work that logs to the screen; what goes wrong ends in one line on standard error.

    Args:
        program: What the line begins with.
        work: May raise `KeyboardInterrupt(how_to_go_on)`.

    Returns:
        The exit code: 0 done; 1 stopped by Ctrl-C or by the system, such as a full disk; 2 the request was wrong.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that its encoding cannot say
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        work()
        sys.stdout.flush()
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


def _ended(program: str, reason: str, code: int) -> int:
    print(f"{program}: {' '.join(reason.split())}", file=sys.stderr)
    return code
