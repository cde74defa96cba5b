"""What the command lines of all benchmarks share."""

import logging
import sys
from collections.abc import Callable

from benchmarks.memory import keep_freed_memory
from ssl_pretext.errors import PretextError

__all__ = ["run_command"]


def run_command(name: str, work: Callable[[], None]) -> int:
    """Runs a benchmark that logs to the screen; a fault of the request ends in one line. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    keep_freed_memory()
    try:
        work()
    except PretextError as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        return 2
    return 0
