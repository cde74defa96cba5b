"""The best encoder for little: chosen on validation images, judged on test images: `python -m benchmarks.recipe`.

Every candidate is pretrained on the same unlabeled images and read out in several ways. Which candidate and which
readout is best is decided by linear probes on labeled images that are neither trained on nor test images. The chosen
one is then pretrained from several seeds and compared on the test images with its controls.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import Experiment
from benchmarks.harness import PRESETS as ROWS
from benchmarks.harness import Row, claim, command_line, pretrained, slug
from benchmarks.networks import STRIDED_CNN as CNN
from benchmarks.networks import STRIDED_LAYERS as LAYERS
from benchmarks.split_brain import COLORS, EVERYTHING, LIGHTNESS, REGRESSION, directed, split
from ssl_pretext.representations.base import Backbone
from ssl_pretext.representations.network import imagenet_reference
from ssl_pretext.system.files import read_json, write_json

__all__ = ["CANDIDATES", "READOUTS", "Readout", "choose", "judge"]

log = logging.getLogger("benchmarks.recipe")

HELD_OUT = 0.2  # of the labeled images, on which candidates and readouts are compared
TITLE = "A recipe for little"
RECIPE = "recipe"
ONE_WAY: dict[str, Any] = {"encoder": CNN, "output_stride": 8}
# Each half as wide as the network of one direction.
BOTH_WAYS: dict[str, Any] = {"encoder": [CNN, CNN], "output_stride": 8}
CANDIDATES = (
    directed("L → ab (cl)", "lab:L", "lab:ab", COLORS, **ONE_WAY),
    directed("ab → L (cl)", "lab:ab", "lab:L", LIGHTNESS, **ONE_WAY),
    directed("Lab → Lab (cl)", "lab", "lab", EVERYTHING, **ONE_WAY),
    split("split-brain (reg, reg)", [REGRESSION, REGRESSION], **BOTH_WAYS),
    split("split-brain (cl, cl)", [COLORS, LIGHTNESS], **BOTH_WAYS),
)


@dataclass(frozen=True)
class Readout:
    """Which layers are joined, to how many pixels a side their maps are averaged, and whether colors are counted."""

    layers: Sequence[str]
    size: int
    histogram: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        layers = "all layers" if len(self.layers) == len(LAYERS) else " ".join(self.layers)
        return f"{layers} at {self.size}×{self.size}" + (" and a color histogram" if self.histogram else "")

    def of(self, backbone: Backbone) -> sp.Representation:
        """The representation that it makes of a network."""
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
    "smoke": ROWS["smoke"],
    "cpu": replace(
        ROWS["cpu"],
        about="an hour on two cores; half of the images at 32 px",
        epochs=5,
        pretrain_per_class=120,
        probe_classes=None,
        seeds=5,
    ),
    "gpu": ROWS["gpu"],
}


def run(data: Experiment, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Chooses, then judges."""
    claim(out, preset, {"data": data.name, "readouts": list(READOUTS)})
    rows = choose(data, preset, out, device)
    best = max((row for row in rows if row["trained"]), key=lambda row: row["accuracy"])
    log.info("chosen on validation images: %s, %s", best["candidate"], best["readout"])
    candidate = next(one for one in CANDIDATES if one.name == best["candidate"])
    return {
        "title": TITLE,
        "validation": rows,
        "chosen": best,
        **judge(candidate, best["readout"], data, preset, out, device),
    }


def choose(data: Experiment, preset: Preset, out: Path, device: str) -> list[dict[str, Any]]:
    """Validation accuracy of every candidate and readout, trained and not; test images are not opened."""
    labeled = data.probe_train["in"]
    kept, held_out = sp.holdout_split(labeled.names, labeled.labels, fraction=HELD_OUT)
    train, validation = labeled.subset(kept), labeled.subset(held_out)
    rows = []
    for candidate in CANDIDATES:
        file = out / slug(candidate.name) / "validation.json"
        if not file.exists():
            folder = file.parent / "0"
            task, _ = pretrained(candidate.task, candidate.options, 0, data, preset, out=folder, device=device)
            report = sp.evaluate(
                {name: readout.of(task.backbone()) for name, readout in READOUTS.items()},
                train,
                validation,
                probe="linear",
                seeds=1,
                controls=["untrained"],
                device=device,
            )
            write_json(file, {name: report.accuracies(name) for name in report.names})
        for name, values in read_json(file).items():
            plain, untrained, _ = name.partition(" (untrained)")
            accuracy = sum(values) / len(values)
            rows.append({"candidate": candidate.name, "readout": plain, "trained": not untrained, "accuracy": accuracy})
        ours = [row for row in rows if row["candidate"] == candidate.name and row["trained"]]
        log.info("%s: %.1f%% at best", candidate.name, 100 * max(row["accuracy"] for row in ours))
    return rows


def judge(candidate: Row, name: str, data: Experiment, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """The chosen recipe, pretrained from several seeds, on the test images beside its controls."""
    folder = out / slug(candidate.name)
    tasks = [
        pretrained(candidate.task, candidate.options, seed, data, preset, out=folder / str(seed), device=device)[0]
        for seed in range(preset.seeds)
    ]
    reference = imagenet_reference()
    compared: dict[str, sp.Representation | list[sp.Representation]] = {
        RECIPE: [READOUTS[name].of(task.backbone()) for task in tasks],
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
    return {
        "summary": [{"domain": domain} | row for domain, one in reports.items() for row in one.summary()],
        "differences": [{"domain": domain} | row for domain, one in reports.items() for row in one.against_controls()],
        "probe_card": {domain: report.card for domain, report in reports.items()},
    }


if __name__ == "__main__":
    sys.exit(command_line("recipe", __doc__.partition(":")[0] + ".", run, PRESETS))
