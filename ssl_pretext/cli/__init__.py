"""The command line `ssl-pretext`, with a module for each of its commands."""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ssl_pretext.cli.command import run_command, stop_at_once
from ssl_pretext.errors import MissingDependencyError, PretextError
from ssl_pretext.system.processes import rank_info
from ssl_pretext.system.signals import Stopped
from ssl_pretext.version import __version__

if TYPE_CHECKING:
    from ssl_pretext.cli.options import Command

__all__ = ["main"]

PROGRAM = "ssl-pretext"
SHARED = ("pretrain", "probe", "compare", "embed", "finetune")  # commands whose work the processes of torchrun share


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments ask for.

    Args:
        arguments: Arguments of the command line; those of `sys.argv` if left out.

    Returns:
        The exit code, as `run_command` returns it.

    Examples:
        >>> main(["list", "probes", "--search", "n"])
        conv
        dino_knn
        documented_conv
        finetune
        knn
        linear
        resnet
        0
    """
    return run_command(PROGRAM, lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    if list(arguments) == ["--version"]:  # before the parser is imported, which needs an optional dependency
        print(f"{PROGRAM} {__version__}")
        return
    try:
        with stop_at_once(PROGRAM):
            from ssl_pretext.cli.options import name_options
            from ssl_pretext.cli.parsing import parse
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the command line needs {error.name}, which is not installed: pip install 'ssl-pretext[cli]'"
        ) from error
    try:
        with stop_at_once(PROGRAM):
            options = parse(arguments)
        _run_command(options)
    except PretextError as error:
        error.args = (name_options(str(error)),)
        raise


def _run_command(options: "Command") -> None:
    if (rank := rank_info().rank) and options.module not in SHARED:
        return  # under torchrun, the first process alone runs the other commands
    if rank:
        logging.getLogger().setLevel(logging.WARNING)  # the first process logs progress for all of them
    try:
        with stop_at_once(PROGRAM):  # imported late, because the commands import slowly and the arguments can be wrong
            command = import_module(f"ssl_pretext.cli.{options.module}")
        command.run(options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(options.after_interrupt) from None
    except Stopped as error:
        raise Stopped(error.signal, options.after_interrupt) from None
