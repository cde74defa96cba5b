"""Comparisons of pretext tasks, which are all pretrained and probed in the same way, once per seed."""

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
from benchmarks.food101.protocol import ExperimentData, open_data
from benchmarks.result_page import publish
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import CheckpointError
from ssl_pretext.probes import ProbeFactory
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = [
    "ProbeSpec",
    "TaskComparison",
    "TaskSpec",
    "check_settings",
    "colorize",
    "command_line",
    "folder_name",
    "linear_probes",
    "pixel_accuracies",
    "pretrain_or_load",
    "probe_accuracies",
    "step_seconds",
]

log = logging.getLogger("benchmarks.harness")

LEARNING_RATE = 1e-3
STEP_SECONDS = "step_seconds.json"
PRESETS = {
    "smoke": Preset(
        about="takes seconds; shows that everything runs, its results mean nothing",
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
        about="for one GPU; all images at 64 px",
        image_size=64,
        batch_size=64,
        epochs=16,
        validation_per_class=10,
        seeds=5,
    ),
}


@dataclass(frozen=True)
class TaskSpec:
    """A pretext task of a comparison, which is one row of its tables.

    Attributes:
        name: Name of the row.
        task: Name of the pretext task.
        options: Options of the task, as `create_task` takes them.
        control: Name of the row with the same encoder untrained. None if this row is itself such a control, which is
            not pretrained.
    """

    name: str
    task: str
    options: Mapping[str, Any]
    control: str | None = None


@dataclass(frozen=True)
class ProbeSpec:
    """A probe and the representations that it is trained on.

    Attributes:
        readouts: Functions from a task to a representation, by the name of their column in the tables.
        probe: Name of the probe, or a function that builds it.
    """

    readouts: Mapping[str, Callable[[sp.PretextTask], sp.Representation]]
    probe: str | ProbeFactory = "linear"


def linear_probes(layers: Sequence[str | None]) -> ProbeSpec:
    """Linear probes on the given layers of the encoder; None stands for its output."""

    def read(layer: str | None) -> Callable[[sp.PretextTask], sp.Representation]:
        return lambda task: task.representation(layer)

    return ProbeSpec({layer or "encoder": read(layer) for layer in layers})


@dataclass(frozen=True)
class TaskComparison:
    """Pretext tasks that are pretrained on the same images in the same order and evaluated by the same probes.

    Attributes:
        title: Title of the results page.
        tasks: The tasks to compare, with their untrained controls.
        probes: The probes that evaluate each task.
        extra: Function that computes further measures of a pretrained task from the task and the data, as a
            JSON-ready mapping.
    """

    title: str
    tasks: Sequence[TaskSpec]
    probes: Sequence[ProbeSpec]
    extra: Callable[[sp.PretextTask, ExperimentData], dict[str, Any]] = lambda _task, _data: {}

    def run(self, data: ExperimentData, preset: Preset, *, out: Path, device: str) -> list[dict[str, Any]]:
        """Runs the rows that are not in the folder `out` yet; returns one mapping per task and seed."""
        columns = [column for probe in self.probes for column in probe.readouts]
        check_settings(out, preset, {"learning_rate": LEARNING_RATE, "data": data.name, "layers": columns})
        results = []
        # The outer loop is over seeds, so that a run that is stopped has compared all tasks with the seeds it finished.
        for seed in range(preset.seeds):
            for task in self.tasks:
                file = out / f"{folder_name(task.name)}-{seed}" / "row.json"
                if not file.exists():
                    write_json(file, self._measure(task, seed, data, preset, out=file.parent, device=device))
                results.append(read_json(file))
                log.info("%s, seed %d: %s", task.name, seed, _accuracy_text(results[-1]))
        return results

    def _measure(
        self, spec: TaskSpec, seed: int, data: ExperimentData, preset: Preset, *, out: Path, device: str
    ) -> dict[str, Any]:
        """Pretrains one task with one seed and evaluates it by all probes."""
        folder = out / "pretraining"
        if spec.control:
            task, history = pretrain_or_load(spec.task, spec.options, seed, data, preset, out=folder, device=device)
        else:
            torch.manual_seed(seed)
            task, history = sp.create_task(spec.task, **spec.options), []
        accuracy: dict[str, dict[str, float]] = {domain: {} for domain in data.probe_train}
        for probe in self.probes:
            representations = {column: readout(task) for column, readout in probe.readouts.items()}
            for domain, found in probe_accuracies(representations, probe.probe, data, [seed], device).items():
                accuracy[domain] |= {column: values[0] for column, values in found.items()}
        result = {"row": spec.name, "control": spec.control, "seed": seed, "accuracy": accuracy, "history": history}
        if not spec.control:
            return result
        return result | {"step_seconds": step_seconds(folder)} | self.extra(task.to(device).eval(), data)


def probe_accuracies(
    representations: Mapping[str, sp.Representation],
    probe: str | ProbeFactory,
    data: ExperimentData,
    seeds: int | Sequence[int],
    device: str,
) -> dict[str, dict[str, list[float]]]:
    """Returns one test accuracy per seed of the probe, by domain and representation."""
    reports = {
        domain: sp.evaluate(
            representations,
            data.probe_train[domain],
            data.probe_test[domain],
            probe=probe,
            seeds=seeds,
            controls=False,  # the untrained controls are rows of the comparison
            device=device,
        )
        for domain in data.probe_train
    }
    return {domain: {name: report.accuracies(name) for name in report.names} for domain, report in reports.items()}


def check_settings(out: Path, preset: Preset, further: Mapping[str, Any]) -> None:
    """Writes the settings of a run to its output folder, or refuses a folder that holds a run with other settings.

    Raises:
        CheckpointError: The folder holds the results of a run with other settings.
    """
    file = out / "config.json"
    # Seeds can be added to a run, and the description of a preset decides nothing.
    settings = {name: value for name, value in preset.to_dict().items() if name not in ("seeds", "about")}
    settings |= further
    if file.exists() and read_json(file) != settings:
        raise CheckpointError(
            f"the output folder {out} holds results of a run with other settings; choose another folder with --out"
        )
    write_json(file, settings)


def pretrain_or_load(
    task: str,
    options: Mapping[str, Any],
    seed: int,
    data: ExperimentData,
    preset: Preset,
    *,
    out: Path,
    device: str,
    learning_rate: float = LEARNING_RATE,
) -> tuple[sp.PretextTask, list[dict[str, Any]]]:
    """Pretrains a task from weights drawn with the seed, or loads it if that was done before.

    Returns:
        The pretrained task and its training history.
    """
    torch.manual_seed(seed)
    created = sp.create_task(task, **options)
    if (out / "task" / "config.json").exists():
        return sp.PretextTask.from_pretrained(out / "task"), list(read_json(out / "history.json"))
    config = FitConfig(
        out=out,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        resume=True,
    )
    starts: list[float] = []
    with created.register_forward_pre_hook(
        lambda task, _: starts.append(time.perf_counter()) if task.training else None
    ):
        history = fit(created, data.pretrain, config, validation=data.validation)
    # The median is not affected by pauses between steps, such as a validation or the time between stop and resume.
    write_json(out / STEP_SECONDS, median(end - start for start, end in pairwise(starts)) if starts[2:] else None)
    return created, history


def step_seconds(out: Path) -> float | None:
    """The median duration of a training step of `pretrain_or_load`, in seconds; None if it was not measured."""
    return read_json(out / STEP_SECONDS) if (out / STEP_SECONDS).exists() else None


def pixel_accuracies(
    channels: Mapping[str, str], data: ExperimentData, preset: Preset, device: str
) -> dict[str, dict[str, Any]]:
    """Returns the test accuracies of linear probes on raw channels, for all seeds, by name and domain."""
    pixels = {name: sp.Pixels(spec) for name, spec in channels.items()}
    found = probe_accuracies(pixels, "linear", data, preset.seeds, device)
    return {name: {domain: values[name] for domain, values in found.items()} for name in channels}


def folder_name(name: str) -> str:
    """The name of a row in lower-case letters, digits and dashes, as a name for its folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def command_line(
    name: str,
    about: str,
    run: Callable[[ExperimentData, Preset, Path, str], dict[str, Any]],
    presets: Mapping[str, Preset] = PRESETS,
) -> int:
    """Parses the options that all comparisons share and runs one comparison.

    Writes `results.json` to the output folder, and beside it `page.md` with its plots.

    Args:
        name: Name of the module in `benchmarks`.
        about: Description for `--help`.
        run: Function that runs the comparison; takes the data, the preset, the output folder and the device.
        presets: Presets to choose from, by name.

    Returns:
        The exit code.
    """
    described = "\n".join(f"  {key:<6} {preset.about}" for key, preset in presets.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=f"{about}\n\npresets:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="cpu", choices=presets)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with food-101/ in it (default: sample photos)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: runs/{name}-PRESET)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: the preset's)")
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
            # The path of the data is left out, because it means nothing on another machine.
            "command": f"python -m benchmarks.{name} {'--data=DIR ' if options.data else ''}--preset={options.preset} "
            f"--seeds={preset.seeds}",
            "config": preset.to_dict() | {"learning_rate": LEARNING_RATE},
            "environment": environment(device),
            "data": {"name": data.name, "note": data.note, "counts": data.counts()},
            **results,
        }
        write_json(out / "results.json", results)
        publish(out / "results.json", out / "page")
        log.info("wrote the results to %s and their page to %s", out / "results.json", out / "page.md")

    return run_command(f"benchmarks.{name}", work)


def colorize(task: Any, images: Tensor) -> Tensor:
    """Colorizes images `(B, 3, H, W)` in `[0, 1]` with a pretrained task, batch by batch."""
    device = next(task.parameters()).device
    return torch.cat([task.colorize(batch.to(device)).cpu() for batch in images.split(256)]).clamp(0, 1)


def _accuracy_text(result: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{domain} " + ", ".join(f"{layer} {100 * value:.1f}%" for layer, value in layers.items())
        for domain, layers in result["accuracy"].items()
    )
