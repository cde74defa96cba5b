"""From arguments to options: tyro's parser, YAML files, and errors in one line."""

import argparse
import io
import operator
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssl_pretext.cli.files import read_options
from ssl_pretext.cli.options import Colorize, Command, List, Pretrain, Probe
from ssl_pretext.errors import ArgumentError, PretextError
from ssl_pretext.training.config import FitConfig

__all__ = ["parse"]

DESCRIPTION = """\
Pretrain an encoder on your own images, and find out, with numbers, whether that helped.

The shell completes names after: ssl-pretext --tyro-print-completion bash (or zsh, tcsh)."""

COMMANDS = {"pretrain": Pretrain, "probe": Probe, "colorize": Colorize, "list": List}


def parse(arguments: Sequence[str]) -> Command:
    """The command that arguments ask for, with its options.

    Raises:
        ArgumentError: They are not well-formed; what tyro says of it is brought into one line.
        PretextError: What an option's configuration says of its value.
        SystemExit: Help or a completion script was asked for, and is printed.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(_union(), prog="ssl-pretext", description=DESCRIPTION, args=_with_config(arguments))
    except SystemExit as error:
        if not error.code:
            raise
        if cause := _own_error(error):
            raise cause from None
        raise ArgumentError(_one_line(said.getvalue())) from None


def _union() -> type[Command]:
    named: list[Any] = [Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
    union: type[Command] = reduce(operator.or_, named)  # which a type checker does not take for a type to build
    return union


def _with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments, and before them those of the YAML file that they name: of two, the last one counts."""
    command, *given = arguments or [""]
    if command != "pretrain":
        return list(arguments)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?", type=Path)
    config: Path | None = finder.parse_known_args(given)[0].config
    return [command, *([] if config is None else _read_config(config)), *given]


def _read_config(path: Path) -> list[str]:
    """The options of a YAML file as arguments."""
    known = {field.name for one in (Pretrain, FitConfig) for field in fields(one)} - {"config", "fit"}
    options = read_options(path)
    if unknown := sorted(options.keys() - known):
        raise ArgumentError(
            f"{path} has {', '.join(unknown)}, which pretrain has not; known: {', '.join(sorted(known))}"
        )
    return [argument for name, value in options.items() for argument in _as_arguments(name.replace("_", "-"), value)]


def _as_arguments(name: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):  # losses may be written as a mapping
        value = ",".join(f"{key}={weight}" for key, weight in value.items())
    return [f"--{name}={value}"]


def _own_error(error: BaseException | None) -> PretextError | None:
    """The error of this library, if there is one, that led to another."""
    while error is not None and not isinstance(error, PretextError):
        error = error.__cause__ or error.__context__
    return error


def _one_line(box: str) -> str:
    """What tyro says in a box with a title, without both; a rule in the box becomes a semicolon."""
    inside = re.sub("[│╭╮╰╯•]", " ", " ".join(box.splitlines()[1:]))
    parts = re.split("[─-]{8,}", inside)  # the second where the output is not in UTF-8
    return "; ".join(filter(None, (" ".join(part.split()) for part in parts)))
