"""Every pretext task of the library under the same judge: `python -m benchmarks.pretext`.

All are pretrained on the same images in the same order, for as many steps, with the same optimizer and no augmentation,
and judged by the same probes beside the same networks untrained.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import Experiment
from benchmarks.harness import PRESETS as ROWS
from benchmarks.harness import Comparison, Judge, Row, accuracies, command_line
from benchmarks.networks import STRIDED_CNN as CNN
from benchmarks.networks import STRIDED_LAYERS as LAYERS
from benchmarks.pretext.page import answer
from benchmarks.split_brain import REGRESSION, directed, split
from ssl_pretext.system.files import read_json, write_json

__all__ = ["COMPARISON", "PRESETS"]

NETWORK = f"{CNN}[width=0.5]"  # which leaves time for all tasks
HALF = f"{CNN}[width=0.25]"  # of a pair, whose features together are as many
DEPTH = 5
# Tokens can be left out of a transformer alone: one of as many parameters.
TRANSFORMER = f"timm/vit_tiny_patch16_224[img_size=32;patch_size=4;embed_dim=64;depth={DEPTH};num_heads=2]"
BLOCKS = tuple(f"blocks.{i}" for i in range(DEPTH))
STRIDE = 4  # of what is predicted of whole images, as in Zhang et al. 2016 and in the other comparisons
PATCH = 16  # pixels that patches are resized to: with fewer, the network's output would be a single position
SIDE = 2  # that maps are averaged to for linear probes

L, RGB, HALVES, VIT = "L untrained", "RGB untrained", "L, ab untrained", "ViT untrained"


def lightness_to_color(name: str, control: str | None = None) -> Row:
    """Colorization by regression."""
    return Row(name, "colorization", {"encoder": NETWORK, "losses": REGRESSION, "output_stride": STRIDE}, control)


def masked_patches(name: str, control: str | None = None) -> Row:
    """A masked autoencoder with a decoder as wide as its encoder."""
    return Row(name, "masked_patches", {"encoder": TRANSFORMER, "depth": 1, "width": 64}, control)


def seeing_rgb(task: str, **options: Any) -> Row:
    """A task whose encoder sees RGB."""
    return Row(task, task, {"encoder": NETWORK, **options}, RGB)


def both(name: str, control: str | None = None) -> Row:
    """A split brain by regression."""
    return split(name, [REGRESSION, REGRESSION], control, encoder=[HALF, HALF], output_stride=STRIDE)


def standardized_conv(in_channels: int, num_classes: int) -> nn.Module:
    """The documented conv probe behind a norm of its input.

    Maps of an untrained stack of convolutions with BatchNorm are faint, here below 0.01. The probe's own running
    variances, which begin at 1, do not come down to that in so few steps, so that it is at chance on test images while
    it fits the training images: every pretraining would have seemed to help.
    """
    norm = nn.BatchNorm2d(in_channels, affine=False, momentum=None)  # the mean over all batches, without a beginning
    return nn.Sequential(norm, sp.probes.create_probe("conv", in_channels, num_classes))


def layers(task: sp.PretextTask) -> tuple[str, ...]:
    """The stages of its encoder."""
    return BLOCKS if task.name == "masked_patches" else LAYERS


def describe(task: sp.PretextTask, _data: Experiment) -> dict[str, Any]:
    """What a table says of a task beside its figures."""
    encoder = sum(parameter.numel() for parameter in task.encoder.parameters())
    network = "ViT" if task.name == "masked_patches" else "CNN"
    halves = isinstance(task, sp.SplitBrain | sp.tasks.CrossChannelContrast)
    return {
        "sees": f"{task.first} and {task.second}" if halves else str(task.encoder_channels),
        "network": f"two half-width {network}s" if halves else network,
        "encoder_parameters": encoder,
    }


COMPARISON = Comparison(
    title="Pretext tasks under the same judge",
    rows=[
        lightness_to_color(L),
        Row(RGB, "denoising", {"encoder": NETWORK}),
        both(HALVES),
        masked_patches(VIT),
        # The quick ones first, so that a run that goes wrong does so early.
        seeing_rgb("relative_patch", size=PATCH),
        Row(
            "cross_channel_contrast",
            "cross_channel_contrast",
            {"first": "lab:L", "second": "lab:ab", "encoder": [HALF, HALF]},
            HALVES,
        ),
        lightness_to_color("colorization", L),
        directed(
            "cross_channel (plain autoencoder)", "rgb", "rgb", REGRESSION, RGB, encoder=NETWORK, output_stride=STRIDE
        ),
        both("split_brain", HALVES),
        masked_patches("masked_patches", VIT),
        seeing_rgb("jigsaw", size=PATCH),
        seeing_rgb("rotation"),
        seeing_rgb("inpainting", losses=REGRESSION),
        seeing_rgb("denoising", losses=REGRESSION),
    ],
    judges=[
        Judge(
            {
                "linear, output": lambda task: sp.representations.Concatenated([task.representation()], size=SIDE),
                "linear, all layers": lambda task: sp.representations.Concatenated(
                    list(task.representations(layers(task)).values()), size=SIDE
                ),
            }
        ),
        Judge({"conv, output": lambda task: task.representation()}, probe=standardized_conv),
    ],
    extra=describe,
)
PRESETS = {
    "smoke": ROWS["smoke"],
    "cpu": replace(
        ROWS["cpu"],
        about="an hour on one core; half of the images at 32 px, all classes",
        epochs=5,
        pretrain_per_class=120,
        probe_classes=None,
        seeds=3,
    ),
}


def run(data: Experiment, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """All rows, pixels beside, and what follows."""
    results: dict[str, Any] = {"title": COMPARISON.title}
    results["rows"] = COMPARISON.run(data, preset, out=out, device=device)
    file = out / f"pixels-{preset.seeds}.json"
    if not file.exists():
        write_json(file, pixels(data, preset, device))
    results["pixels"] = read_json(file)
    return results | {"answer": answer(results)}


def pixels(data: Experiment, preset: Preset, device: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The same probes on the image itself: accuracies per seed by name, domain and column."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for column, probe, shown in (
        ("linear, output", "linear", {"pixels": sp.Pixels("rgb"), "pixels 8×8": sp.Pixels("rgb", size=8)}),
        ("conv, output", standardized_conv, {"pixels 8×8": sp.Pixels("rgb", size=8)}),
    ):
        for domain, by_name in accuracies(shown, probe, data, preset.seeds, device).items():
            for name, values in by_name.items():
                found.setdefault(name, {}).setdefault(domain, {})[column] = values
    return found


if __name__ == "__main__":
    sys.exit(command_line("pretext", __doc__.partition(":")[0] + ".", run, PRESETS))
