"""What the command lines of all benchmarks share."""

from collections.abc import Callable

from benchmarks.memory import keep_freed_memory
from ssl_pretext import command

__all__ = ["run_command"]


def run_command(name: str, work: Callable[[], None]) -> int:
    """Runs a benchmark as `ssl_pretext.command.run_command` does. Returns the exit code."""
    keep_freed_memory()
    return command.run_command(f"benchmarks.{name}", work)
