"""Comparisons of pretext tasks, which are all pretrained and probed in the same way, once per seed."""

import argparse
import logging
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from benchmarks.food101.studies import thin_history
from benchmarks.result_page import store_and_publish
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import ArgumentError, CheckpointError
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = [
    "Readout",
    "TaskComparison",
    "TaskSpec",
    "check_settings",
    "colorize",
    "command_line",
    "compact",
    "folder_name",
    "linear_probes",
    "pretrain_or_load",
    "step_seconds",
]

log = logging.getLogger("benchmarks.harness")

LEARNING_RATE = 1e-3
STEP_SECONDS = "step_seconds.json"
OF_CLASSES = {"class_scores", "confusions", "part_class_scores"}  # two thirds of a report with many classes
TIMED_STEPS = 20
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
        seeds=3,
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
        preset: Fields of the preset that are changed for this row.
        learning_rate: Learning rate of pretraining.
        augment: Augmentation in a comparison on equal time; None for that of the task.
    """

    name: str
    task: str
    options: Mapping[str, Any]
    preset: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = LEARNING_RATE
    augment: str | None = None


@dataclass(frozen=True)
class Readout:
    """What a column of the tables shows: a representation of each task, and the probe that is trained on it.

    Attributes:
        representation: Function from a task to the representation.
        probe: Name of the probe.
        baselines: Representations to compare with, by name, such as pixels.
    """

    representation: Callable[[sp.PretextTask], sp.Representation]
    probe: str = "linear"
    baselines: Mapping[str, sp.Representation] = field(default_factory=dict)


def linear_probes(layers: Sequence[str | None], baselines: Mapping[str, str]) -> dict[str, Readout]:
    """Linear probes on the given layers of the encoder; None stands for its output.

    Args:
        layers: Names of the layers.
        baselines: Channels of the image to compare with, by name. They are shown in the first column only.
    """

    def read(layer: str | None) -> Callable[[sp.PretextTask], sp.Representation]:
        return lambda task: task.representation(layer)

    pixels = {name: sp.Pixels(channels) for name, channels in baselines.items()}
    return {layer or "encoder": Readout(read(layer), baselines={} if i else pixels) for i, layer in enumerate(layers)}


@dataclass(frozen=True)
class TaskComparison:
    """Pretext tasks that are pretrained on the same images in the same order and evaluated by the same probes.

    Each task is compared with its own encoder untrained.

    Attributes:
        title: Title of the results page.
        tasks: The tasks to compare.
        readouts: The columns of the tables by name.
        extra: Function that computes further measures of a pretrained task from the task and the data, as a
            JSON-ready mapping.
        pretrainings: Number of pretrainings of each task, by default one for each seed.
        judged_on: `"test"`, or `"validation"` for labeled training images that nothing else uses.
        baseline: Name of the task that the others are compared with, too.
    """

    title: str
    tasks: Sequence[TaskSpec]
    readouts: Mapping[str, Readout]
    extra: Callable[[sp.PretextTask, ExperimentData], dict[str, Any]] = lambda _task, _data: {}
    pretrainings: int | None = None
    judged_on: str = "test"
    baseline: str | None = None

    def run(self, data: ExperimentData, preset: Preset, *, out: Path, device: str) -> dict[str, Any]:
        """Pretrains and evaluates all tasks; what the folder `out` holds already is not computed again.

        Returns:
            The results, as `results.json` holds them: a row per pretraining, and a report by column and domain.
        """
        check_settings(out, preset, {"data": data.name, "columns": list(self.readouts)})
        tasks: dict[str, list[sp.PretextTask]] = {spec.name: [] for spec in self.tasks}
        rows = []
        if preset.seconds is not None:
            for spec in self.tasks:  # all at once, before the first is trained
                config = FitConfig(out=out, batch_size=preset.batch_size, device=device, epochs=1)
                log.info("%s: %.0f ms per step", spec.name, 1000 * time_steps(spec, data, config, out))
        # The outer loop is over seeds, so that a run that is stopped has all tasks with the seeds that it finished.
        for seed in range(self.pretrainings or preset.seeds):
            for spec in self.tasks:
                folder = out / f"{folder_name(spec.name)}-{seed}"
                task, history = pretrain_or_load(spec, seed, data, preset, out=folder / "pretraining", device=device)
                file = folder / "extra.json"
                if not file.exists():
                    write_json(file, self.extra(task.to(device).eval(), data))
                rows.append(
                    {"row": spec.name, "seed": seed, "history": history}
                    | {"step_seconds": step_seconds(folder / "pretraining")}
                    | ({"timed_seconds": time_steps(spec, data, config, out)} if preset.seconds is not None else {})
                    | read_json(file)
                )
                tasks[spec.name].append(task)
        return {
            "title": self.title,
            "judged_on": self.judged_on,
            "baseline": self.baseline,
            "rows": rows,
            "reports": {
                column: self._reports(column, readout, tasks, data, preset, out=out / "reports", device=device)
                for column, readout in self.readouts.items()
            },
        }

    def _reports(
        self,
        column: str,
        readout: Readout,
        tasks: Mapping[str, Sequence[sp.PretextTask]],
        data: ExperimentData,
        preset: Preset,
        *,
        out: Path,
        device: str,
    ) -> dict[str, Any]:
        """Evaluates one readout of all tasks in each domain; returns the reports by domain, as JSON holds them.

        Finished reports are stored. Features are not: those of all layers of all networks would take tens of gigabytes.
        """
        compared: dict[str, sp.Representation | list[sp.Representation]] = {
            name: [readout.representation(task) for task in of_seeds] for name, of_seeds in tasks.items()
        }
        if self.pretrainings == 1:
            compared = {name: readout.representation(task) for name, (task,) in tasks.items()}
        judged = data.probe_test if self.judged_on == "test" else data.spare
        found = {}
        for domain, train in data.probe_train.items():
            file = out / f"{folder_name(column)}-{domain}-{preset.seeds}.json"
            if not file.exists():
                report = sp.evaluate(
                    compared | dict(readout.baselines),
                    train,
                    judged[domain],
                    probe=readout.probe,
                    seeds=preset.seeds,
                    controls=["untrained"],
                    device=device,
                )
                log.info("%s, %s\n%s", column, domain, report.table())
                write_json(file, compact(report))
            found[domain] = read_json(file)
        return found


def compact(report: sp.ProbeReport) -> dict[str, Any]:
    """A report as JSON holds it, with the last row of each history only, and without what no page shows: each class."""
    content = report.to_dict()
    runs = [{key: value for key, value in run.items() if key not in OF_CLASSES} for run in content["runs"]]
    return content | {"runs": [run | {"history": thin_history(run["history"], 1)} for run in runs]}


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
    spec: TaskSpec, seed: int, data: ExperimentData, preset: Preset, *, out: Path, device: str
) -> tuple[sp.PretextTask, list[dict[str, Any]]]:
    """Pretrains a task from weights drawn with the seed, or loads it if that was done before.

    Returns:
        The pretrained task and its training history.
    """
    torch.manual_seed(seed)
    created = sp.create_task(spec.task, **spec.options)
    if (out / "task" / "config.json").exists():
        return sp.PretextTask.from_pretrained(out / "task"), list(read_json(out / "history.json"))
    preset = replace(preset, **spec.preset)
    config = FitConfig(
        out=out,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=spec.learning_rate,
        schedule="constant",
        warmup=0,
        augment="none",
        seed=seed,
        device=device,
        resume=True,
    )
    if preset.seconds is not None:
        steps = max(1, round(preset.seconds / time_steps(spec, data, config, out.parent.parent)))
        epochs = math.ceil(steps / math.ceil(len(data.pretrain) / config.batch_size))
        config = replace(config, epochs=epochs, max_steps=steps, schedule="cosine", warmup=0.05, augment=spec.augment)
    history, seconds = _timed_fit(created, data, config, validation=data.validation)
    write_json(out / STEP_SECONDS, seconds)
    return created, history


def time_steps(spec: TaskSpec, data: ExperimentData, config: FitConfig, folder: Path) -> float:
    """Measures the duration of a training step of a task in seconds, as `_timed_fit` does, or reads what it measured.

    It is measured once, so that all seeds are trained for the same number of steps.

    Args:
        spec: The task.
        data: The images.
        config: Configuration of the run.
        folder: Folder of the comparison, where `timing.json` keeps the durations.
    """
    file = folder / "timing.json"
    known = read_json(file) if file.exists() else {}
    if spec.name not in known:
        with tempfile.TemporaryDirectory() as temporary:
            trial = replace(config, out=Path(temporary), max_steps=TIMED_STEPS, augment=spec.augment, resume=False)
            _, seconds = _timed_fit(sp.create_task(spec.task, **spec.options), data, trial)
        if seconds is None:
            raise ArgumentError(f"{spec.name} has too few steps to measure how long one takes; use more images")
        known[spec.name] = seconds
        write_json(file, known)
    return float(known[spec.name])


def _timed_fit(
    task: sp.PretextTask, data: ExperimentData, config: FitConfig, **options: Any
) -> tuple[list[dict[str, Any]], float | None]:
    """Trains a task; returns its history and the median duration of a step in seconds.

    On a CPU, these are seconds of all cores together, which other work on the machine affects less.
    """
    starts: list[float] = []
    clock = time.process_time if config.device == "cpu" else time.perf_counter
    with task.register_forward_pre_hook(lambda task, _: starts.append(clock()) if task.training else None):
        history = fit(task, data.pretrain, config, **options)
    # The median is not affected by pauses between steps, such as a validation or the time between stop and resume.
    return history, median(end - start for start, end in pairwise(starts)) if starts[2:] else None


def step_seconds(out: Path) -> float | None:
    """The median duration of a step of `pretrain_or_load`, in seconds; None if it was not measured."""
    return read_json(out / STEP_SECONDS) if (out / STEP_SECONDS).exists() else None


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
    out = options.out or Path(f"runs/{name}-{options.preset}")

    def work() -> None:
        device = resolve_device(options.device, "--device")
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
        store_and_publish(results, out)

    return run_command(f"benchmarks.{name}", work)


def colorize(task: Any, images: Tensor) -> Tensor:
    """Colorizes images `(B, 3, H, W)` in `[0, 1]` with a pretrained task, batch by batch."""
    device = next(task.parameters()).device
    return torch.cat([task.predict(batch.to(device)).cpu() for batch in images.split(256)]).clamp(0, 1)
