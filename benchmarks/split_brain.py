"""What is learned from each direction of prediction: `python -m benchmarks.split_brain`, after Zhang et al. 2017."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import Experiment
from benchmarks.harness import Comparison, Row, command_line, linear_probes, pixel_rows
from benchmarks.networks import SMALL_CNN as CNN
from benchmarks.networks import SMALL_LAYERS as LAYERS

REGRESSION = {"l2": 1.0}
COLORS = {"color_classification[neighbors=1;rebalance=1]": 1.0}  # one-hot and not rebalanced, as in section 4.1
LIGHTNESS = {"channel_classification[bins=50]": 1.0}
EVERYTHING = {"lab_classification[bins=50]": 1.0}


def directed(
    name: str,
    source: str,
    target: str,
    losses: dict[str, float],
    control: str | None = None,
    *,
    encoder: str = CNN,
    output_stride: int = 4,
) -> Row:
    """A row of plain cross-channel prediction, at a fraction of the resolution."""
    options = {"source": source, "target": target, "encoder": encoder, "losses": losses}
    return Row(name, "cross_channel", options | {"output_stride": output_stride}, control)


def split(
    name: str,
    losses: list[dict[str, float]],
    control: str | None = None,
    *,
    encoder: str | list[str] = CNN,
    output_stride: int = 4,
) -> Row:
    """A row of two halves, each of half the width if the encoder is one name."""
    options = {"first": "lab:L", "second": "lab:ab", "encoder": encoder, "losses": losses}
    return Row(name, "split_brain", options | {"output_stride": output_stride}, control)


COMPARISON = Comparison(
    title="Directions of prediction",
    rows=[
        directed("L untrained", "lab:L", "lab:ab", REGRESSION),
        directed("ab untrained", "lab:ab", "lab:L", REGRESSION),
        directed("Lab untrained", "lab", "lab", REGRESSION),
        split("split untrained", [REGRESSION, REGRESSION]),
        directed("Lab → Lab (reg)", "lab", "lab", REGRESSION, "Lab untrained"),
        directed("Lab → Lab (cl)", "lab", "lab", EVERYTHING, "Lab untrained"),
        directed("L → ab (reg)", "lab:L", "lab:ab", REGRESSION, "L untrained"),
        directed("L → ab (cl)", "lab:L", "lab:ab", COLORS, "L untrained"),
        directed("ab → L (reg)", "lab:ab", "lab:L", REGRESSION, "ab untrained"),
        directed("ab → L (cl)", "lab:ab", "lab:L", LIGHTNESS, "ab untrained"),
        split("split-brain (reg, reg)", [REGRESSION, REGRESSION], "split untrained"),
        split("split-brain (cl, cl)", [COLORS, LIGHTNESS], "split untrained"),
    ],
    judges=[linear_probes(LAYERS)],
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


def run(data: Experiment, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """All rows, the raw channels, and the published table beside."""
    rows = COMPARISON.run(data, preset, out=out, device=device)
    pixels = pixel_rows({"pixels Lab": "lab", "pixels L": "lab:L", "pixels ab": "lab:ab"}, data, preset, device)
    return {"title": COMPARISON.title, "rows": rows, "pixels": pixels, "paper": PAPER}


if __name__ == "__main__":
    sys.exit(command_line("split_brain", __doc__.partition(":")[0] + ".", run))
