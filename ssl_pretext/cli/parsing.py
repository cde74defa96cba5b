"""The parser of the command line, which also reads YAML files of options and shortens error messages to one line."""

import argparse
import io
import operator
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from functools import reduce
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from ssl_pretext.cli.files import read_options
from ssl_pretext.cli.options import (
    Cache,
    Colorize,
    Command,
    Compare,
    Embed,
    Export,
    Finetune,
    List,
    Predict,
    Pretrain,
    Probe,
    Push,
    Search,
)
from ssl_pretext.errors import ArgumentError, PretextError

__all__ = ["parse"]

DESCRIPTION = """\
Pretrain an encoder on your own images, and find out, with numbers, whether that helped.

ssl-pretext --version prints the version.

ssl-pretext --tyro-print-completion bash (or zsh, tcsh) prints a completion script for the shell."""

COMMANDS = {
    "pretrain": Pretrain,
    "probe": Probe,
    "compare": Compare,
    "embed": Embed,
    "search": Search,
    "finetune": Finetune,
    "export": Export,
    "push": Push,
    "colorize": Colorize,
    "predict": Predict,
    "list": List,
    "cache": Cache,
}
# What is given on the command line alone.
NAMED = ("config", "run", "runs", "network", "networks", "repository")
DEFAULT_MAP = "pca"


def parse(arguments: Sequence[str]) -> Command:
    """Parses the arguments of the command line into a command with its options.

    Raises:
        ArgumentError: The arguments are not well-formed. The message is that of tyro, shortened to one line.
        PretextError: The value of an option is invalid.
        SystemExit: Help or a completion script was requested, and has been printed.
    """
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            return tyro.cli(_command_type(), prog="ssl-pretext", description=DESCRIPTION, args=_completed(arguments))
    except SystemExit as error:
        if not error.code:
            raise
        if cause := _library_error(error):
            raise cause from None
        raise ArgumentError(_one_line(messages.getvalue())) from None


def _command_type() -> type[Command]:
    """Returns the union of all commands, each with its name."""
    named: list[Any] = [Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
    union: type[Command] = reduce(operator.or_, named)  # annotated, because a type checker does not know this type
    return union


def _completed(arguments: Sequence[str]) -> list[str]:
    """Inserts what arguments leave out: the options of a YAML file before the others, and the map of `--map` alone."""
    command, *given = arguments or [""]
    if "config" not in get_type_hints(COMMANDS.get(command, List)):
        return list(arguments)
    if command == "embed":
        given = list(chain.from_iterable(_with_map(*pair) for pair in pairwise([*given, "--"])))
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?", type=Path)
    config: Path | None = finder.parse_known_args(given)[0].config
    return [command, *([] if config is None else _file_arguments(config, command)), *given]


def _with_map(argument: str, following: str) -> list[str]:
    return [argument, DEFAULT_MAP] if argument == "--map" and following.startswith("-") else [argument]


def _file_arguments(path: Path, command: str) -> list[str]:
    """Returns the options of a YAML file as arguments of the command line."""
    hints = get_type_hints(COMMANDS[command])
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    own = {field.name for field in fields(COMMANDS[command])} - {*NAMED, *groups}
    known = own | {field.name for group in groups.values() for field in fields(group)}
    options = read_options(path)
    if unknown := sorted(options.keys() - known):
        raise ArgumentError(
            f"{path} contains {', '.join(unknown)}, which {command} does not have; its options are "
            f"{', '.join(sorted(known))}"
        )
    for name, value in options.items():
        inner = list(value.values()) if isinstance(value, dict) and name == "losses" else [value]
        if any(isinstance(one, list | set | dict) for one in inner):
            raise ArgumentError(
                f"{name} in {path} must be a single value{' or a weight for each loss' if name == 'losses' else ''}, "
                f"got {repr(value)[:80]}"
            )
    return [argument for name, value in options.items() for argument in _as_arguments(name.replace("_", "-"), value)]


def _as_arguments(name: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):  # losses can be a mapping from names to weights
        value = ",".join(f"{key}={weight}" for key, weight in value.items())
    return [f"--{name}={value}"]


def _library_error(error: BaseException | None) -> PretextError | None:
    """Returns the error of this library that caused another error, if there is one."""
    while error is not None and not isinstance(error, PretextError):
        error = error.__cause__ or error.__context__
    return error


def _one_line(box: str) -> str:
    """Returns the message in a box that tyro prints, without title and frame; a line in the box becomes a semicolon."""
    inside = re.sub("[│╭╮╰╯•]", " ", " ".join(box.splitlines()[1:]))
    parts = re.split("[─-]{8,}", inside)  # lines consist of hyphens if the output is not in UTF-8
    return "; ".join(filter(None, (" ".join(part.split()) for part in parts)))
