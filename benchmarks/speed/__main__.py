"""The command line of the speed benchmarks, for all parts or for some by name: `python -m benchmarks.speed`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.food101.experiment import environment
from benchmarks.speed import augmentation, classifiers, color, compute_formats, data, formats, losses, probes, training
from benchmarks.speed.cpu_settings import cpu_settings
from benchmarks.speed.page import table, write_page
from benchmarks.speed.scaling import scaling
from benchmarks.speed.timing import Measurement, RunOptions
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import UnknownNameError
from ssl_pretext.system.files import read_json, write_json

log = logging.getLogger("benchmarks.speed")

PARTS: dict[str, Callable[[RunOptions], list[Measurement]]] = {
    "rgb_to_lab": color.rgb_to_lab,
    "lab_to_rgb": color.lab_to_rgb,
    "lab_gradients": color.lab_gradients,
    "soft_encoding": color.soft_encoding,
    "color_loss": color.color_loss,
    "lpips": losses.lpips,
    "reading": data.reading,
    "formats": formats.formats,
    "augmentation": augmentation.augmentation,
    "fit": training.fitting,
    "fit_overhead": training.fit_overhead,
    "training_formats": compute_formats.training_formats,
    "feature_formats": compute_formats.feature_formats,
    "compiling": compute_formats.compiling,
    "format_results": compute_formats.format_results,
    "conv_probe": probes.conv_probe,
    "linear_probes": probes.linear_probes,
    "linear_classifiers": classifiers.linear_classifiers,
    "knn_classifiers": classifiers.knn_classifiers,
    "import": training.imports,
    "memory": training.memory,
    "settings": cpu_settings,
}
SCALING = "scaling"


def main(arguments: list[str] | None = None) -> int:
    """Measures the chosen parts and prints their tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Compares the speed and memory of ssl_pretext with those of alternatives. Run nothing else on the "
        f"machine meanwhile. Parts: {', '.join([*PARTS, SCALING])}.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to measure (default: all)")
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("SSL_PRETEXT_DATA"),
        help="folder with food-101/ in it, at 64 px",
    )
    parser.add_argument("--data-128", metavar="DIR", help="folder with food-101/ in it, at 128 px")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="JSON file to write or update with the parts that are measured; a page is written next to it",
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each variant is timed (default: 9)")
    parser.add_argument("--small", action="store_true", help="use tiny inputs, to see that everything runs")
    options = parser.parse_args(arguments)
    return run_command("benchmarks.speed", lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measures each part and saves it as soon as it is finished.

    Raises:
        UnknownNameError: There is no such part.
    """
    chosen = options.parts or [*PARTS, SCALING]
    if unknown := [name for name in chosen if name not in PARTS and name != SCALING]:
        raise UnknownNameError(f"there is no part {unknown[0]!r}; known: {', '.join([*PARTS, SCALING])}")
    logging.getLogger("ssl_pretext").setLevel(logging.WARNING)
    torch.manual_seed(0)
    data_folders = {64: options.data, 128: options.data_128}
    run_options = RunOptions(
        small=options.small, rounds=options.rounds, data={px: folder for px, folder in data_folders.items() if folder}
    )
    out = Path(options.out) if options.out else None
    results: dict[str, Any] = read_json(out) if out and out.exists() else {"parts": {}}
    for name in chosen:
        if name == SCALING:
            rows: Any = scaling(run_options)
        else:
            rows = [row for measurement in PARTS[name](run_options) for row in measurement.rows()]
        command = f"python -m benchmarks.speed {name}" + (" --small" if options.small else "")
        results["parts"][name] = {"command": command, "environment": environment("cpu"), "rows": rows}
        log.info("%s\n%s\n", name, table(name, rows))
        if out:
            write_json(out, results)
            write_page(out, results)


if __name__ == "__main__":
    sys.exit(main())
