"""Comparison of the losses of colorization, by color quality and by probes: `python -m benchmarks.color_losses`."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import (
    TaskComparison,
    TaskSpec,
    colorize,
    command_line,
    folder_name,
    linear_probes,
)
from benchmarks.networks import SMALL_CNN
from ssl_pretext.color_metrics import color_quality
from ssl_pretext.losses import trunks_on_disk
from ssl_pretext.quantize import ColorQuantizer
from ssl_pretext.reporting import image_grid
from ssl_pretext.system.files import write_bytes

LOSSES = {
    "l2": {"l2": 1.0},
    "smooth_l1": {"smooth_l1": 1.0},
    "smooth_l1 + lpips": {"smooth_l1": 1.0, "lpips[net=squeeze]": 1.0},
    "classification": {"color_classification[rebalance=1]": 1.0},
    "rebalanced": {"color_classification": 1.0},
    "l2 + adversarial": {"l2": 1.0, "adversarial": 0.01},
}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # freely licensed, so that the page may show them
PHOTO_SIZE = 96


def options(losses: dict[str, float]) -> dict[str, Any]:
    """Options of colorization as in Zhang et al. 2016, at a quarter of the resolution."""
    return {"encoder": SMALL_CNN, "target": "lab:ab", "losses": losses, "output_stride": 4}


def quality(task: sp.PretextTask, data: ExperimentData) -> dict[str, Any]:
    """Measures the color quality on held-out images of the pretraining classes.

    Colors are rebalanced by the frequencies of colors in the training images. LPIPS is measured if the weights of
    SqueezeNet are on disk; it favors the row that uses the same network as its loss.
    """
    truth = data.validation.images().float() / 255
    return {"quality": _distance(colorize(task, truth), truth, data)}


def _distance(images: Tensor, truth: Tensor, data: ExperimentData) -> dict[str, float]:
    trunk = "squeeze" if "squeeze" in trunks_on_disk() else None
    chosen = torch.linspace(0, len(data.pretrain) - 1, min(2_000, len(data.pretrain))).long()
    quantizer = ColorQuantizer().fit_prior_to_images(data.pretrain.images(chosen))
    return color_quality(images, truth, quantizer=quantizer, lpips=trunk)


COMPARISON = TaskComparison(
    title="Losses of colorization",
    tasks=[TaskSpec(name, "colorization", options(losses)) for name, losses in LOSSES.items()],
    readouts=linear_probes(["conv3", "conv4", "conv5"], {"pixels RGB": "rgb", "pixels L": "lab:L"}),
    extra=quality,
)


def photos() -> Tensor:
    """Freely licensed photographs `(N, 3, 96, 96)` in `[0, 1]`."""
    from skimage import data
    from torchvision.transforms import functional as F

    pictures = [torch.from_numpy(getattr(data, name)()[..., :3].copy()).permute(2, 0, 1) for name in PHOTOS]
    small = [F.center_crop(F.resize(picture, PHOTO_SIZE, antialias=True), PHOTO_SIZE) for picture in pictures]
    return torch.stack(small).float() / 255


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Runs all rows, and draws a grid of photographs as each loss colors them."""
    results = COMPARISON.run(data, preset, out=out, device=device)
    held_out = data.validation.images().float() / 255
    gray = _distance(sp.Colorization.lightness(held_out), held_out, data)
    truth = photos()
    columns = {"gray": sp.Colorization.lightness(truth)}
    for name in LOSSES:
        task = sp.Colorization.from_pretrained(out / f"{folder_name(name)}-0" / "pretraining" / "task")
        columns[name] = colorize(task, truth)
    columns["truth"] = truth
    grid = image_grid(list(zip(*columns.values(), strict=True)), list(columns), side=144)
    write_bytes(out / "grid.png", grid)
    return results | {"gray": gray}  # what the predictions must surpass


if __name__ == "__main__":
    sys.exit(command_line("color_losses", __doc__.partition(":")[0] + ".", run))
