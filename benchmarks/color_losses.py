"""What each loss makes of colorization: `python -m benchmarks.color_losses`; colors, and what the encoder learned."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import Experiment
from benchmarks.harness import Comparison, Row, colorized, command_line, linear_probes, pixel_rows, slug
from benchmarks.networks import SMALL_CNN
from ssl_pretext.color_metrics import color_quality
from ssl_pretext.losses.lpips import trunks_on_disk
from ssl_pretext.quantize import ColorQuantizer
from ssl_pretext.reporting.page import image_grid
from ssl_pretext.system.files import write_bytes

LOSSES = {
    "l2": {"l2": 1.0},
    "smooth_l1": {"smooth_l1": 1.0},
    "smooth_l1 + lpips": {"smooth_l1": 1.0, "lpips[net=squeeze]": 1.0},
    "classification": {"color_classification[rebalance=1]": 1.0},
    "rebalanced": {"color_classification": 1.0},
    "l2 + adversarial": {"l2": 1.0, "adversarial": 0.01},
}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # free ones, for the picture
PHOTO_SIZE = 96


def options(losses: dict[str, float]) -> dict[str, Any]:
    """Colorization as in Zhang et al. 2016, at a quarter of the resolution."""
    return {"encoder": SMALL_CNN, "target": "lab:ab", "losses": losses, "output_stride": 4}


def quality(task: sp.PretextTask, data: Experiment) -> dict[str, Any]:
    """Color quality on held-out images of the classes learned from; the prior is that of the training images.

    LPIPS is measured where squeeze's weights are at hand; the row that trains on it has learned to please it.
    """
    truth = data.validation.images().float() / 255
    trunk = "squeeze" if "squeeze" in trunks_on_disk() else None
    chosen = torch.linspace(0, len(data.pretrain) - 1, min(2_000, len(data.pretrain))).long()
    quantizer = ColorQuantizer().fit_prior(data.pretrain.images(chosen))
    return {"quality": color_quality(colorized(task, truth), truth, quantizer=quantizer, lpips=trunk)}


COMPARISON = Comparison(
    title="Losses of colorization",
    rows=[
        Row("untrained", "colorization", options({"l2": 1.0})),
        *(Row(name, "colorization", options(losses), control="untrained") for name, losses in LOSSES.items()),
    ],
    judges=[linear_probes(["conv3", "conv4", "conv5"])],
    extra=quality,
)


def photos() -> Tensor:
    """Free photos `(N, 3, 96, 96)` in `[0, 1]`."""
    from skimage import data
    from torchvision.transforms import functional as F

    pictures = [torch.from_numpy(getattr(data, name)()[..., :3].copy()).permute(2, 0, 1) for name in PHOTOS]
    small = [F.center_crop(F.resize(picture, PHOTO_SIZE, antialias=True), PHOTO_SIZE) for picture in pictures]
    return torch.stack(small).float() / 255


def run(data: Experiment, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """All rows, raw pixels, and a grid of free photos in the colors of each loss."""
    rows = COMPARISON.run(data, preset, out=out, device=device)
    truth = photos()
    columns = {"gray": sp.Colorization.lightness(truth)}
    for name in LOSSES:
        task = sp.Colorization.from_pretrained(out / f"{slug(name)}-0" / "pretraining" / "task")
        columns[name] = colorized(task, truth)
    columns["truth"] = truth
    grid = image_grid(list(zip(*columns.values(), strict=True)), list(columns), side=144)
    write_bytes(out / "grid.png", grid)
    return {
        "title": COMPARISON.title,
        "rows": rows,
        "pixels": pixel_rows({"pixels RGB": "rgb", "pixels L": "lab:L"}, data, preset, device),
    }


if __name__ == "__main__":
    sys.exit(command_line("color_losses", __doc__.partition(":")[0] + ".", run))
