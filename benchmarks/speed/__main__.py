"""The command line: `python -m benchmarks.speed`, all parts or some by name."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.food101.experiment import environment
from benchmarks.speed import color, data, losses, probes, training
from benchmarks.speed.page import table, write_page
from benchmarks.speed.race import Finding, Size
from benchmarks.speed.scaling import scaling
from benchmarks.speed.settings import settings
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import UnknownNameError
from ssl_pretext.system.files import read_json, write_json

log = logging.getLogger("benchmarks.speed")

PARTS: dict[str, Callable[[Size], list[Finding]]] = {
    "rgb_to_lab": color.rgb_to_lab,
    "lab_to_rgb": color.lab_to_rgb,
    "lab_gradients": color.lab_gradients,
    "soft_encoding": color.soft_encoding,
    "color_loss": color.color_loss,
    "lpips": losses.lpips,
    "reading": data.reading,
    "fit": training.fitting,
    "conv_probe": probes.conv_probe,
    "linear_probes": probes.linear_probes,
    "import": training.imports,
    "memory": training.memory,
    "settings": settings,
}
SCALING = "scaling"


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Times ssl_pretext against what a user would pick instead, side by side. Run nothing else "
        f"meanwhile. Parts: {', '.join([*PARTS, SCALING])}.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts (default: all)")
    parser.add_argument(
        "--data", metavar="DIR", default=os.environ.get("SSL_PRETEXT_DATA"), help="holds food-101/ at 64 px"
    )
    parser.add_argument("--data-128", metavar="DIR", help="holds food-101/ at 128 px")
    parser.add_argument(
        "--out", metavar="FILE", help="JSON; parts measured again replace those in it, a page is written beside"
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each side is timed (default: 9)")
    parser.add_argument("--small", action="store_true", help="tiny inputs: shows that everything runs")
    options = parser.parse_args(arguments)
    return run_command("benchmarks.speed", lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measures each part and keeps it as soon as it is done."""
    chosen = options.parts or [*PARTS, SCALING]
    if unknown := [name for name in chosen if name not in PARTS and name != SCALING]:
        raise UnknownNameError(f"there is no part {unknown[0]!r}; known: {', '.join([*PARTS, SCALING])}")
    logging.getLogger("ssl_pretext").setLevel(logging.WARNING)
    torch.manual_seed(0)
    data_folders = {64: options.data, 128: options.data_128}
    size = Size(
        small=options.small, rounds=options.rounds, data={px: folder for px, folder in data_folders.items() if folder}
    )
    out = Path(options.out) if options.out else None
    results: dict[str, Any] = read_json(out) if out and out.exists() else {"parts": {}}
    for name in chosen:
        found: Any = scaling(size) if name == SCALING else [row for one in PARTS[name](size) for row in one.rows()]
        command = f"python -m benchmarks.speed {name}" + (" --small" if options.small else "")
        results["parts"][name] = {"command": command, "environment": environment("cpu"), "rows": found}
        log.info("%s\n%s\n", name, table(name, found))
        if out:
            write_json(out, results)
            write_page(out, results)


if __name__ == "__main__":
    sys.exit(main())
