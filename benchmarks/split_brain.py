"""Comparison of directions of prediction, as in Zhang et al. 2017: `python -m benchmarks.split_brain`."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import TaskComparison, TaskSpec, command_line, linear_probes
from benchmarks.networks import SMALL_CNN as CNN
from benchmarks.networks import SMALL_LAYERS as LAYERS

REGRESSION = {"l2": 1.0}
AB_CLASSES = {"color_classification[neighbors=1;rebalance=1]": 1.0}  # one-hot, not rebalanced, as in section 4.1
L_CLASSES = {"channel_classification[bins=50]": 1.0}
LAB_CLASSES = {"lab_classification[bins=50]": 1.0}


def cross_channel_task(
    name: str,
    source: str,
    target: str,
    losses: dict[str, float],
    *,
    encoder: str = CNN,
    output_stride: int = 4,
) -> TaskSpec:
    """A row of plain cross-channel prediction from `source` to `target`, at a fraction of the resolution."""
    options = {"source": source, "target": target, "encoder": encoder, "losses": losses}
    return TaskSpec(name, "cross_channel", options | {"output_stride": output_stride})


def split_brain_task(
    name: str,
    losses: list[dict[str, float]],
    *,
    encoder: str | list[str] = CNN,
    output_stride: int = 4,
) -> TaskSpec:
    """A row of split-brain prediction between L and ab, at a fraction of the resolution.

    If `encoder` is one name, each of the two encoders has half the width of that network.
    """
    options = {"first": "lab:L", "second": "lab:ab", "encoder": encoder, "losses": losses}
    return TaskSpec(name, "split_brain", options | {"output_stride": output_stride})


COMPARISON = TaskComparison(
    title="Directions of prediction",
    tasks=[
        cross_channel_task("Lab → Lab (reg)", "lab", "lab", REGRESSION),
        cross_channel_task("Lab → Lab (cl)", "lab", "lab", LAB_CLASSES),
        cross_channel_task("L → ab (reg)", "lab:L", "lab:ab", REGRESSION),
        cross_channel_task("L → ab (cl)", "lab:L", "lab:ab", AB_CLASSES),
        cross_channel_task("ab → L (reg)", "lab:ab", "lab:L", REGRESSION),
        cross_channel_task("ab → L (cl)", "lab:ab", "lab:L", L_CLASSES),
        split_brain_task("split-brain (reg, reg)", [REGRESSION, REGRESSION]),
        split_brain_task("split-brain (cl, cl)", [AB_CLASSES, L_CLASSES]),
    ],
    readouts=linear_probes(LAYERS, {"pixels Lab": "lab", "pixels L": "lab:L", "pixels ab": "lab:ab"}),
)
# Zhang et al. 2017, table 2 of the first version: linear probes on ImageNet, AlexNet, top-1 in percent.
PAPER = {
    "untrained": (11.6, 17.1, 16.9, 16.3, 14.1),
    "Lab → Lab (reg)": (12.9, 20.1, 18.5, 15.1, 11.5),
    "L → ab (reg)": (12.3, 23.5, 29.6, 31.1, 30.1),
    "L → ab (cl)": (12.7, 26.2, 33.0, 33.3, 31.8),
    "ab → L (reg)": (11.5, 19.4, 23.5, 23.9, 21.7),
    "ab → L (cl)": (11.6, 19.2, 22.6, 21.7, 19.2),
    "split-brain (reg, reg)": (17.4, 27.9, 33.6, 34.2, 32.3),
    "split-brain (cl, cl)": (17.7, 29.3, 35.4, 35.2, 32.8),
}


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Runs all rows, and adds the table of the paper."""
    return COMPARISON.run(data, preset, out=out, device=device) | {"paper": PAPER}


if __name__ == "__main__":
    sys.exit(command_line("split_brain", __doc__.partition(":")[0] + ".", run))
