"""The run itself: pretraining, probes, color quality, results."""

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
from benchmarks.food101.protocol import Experiment
from benchmarks.food101.report import write_report
from benchmarks.food101.studies import Findings, study
from ssl_pretext.color_metrics import color_quality
from ssl_pretext.data import ImageStore
from ssl_pretext.losses.lpips import trunks_on_disk
from ssl_pretext.registry import parse_spec
from ssl_pretext.reporting.page import image_grid
from ssl_pretext.system.files import read_json, write_json
from ssl_pretext.tasks import Colorization
from ssl_pretext.training.config import FitConfig
from ssl_pretext.training.fit import fit

__all__ = ["Run", "environment"]

log = logging.getLogger("benchmarks.food101")

PRETRAINING = (
    "preset", "image_size", "batch_size", "epochs", "losses", "learning_rate", "weight_decay", "precision", "seed"
)  # fmt: skip
GRID_ROWS = 8
QUALITY_IMAGES = 1_000


class Run:
    """One run of the experiment in one folder.

    Args:
        data: The images by role.
        config: Everything that decides the result, as it is written to `config.json`.
        out: Output folder.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        PretextError: A loss or encoder does not exist or lacks its weights, before anything is written.
    """

    def __init__(self, data: Experiment, config: Mapping[str, Any], *, out: Path, device: str) -> None:
        self.data, self.config, self.out = data, dict(config), out
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.task = Colorization("autoencoder", target="rgb", losses=config["losses"])

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share: the data, and how the task is pretrained. Probes look after themselves."""
        return {name: self.config[name] for name in PRETRAINING} | {"split_sha256": self.split_sha256()}

    def split_sha256(self) -> str:
        """One figure for who was trained and tested on what."""
        stores = [self.data.pretrain, self.data.validation, self.data.excluded]
        stores += [*self.data.probe_train.values(), *self.data.probe_test.values()]
        return hashlib.sha256("".join(store.sha256 for store in stores).encode()).hexdigest()

    def execute(self, command: str, started: float) -> dict[str, Any] | None:
        """Does what is not done yet and writes `results.json`, `report.html` and `task/`.

        Returns:
            The results; None in the processes of a distributed run that only help to pretrain.
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
            "answers": answer_questions(findings, quality),
            "times": {name: round(seconds, 1) for name, seconds in times.items()},
        }
        self.task.save_pretrained(self.out / "task")
        write_report(self.out, results, grids, findings)
        write_json(self.out / "results.json", results)
        return results

    def pretrain(self) -> list[dict[str, Any]]:
        """Pretrains, or loads the task of a run that got that far."""
        folder = self.out / "pretraining"
        if (folder / "task" / "config.json").exists():
            log.info("pretraining: done before, loaded")
            self.task = Colorization.from_pretrained(folder / "task")
            return list(read_json(folder / "history.json"))
        fitting = FitConfig(
            out=folder,
            epochs=self.config["epochs"],
            batch_size=self.config["batch_size"],
            learning_rate=self.config["learning_rate"],
            weight_decay=self.config["weight_decay"],
            seed=self.config["seed"],
            precision=self.config["precision"],
            compile=self.config["compile"],
            device=self.device,
            resume=True,
        )
        return fit(self.task, self.data.pretrain, fitting, validation=self.data.validation)

    def probe(self) -> Findings:
        """Trains every probe; each is kept as soon as it is done."""
        return study(self.task, self.data, self.config, cache=self.out / "probes", device=self.device, say=log.info)

    def color(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Color quality and grids of training, validation and excluded images."""
        self.task.to(self.device)
        quality, grids = [], {}
        # A trunk that is no loss here; which ones are at hand is the machine's business.
        pleased = {parse_spec(loss)[1].get("net", "alex") for loss in self.config["losses"] if loss.startswith("lpips")}
        judge = next((net for net in trunks_on_disk() if net not in pleased), None)
        for name, store in {
            "train": self.data.pretrain,
            "validation": self.data.validation,
            "excluded": self.data.excluded,
        }.items():
            chosen = torch.linspace(0, len(store) - 1, min(QUALITY_IMAGES, len(store))).long()
            truth, colored = self._colorized(store, chosen)
            quality.append({"images": name, "count": len(chosen), **color_quality(colored, truth, lpips=judge)})
            rows = torch.linspace(0, len(store) - 1, min(GRID_ROWS, len(store))).long()
            truth, colored = self._colorized(store, rows)
            gray = Colorization.lightness(truth)
            titles = ("gray", "ours", "truth")
            grids[name] = image_grid(list(zip(gray, colored, truth, strict=True)), titles)
        self.task.to("cpu")
        return quality, grids

    def _colorized(self, store: ImageStore, indices: Tensor) -> tuple[Tensor, Tensor]:
        truth, colored = [], []
        for batch in indices.split(256):
            images = store.images(batch).to(self.device)
            truth.append(images.cpu().float() / 255)
            colored.append(self.task.colorize(images).float().cpu())
        return torch.cat(truth), torch.cat(colored).clamp(0, 1)

    def describe_data(self) -> dict[str, Any]:
        """The data set as `results.json` holds it."""
        return {
            "name": self.data.name,
            "note": self.data.note,
            "counts": self.data.counts(),
            "sha256": self.split_sha256(),
            "chance": {domain: 1 / len(store.labels.unique()) for domain, store in self.data.probe_test.items()},
            "skipped": self.data.skipped,
        }


def environment(device: str) -> dict[str, Any]:
    """Machine and software, for whoever compares two runs."""
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
