"""A run of the Food-101 experiment: pretraining, probes, color quality and results."""

import hashlib
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.food101.answers import answer_questions
from benchmarks.food101.protocol import ExperimentData
from benchmarks.food101.report import write_report
from benchmarks.food101.studies import Findings, run_studies
from ssl_pretext.color_metrics import color_quality
from ssl_pretext.data import ImageStore
from ssl_pretext.losses import trunks_on_disk
from ssl_pretext.registry import parse_spec
from ssl_pretext.reporting import image_grid
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.tasks import Colorization
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = ["Run", "environment"]

log = logging.getLogger("benchmarks.food101")

# The part of the configuration that decides the pretrained weights.
PRETRAINING = (
    "preset", "image_size", "batch_size", "epochs", "losses", "learning_rate", "weight_decay", "precision", "seed"
)  # fmt: skip
GRID_ROWS = 8
QUALITY_IMAGES = 1_000  # maximum number of images for the color quality


class Run:
    """A run of the experiment, with its output folder.

    Args:
        data: The images by role.
        config: Everything that decides the results, as `results.json` stores it.
        out: Output folder.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        PretextError: A loss or encoder does not exist or its weights are missing. Nothing was written yet.
    """

    def __init__(self, data: ExperimentData, config: Mapping[str, Any], *, out: Path, device: str) -> None:
        self.data, self.config, self.out = data, dict(config), out
        self.device = resolve_device(device, "--device")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.task = Colorization("autoencoder", target="rgb", losses=config["losses"])

    def identity(self) -> dict[str, Any]:
        """The settings that must not change when a run is resumed: the data and all that decides pretraining.

        The settings of the probes are not among them, because each cached probe is stored with its own.
        """
        return {name: self.config[name] for name in PRETRAINING} | {"split_sha256": self.split_sha256()}

    def split_sha256(self) -> str:
        """A hash of all images by role, and so of the split."""
        stores = [self.data.pretrain, self.data.validation, self.data.excluded]
        stores += [*self.data.probe_train.values(), *self.data.probe_test.values()]
        return hashlib.sha256("".join(store.sha256 for store in stores).encode()).hexdigest()

    def execute(self, command: str, started: float) -> dict[str, Any] | None:
        """Runs all steps that were not finished before and writes `results.json`, `report.html` and `task/`.

        Args:
            command: The command of the run, as it is stored with the results.
            started: Value of `time.perf_counter()` when the program started.

        Returns:
            The results. None in all processes of a distributed run but the first, which take part in pretraining only.
        """
        times: dict[str, float] = {"data and preparation": time.perf_counter() - started}
        history = _timed(times, "pretraining", self.pretrain)
        if int(os.environ.get("RANK", "0")) != 0:
            return None
        findings = _timed(times, "probes", self.probe)
        quality, grids = _timed(times, "color quality", self.color)
        results = {
            "command": command,
            "config": self.config,
            "environment": environment(self.device),
            "data": self.describe_data(),
            "pretraining": {"history": history},
            **findings.results(),
            "color_quality": quality,
            "answers": answer_questions(findings, quality, self.config["losses"]),
            "times": {name: round(seconds, 1) for name, seconds in times.items()},
        }
        self.task.save_pretrained(self.out / "task")
        write_report(self.out, results, grids)
        write_json(self.out / "results.json", results)
        return results

    def pretrain(self) -> list[dict[str, Any]]:
        """Pretrains the task, or loads it if the run finished its pretraining before; returns the training history."""
        folder = self.out / "pretraining"
        if (folder / "task" / "config.json").exists():
            log.info("pretraining was finished before; the pretrained task is loaded")
            self.task = Colorization.from_pretrained(folder / "task")
            return list(read_json(folder / "history.json"))
        config = FitConfig(
            out=folder,
            epochs=self.config["epochs"],
            batch_size=self.config["batch_size"],
            learning_rate=self.config["learning_rate"],
            weight_decay=self.config["weight_decay"],
            schedule="constant",
            warmup=0,
            seed=self.config["seed"],
            precision=self.config["precision"],
            compile=self.config["compile"],
            device=self.device,
            resume=True,
        )
        return fit(self.task, self.data.pretrain, config, validation=self.data.validation)

    def probe(self) -> Findings:
        """Trains all probes; each is saved as soon as it is trained."""
        cache = self.out / "probes"
        return run_studies(self.task, self.data, self.config, cache=cache, device=self.device, log=log.info)

    def color(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Computes the color quality, and draws grids, of training, validation and excluded images.

        The gray images, which have the true lightness and no color, show what the predictions must surpass.
        """
        self.task.to(self.device)
        quality, grids = [], {}
        # LPIPS is computed with a network that was not the loss, if the weights of one are on disk.
        trained_on = {
            parse_spec(loss)[1].get("net", "alex") for loss in self.config["losses"] if loss.startswith("lpips")
        }
        trunk = next((net for net in trunks_on_disk() if net not in trained_on), None)
        for name, store in {
            "train": self.data.pretrain,
            "validation": self.data.validation,
            "excluded": self.data.excluded,
        }.items():
            chosen = torch.linspace(0, len(store) - 1, min(QUALITY_IMAGES, len(store))).long()
            truth, colored = self._colorized(store, chosen)
            for colors, images in (("predicted", colored), ("gray", Colorization.lightness(truth))):
                measured = color_quality(images, truth, lpips=trunk)
                quality.append({"images": name, "colors": colors, "count": len(chosen), **measured})
            rows = torch.linspace(0, len(store) - 1, min(GRID_ROWS, len(store))).long()
            truth, colored = self._colorized(store, rows)
            gray = Colorization.lightness(truth)
            titles = ("input", "predicted", "original")
            grids[name] = image_grid(list(zip(gray, colored, truth, strict=True)), titles)
        self.task.to("cpu")
        return quality, grids

    def _colorized(self, store: ImageStore, indices: Tensor) -> tuple[Tensor, Tensor]:
        truth, colored = [], []
        for batch in indices.split(256):
            images = store.images(batch).to(self.device)
            truth.append(images.cpu().float() / 255)
            colored.append(self.task.predict(images).float().cpu())
        return torch.cat(truth), torch.cat(colored).clamp(0, 1)

    def describe_data(self) -> dict[str, Any]:
        """Describes the data set for `results.json`."""
        return {
            "name": self.data.name,
            "note": self.data.note,
            "counts": self.data.counts(),
            "sha256": self.split_sha256(),
            "chance": {domain: 1 / len(store.labels.unique()) for domain, store in self.data.probe_test.items()},
            "skipped": self.data.skipped,
        }


def environment(device: str) -> dict[str, Any]:
    """Describes the machine and the versions of the software, so that runs can be compared.

    Args:
        device: `"cpu"` or `"cuda"`.
    """
    root = Path(__file__).parents[2]
    git = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    packages = ("torch", "torchvision", "diffusers", "lightning", "torchmetrics", "numpy", "pillow")
    return {
        "commit": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _timed(times: dict[str, float], name: str, part: Any) -> Any:
    start = time.perf_counter()
    value = part()
    times[name] = time.perf_counter() - start
    return value
