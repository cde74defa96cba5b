"""Ablation of the documented pretraining, one change at a time: `python -m benchmarks.ablation`.

Each row is a reduced version of the documented pretraining with one thing changed. All rows are evaluated by linear
probes on labeled training images that nothing else uses; test images are not read.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import PRESETS as COMPARISON_PRESETS
from benchmarks.harness import check_settings, command_line, folder_name, pretrain_or_load
from ssl_pretext.representations import OUTPUT
from ssl_pretext.system.files import read_json, write_json

__all__ = ["CHANGES", "Change"]

log = logging.getLogger("benchmarks.ablation")

TITLE = "What limits the documented encoder"
DOCUMENTED, UNTRAINED = "as documented", "untrained"
LEARNING_RATE = 1e-4
BEST_LAYER = "body.conv_act"  # the layer that the full experiment chose
READOUTS = {f"{BEST_LAYER} at 2×2": (BEST_LAYER, 2), "latent": (OUTPUT, None)}  # both have the same number of features
TASK = {"encoder": "autoencoder", "target": "rgb", "losses": {"smooth_l1": 1.0, "lpips[net=squeeze]": 1.0}}


@dataclass(frozen=True)
class Change:
    """One difference from the documented pretraining.

    Attributes:
        name: Name of the row.
        task: Options of the task that are changed.
        preset: Fields of the preset that are changed.
        learning_rate: Learning rate of pretraining.
    """

    name: str
    task: Mapping[str, Any] = field(default_factory=dict)
    preset: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = LEARNING_RATE

    @property
    def untrained(self) -> str | None:
        """Name of the row of its untrained encoder; None if that encoder is the documented one."""
        if self.name == DOCUMENTED:
            return UNTRAINED
        return f"{self.name}, {UNTRAINED}" if "encoder" in self.task else None


CHANGES = (
    Change(DOCUMENTED),
    Change("learning rate 1e-3", learning_rate=1e-3),
    Change("batches of 16, four times the steps", preset={"batch_size": 16}),
    Change("without LPIPS", task={"losses": {"smooth_l1": 1.0}}),
    Change("ab as the target, smooth L1", task={"target": "lab:ab", "losses": {"smooth_l1": 1.0}}),
    Change("ab as the target, color classes", task={"target": "lab:ab", "losses": {"color_classification": 1.0}}),
    Change("a latent of 32 channels", task={"encoder": "autoencoder[latent_channels=32]"}),
)
PRESETS = {
    "smoke": COMPARISON_PRESETS["smoke"],
    "cpu": replace(
        COMPARISON_PRESETS["cpu"],
        about="half an hour on two cores; a quarter of the images at 32 px, 4 epochs",
        epochs=4,
        pretrain_per_class=60,
        probe_classes=None,
        test_per_class=100,
        seeds=5,
    ),
}


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Pretrains and evaluates each change; the results of changes that were done before are read from `out`."""
    check_settings(out, preset, {"data": data.name})
    rows: list[dict[str, Any]] = []
    for change in CHANGES:
        file = out / folder_name(change.name) / f"accuracy-{preset.seeds}.json"
        if not file.exists():
            write_json(file, measure(change, data, preset, out, device))
        found = read_json(file)
        if change.untrained:
            rows += _rows(change.untrained, None, found[UNTRAINED])
        rows += _rows(change.name, change.untrained or DOCUMENTED, found["trained"])
        log.info("%s: %s", change.name, found["trained"])
    return {
        "title": TITLE,
        "config": preset.to_dict() | {"learning_rate": LEARNING_RATE},
        "judged_on": "validation",
        "rows": rows,
        "pixels": {},
    }


def _rows(name: str, control: str | None, found: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    """One row per seed of the probe, from accuracies by domain and readout."""
    seeds = range(len(next(iter(found["in"].values()))))
    return [
        {"row": name, "control": control, "seed": seed}
        | {
            "accuracy": {
                domain: {readout: accuracies[seed] for readout, accuracies in readouts.items()}
                for domain, readouts in found.items()
            }
        }
        for seed in seeds
    ]


def measure(change: Change, data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Pretrains one change and probes its encoder, trained and untrained.

    Returns:
        Accuracies per seed of the probe, by `"trained"` or `"untrained"`, then by domain and readout.
    """
    task, _ = pretrain_or_load(
        "colorization",
        TASK | dict(change.task),
        0,
        data,
        replace(preset, **change.preset),
        out=out / folder_name(change.name) / "pretraining",
        device=device,
        learning_rate=change.learning_rate,
    )
    backbone = task.backbone()
    readouts = {
        name: sp.representations.Concatenated([backbone.representation(layer)], size=size, name=name)
        if size
        else backbone.representation(layer, name)
        for name, (layer, size) in READOUTS.items()
    }
    found: dict[str, Any] = {"trained": {}, UNTRAINED: {}}
    for domain, train in data.probe_train.items():
        report = sp.evaluate(
            readouts,
            train,
            data.spare[domain],
            probe="linear",
            seeds=preset.seeds,
            controls=[UNTRAINED],
            cache=out / "probes",
            device=device,
        )
        for name in READOUTS:
            found["trained"].setdefault(domain, {})[name] = report.accuracies(name)
            found[UNTRAINED].setdefault(domain, {})[name] = report.accuracies(f"{name} (untrained)")
    return found


if __name__ == "__main__":
    sys.exit(command_line("ablation", __doc__.partition(":")[0] + ".", run, PRESETS))
