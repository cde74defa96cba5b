"""Ablation of the documented pretraining, one change at a time: `python -m benchmarks.ablation`.

Each row is a reduced version of the documented pretraining with one thing changed. All rows are evaluated by linear
probes on labeled training images that nothing else uses; test images are not read.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import PRESETS as COMPARISON_PRESETS
from benchmarks.harness import Readout, TaskComparison, TaskSpec, command_line

__all__ = ["COMPARISON", "PRESETS"]

DOCUMENTED = "as documented"
LEARNING_RATE = 1e-4
BEST_LAYER = "body.conv_act"  # the layer that the full experiment chose
TASK = {"encoder": "autoencoder", "target": "rgb", "losses": {"smooth_l1": 1.0, "lpips[net=squeeze]": 1.0}}


def change(
    name: str,
    task: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    learning_rate: float = LEARNING_RATE,
) -> TaskSpec:
    """A row with some options of the task, or of the preset, that differ from the documented pretraining."""
    return TaskSpec(name, "colorization", TASK | dict(task or {}), preset or {}, learning_rate)


COMPARISON = TaskComparison(
    title="What limits the documented encoder",
    tasks=[
        change(DOCUMENTED),
        change("learning rate 1e-3", learning_rate=1e-3),
        change("batches of 16, four times the steps", preset={"batch_size": 16}),
        change("without LPIPS", {"losses": {"smooth_l1": 1.0}}),
        change("ab as the target, smooth L1", {"target": "lab:ab", "losses": {"smooth_l1": 1.0}}),
        change("ab as the target, color classes", {"target": "lab:ab", "losses": {"color_classification": 1.0}}),
        change("a latent of 32 channels", {"encoder": "autoencoder[latent_channels=32]"}),
    ],
    readouts={  # both have the same number of features
        f"{BEST_LAYER} at 2×2": Readout(
            lambda task: sp.representations.Concatenated([task.representation(BEST_LAYER)], size=2)
        ),
        "latent": Readout(lambda task: task.representation()),
    },
    pretrainings=1,
    judged_on="validation",
    baseline=DOCUMENTED,
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
    results = COMPARISON.run(data, preset, out=out, device=device)
    return results | {"config": preset.to_dict() | {"learning_rate": LEARNING_RATE}}


if __name__ == "__main__":
    sys.exit(command_line("ablation", __doc__.partition(":")[0] + ".", run, PRESETS))
