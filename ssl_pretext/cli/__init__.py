"""The command line `ssl-pretext`: pretrain, probe, colorize, list."""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import MissingDependencyError
from ssl_pretext.system.processes import rank_info

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, that of `sys.argv` if left out; returns the exit code of `run_command`.

    Examples:
        >>> main(["list", "probes", "--search", "n"])
        conv
        knn
        linear
        resnet
        0
    """
    return run_command("ssl-pretext", lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    try:
        from ssl_pretext.cli.parsing import parse
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the command line needs {error.name}, which is not installed: pip install 'ssl-pretext[cli]'"
        ) from error
    options = parse(arguments)
    if (rank := rank_info().rank) and options.module != "pretrain":
        return  # under torchrun the first process does what is to be done once
    if rank:
        logging.getLogger().setLevel(logging.WARNING)  # and speaks for all
    try:
        # What is slow to import waits until the request is known to be well-formed.
        import_module(f"ssl_pretext.cli.{options.module}").run(options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(options.interrupted) from None
