"""A pretraining recipe for few labels, selected on validation images: `python -m benchmarks.recipe`.

Every candidate task is pretrained on the same unlabeled images, and its features are read out in several ways. Linear
probes on held-out labeled training images select the best candidate and readout. The selected recipe is then
pretrained from several seeds and compared with its controls on the test images.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import PRESETS as COMPARISON_PRESETS
from benchmarks.harness import TaskSpec, check_settings, command_line, compact, folder_name, pretrain_or_load
from benchmarks.networks import STRIDED_CNN as CNN
from benchmarks.networks import STRIDED_LAYERS as LAYERS
from benchmarks.split_brain import (
    AB_CLASSES,
    L_CLASSES,
    LAB_CLASSES,
    REGRESSION,
    cross_channel_task,
    split_brain_task,
)
from ssl_pretext.representations import Backbone, imagenet_reference
from ssl_pretext.system.files import read_json, write_json

__all__ = ["CANDIDATES", "READOUTS", "Readout", "evaluate_on_test", "validate_candidates"]

log = logging.getLogger("benchmarks.recipe")

HELD_OUT = 0.2  # fraction of the labeled images on which candidates and readouts are compared
TITLE = "A recipe for few labels"
RECIPE = "recipe"
ONE_ENCODER: dict[str, Any] = {"encoder": CNN, "output_stride": 8}
# Each encoder of a split brain is as wide as the single encoder of the other candidates.
TWO_ENCODERS: dict[str, Any] = {"encoder": [CNN, CNN], "output_stride": 8}
CANDIDATES = (
    cross_channel_task("L → ab (cl)", "lab:L", "lab:ab", AB_CLASSES, **ONE_ENCODER),
    cross_channel_task("ab → L (cl)", "lab:ab", "lab:L", L_CLASSES, **ONE_ENCODER),
    cross_channel_task("Lab → Lab (cl)", "lab", "lab", LAB_CLASSES, **ONE_ENCODER),
    split_brain_task("split-brain (reg, reg)", [REGRESSION, REGRESSION], **TWO_ENCODERS),
    split_brain_task("split-brain (cl, cl)", [AB_CLASSES, L_CLASSES], **TWO_ENCODERS),
)


@dataclass(frozen=True)
class Readout:
    """A way to read features out of an encoder.

    Attributes:
        layers: Names of the layers whose feature maps are concatenated.
        size: Height and width that the feature maps are averaged to.
        histogram: Whether a color histogram of the image is concatenated too.
    """

    layers: Sequence[str]
    size: int
    histogram: bool = False

    @property
    def name(self) -> str:
        """Name of the readout in tables."""
        layers = "all layers" if len(self.layers) == len(LAYERS) else " ".join(self.layers)
        return f"{layers} at {self.size}×{self.size}" + (" and a color histogram" if self.histogram else "")

    def representation(self, backbone: Backbone) -> sp.Representation:
        """The representation that this readout makes of a network."""
        parts = [backbone.representation(layer) for layer in self.layers]
        return sp.representations.Concatenated(
            [*parts, *([sp.representations.ColorHistogram()] if self.histogram else [])], size=self.size, name=self.name
        )


READOUTS = {
    readout.name: readout
    for readout in (
        Readout(["conv2"], 1),
        Readout(["conv3"], 1),
        Readout(["conv4"], 1),
        Readout(LAYERS, 1),
        Readout(LAYERS, 2),
        Readout(LAYERS, 1, histogram=True),
    )
}
PRESETS = {
    "smoke": COMPARISON_PRESETS["smoke"],
    "cpu": replace(
        COMPARISON_PRESETS["cpu"],
        about="an hour on two cores; half of the images at 32 px",
        epochs=5,
        pretrain_per_class=120,
        probe_classes=None,
        seeds=5,
    ),
    "gpu": COMPARISON_PRESETS["gpu"],
}


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Selects a recipe on validation images, then evaluates it on the test images."""
    check_settings(out, preset, {"data": data.name, "readouts": list(READOUTS)})
    rows = validate_candidates(data, preset, out, device)
    best = max((row for row in rows if row["trained"]), key=lambda row: row["accuracy"])
    log.info("selected on validation images: %s, %s", best["candidate"], best["readout"])
    selected = next(candidate for candidate in CANDIDATES if candidate.name == best["candidate"])
    return {
        "title": TITLE,
        "validation": rows,
        "chosen": best,
        **evaluate_on_test(selected, best["readout"], data, preset, out, device),
    }


def validate_candidates(data: ExperimentData, preset: Preset, out: Path, device: str) -> list[dict[str, Any]]:
    """Returns the validation accuracy of every candidate and readout, trained and untrained; no test image is read."""
    labeled = data.probe_train["in"]
    kept, held_out = sp.holdout_split(labeled.names, labeled.labels, fraction=HELD_OUT)
    train, validation = labeled.subset(kept), labeled.subset(held_out)
    rows = []
    for candidate in CANDIDATES:
        file = out / folder_name(candidate.name) / "validation.json"
        if not file.exists():
            folder = file.parent / "0"
            task, _ = pretrain_or_load(candidate, 0, data, preset, out=folder, device=device)
            report = sp.evaluate(
                {name: readout.representation(task.backbone()) for name, readout in READOUTS.items()},
                train,
                validation,
                probe="linear",
                seeds=1,
                controls=["untrained"],
                device=device,
            )
            write_json(file, {name: report.values(name) for name in report.names})
        for name, values in read_json(file).items():
            readout, untrained, _ = name.partition(" (untrained)")
            accuracy = sum(values) / len(values)
            row = {"candidate": candidate.name, "readout": readout, "trained": not untrained, "accuracy": accuracy}
            rows.append(row)
        trained = [row for row in rows if row["candidate"] == candidate.name and row["trained"]]
        log.info("%s: best accuracy %.1f%%", candidate.name, 100 * max(row["accuracy"] for row in trained))
    return rows


def evaluate_on_test(
    candidate: TaskSpec, readout: str, data: ExperimentData, preset: Preset, out: Path, device: str
) -> dict[str, Any]:
    """Pretrains the selected recipe from several seeds and compares it with its controls on the test images."""
    folder = out / folder_name(candidate.name)
    tasks = [
        pretrain_or_load(candidate, seed, data, preset, out=folder / str(seed), device=device)[0]
        for seed in range(preset.seeds)
    ]
    reference = imagenet_reference()
    compared: dict[str, sp.Representation | list[sp.Representation]] = {
        RECIPE: [READOUTS[readout].representation(task.backbone()) for task in tasks],
        "pixels 8×8": sp.Pixels("rgb", size=8),
        reference.name: reference,
    }
    reports = {
        domain: sp.evaluate(
            compared,
            data.probe_train[domain],
            data.probe_test[domain],
            probe="linear",
            seeds=preset.seeds,
            cache=out / "probes",
            device=device,
        )
        for domain in data.probe_train
    }
    for domain, report in reports.items():
        log.info("%s\n%s", domain, report.table())
    return {"reports": {readout: {domain: compact(report) for domain, report in reports.items()}}}


if __name__ == "__main__":
    sys.exit(command_line("recipe", __doc__.partition(":")[0] + ".", run, PRESETS))
