"""Comparisons of pretext tasks: a row per task and seed, pretrained and judged alike, kept as soon as it is done."""

import argparse
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.food101.experiment import environment
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import Experiment, open_data
from benchmarks.result_page import publish
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import CheckpointError
from ssl_pretext.probes.training import ProbeFactory
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = [
    "Comparison",
    "Judge",
    "Row",
    "accuracies",
    "claim",
    "colorized",
    "command_line",
    "linear_probes",
    "pixel_rows",
    "pretrained",
    "slug",
    "step_seconds",
]

log = logging.getLogger("benchmarks.harness")

LEARNING_RATE = 1e-3
STEP_SECONDS = "step_seconds.json"
PRESETS = {
    "smoke": Preset(
        about="seconds; its figures mean nothing",
        image_size=32,
        batch_size=32,
        epochs=1,
        pretrain_per_class=1,
        validation_per_class=1,
        probe_classes=3,
        labels_per_class=4,
        test_per_class=4,
        seeds=1,
    ),
    "cpu": Preset(
        about="one to two minutes per row on two cores",
        image_size=32,
        batch_size=64,
        epochs=8,
        pretrain_per_class=40,
        validation_per_class=6,
        probe_classes=18,
        test_per_class=60,
        seeds=2,
    ),
    "gpu": Preset(
        about="one GPU; all images at 64 px",
        image_size=64,
        batch_size=64,
        epochs=16,
        validation_per_class=10,
        seeds=5,
    ),
}


@dataclass(frozen=True)
class Row:
    """A task to pretrain, and the name of the row that is its untrained control; without one it is a control itself."""

    name: str
    task: str
    options: Mapping[str, Any]
    control: str | None = None


@dataclass(frozen=True)
class Judge:
    """A probe, and what it is given of a task: its readouts by the heading of their column."""

    readouts: Mapping[str, Callable[[sp.PretextTask], sp.Representation]]
    probe: str | ProbeFactory = "linear"


def linear_probes(layers: Sequence[str | None]) -> Judge:
    """Linear probes on layers; None stands for the encoder's output."""

    def read(layer: str | None) -> Callable[[sp.PretextTask], sp.Representation]:
        return lambda task: task.representation(layer)

    return Judge({layer or "encoder": read(layer) for layer in layers})


@dataclass(frozen=True)
class Comparison:
    """Rows that are pretrained on the same images in the same order, and judged alike.

    Attributes:
        title: What is compared.
        rows: What there is to compare.
        judges: Probes, and what they are given.
        extra: Further measures of a task, from the task and the data to a JSON-ready mapping.
    """

    title: str
    rows: Sequence[Row]
    judges: Sequence[Judge]
    extra: Callable[[sp.PretextTask, Experiment], dict[str, Any]] = lambda _task, _data: {}

    def run(self, data: Experiment, preset: Preset, *, out: Path, device: str) -> list[dict[str, Any]]:
        """Does the rows that are not done yet; a mapping per row and seed."""
        columns = [column for judge in self.judges for column in judge.readouts]
        claim(out, preset, {"learning_rate": LEARNING_RATE, "data": data.name, "layers": columns})
        results = []
        for seed in range(preset.seeds):  # seed by seed, so that a stopped run holds whole comparisons
            for row in self.rows:
                file = out / f"{slug(row.name)}-{seed}" / "row.json"
                if not file.exists():
                    write_json(file, self._measure(row, seed, data, preset, out=file.parent, device=device))
                results.append(read_json(file))
                log.info("%s, seed %d: %s", row.name, seed, _brief(results[-1]))
        return results

    def _measure(
        self, row: Row, seed: int, data: Experiment, preset: Preset, *, out: Path, device: str
    ) -> dict[str, Any]:
        folder = out / "pretraining"
        if row.control:
            task, history = pretrained(row.task, row.options, seed, data, preset, out=folder, device=device)
        else:
            torch.manual_seed(seed)
            task, history = sp.create_task(row.task, **row.options), []
        accuracy: dict[str, dict[str, float]] = {domain: {} for domain in data.probe_train}
        for judge in self.judges:
            representations = {column: readout(task) for column, readout in judge.readouts.items()}
            for domain, found in accuracies(representations, judge.probe, data, [seed], device).items():
                accuracy[domain] |= {column: values[0] for column, values in found.items()}
        result = {"row": row.name, "control": row.control, "seed": seed, "accuracy": accuracy, "history": history}
        if not row.control:
            return result
        return result | {"step_seconds": step_seconds(folder)} | self.extra(task.to(device).eval(), data)


def accuracies(
    representations: Mapping[str, sp.Representation],
    probe: str | ProbeFactory,
    data: Experiment,
    seeds: int | Sequence[int],
    device: str,
) -> dict[str, dict[str, list[float]]]:
    """Test accuracies per seed of the probe, by domain and representation."""
    reports = {
        domain: sp.evaluate(
            representations,
            data.probe_train[domain],
            data.probe_test[domain],
            probe=probe,
            seeds=seeds,
            controls=False,  # they have rows of their own
            device=device,
        )
        for domain in data.probe_train
    }
    return {domain: {name: report.accuracies(name) for name in report.names} for domain, report in reports.items()}


def claim(out: Path, preset: Preset, further: Mapping[str, Any]) -> None:
    """Refuses a folder that holds rows of other settings, and says in it what these are."""
    written = out / "config.json"
    # Of seeds more can be added, and words may be mended.
    settings = {name: value for name, value in preset.to_dict().items() if name not in ("seeds", "about")}
    settings |= further
    if written.exists() and read_json(written) != settings:
        raise CheckpointError(f"{out} holds rows of other settings; choose another folder with --out")
    write_json(written, settings)


def pretrained(
    task: str,
    options: Mapping[str, Any],
    seed: int,
    data: Experiment,
    preset: Preset,
    *,
    out: Path,
    device: str,
    learning_rate: float = LEARNING_RATE,
) -> tuple[sp.PretextTask, list[dict[str, Any]]]:
    """A task with weights drawn from the seed and then trained, and its history; one that was trained is loaded."""
    torch.manual_seed(seed)
    made = sp.create_task(task, **options)
    if (out / "task" / "config.json").exists():
        return sp.PretextTask.from_pretrained(out / "task"), list(read_json(out / "history.json"))
    fitting = FitConfig(
        out=out,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        resume=True,
    )
    starts: list[float] = []
    with made.register_forward_pre_hook(lambda task, _: starts.append(time.perf_counter()) if task.training else None):
        history = fit(made, data.pretrain, fitting, validation=data.validation)
    # The median is that of the work even if the run was held, or resumed, or waited for a validation in between.
    write_json(out / STEP_SECONDS, median(end - start for start, end in pairwise(starts)) if starts[2:] else None)
    return made, history


def step_seconds(out: Path) -> float | None:
    """How long a step of `pretrained` took, at the median; None where that was not measured."""
    return read_json(out / STEP_SECONDS) if (out / STEP_SECONDS).exists() else None


def pixel_rows(channels: Mapping[str, str], data: Experiment, preset: Preset, device: str) -> dict[str, dict[str, Any]]:
    """The linear probe on raw channels, by name and domain; for all seeds."""
    found = accuracies({name: sp.Pixels(one) for name, one in channels.items()}, "linear", data, preset.seeds, device)
    return {name: {domain: values[name] for domain, values in found.items()} for name in channels}


def slug(name: str) -> str:
    """A name as a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def command_line(
    name: str,
    about: str,
    run: Callable[[Experiment, Preset, Path, str], dict[str, Any]],
    presets: Mapping[str, Preset] = PRESETS,
) -> int:
    """Parses the options that all comparisons share, and runs one; returns the exit code.

    Writes `results.json`, and what it says as the page `page.md` with its plots.
    """
    described = "\n".join(f"  {key:<6} {preset.about}" for key, preset in presets.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=f"{about}\n\npresets:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="cpu", choices=presets)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds food-101/ (default: sample photos)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: runs/{name}-PRESET)")
    parser.add_argument("--seeds", type=int, help="how many (default: the preset's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    preset = presets[options.preset]
    preset = replace(preset, seeds=options.seeds or preset.seeds)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    out = options.out or Path(f"runs/{name}-{options.preset}")

    def work() -> None:
        logging.getLogger("ssl_pretext.training").setLevel(logging.WARNING)
        data = open_data(options.data, preset, seed=0)
        log.info("data: %s; %s", data.name, data.counts())
        with exclusive_lock(out):
            results = run(data, preset, out, device)
        results = {
            # Where the data lie is another machine's business.
            "command": f"python -m benchmarks.{name} {'--data=DIR ' if options.data else ''}--preset={options.preset} "
            f"--seeds={preset.seeds}",
            "config": preset.to_dict() | {"learning_rate": LEARNING_RATE},
            "environment": environment(device),
            "data": {"name": data.name, "note": data.note, "counts": data.counts()},
            **results,
        }
        write_json(out / "results.json", results)
        publish(out / "results.json", out / "page")
        log.info("results: %s, as a page: %s", out / "results.json", out / "page.md")

    return run_command(f"benchmarks.{name}", work)


def colorized(task: Any, images: Tensor) -> Tensor:
    """Images `(B, 3, H, W)` in `[0, 1]` in the task's colors, in batches."""
    device = next(task.parameters()).device
    return torch.cat([task.colorize(batch.to(device)).cpu() for batch in images.split(256)]).clamp(0, 1)


def _brief(result: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{domain} " + ", ".join(f"{layer} {100 * value:.1f}%" for layer, value in layers.items())
        for domain, layers in result["accuracy"].items()
    )
