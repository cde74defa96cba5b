"""Comparison of all pretext tasks of the library by the same probes: `python -m benchmarks.pretext`.

All tasks are pretrained on the same images in the same order, for the same number of steps, with the same optimizer
and without augmentation. The same probes evaluate each task and its untrained encoder.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import PRESETS as COMPARISON_PRESETS
from benchmarks.harness import ProbeSpec, TaskComparison, TaskSpec, command_line, probe_accuracies
from benchmarks.networks import STRIDED_CNN as CNN
from benchmarks.networks import STRIDED_LAYERS as LAYERS
from benchmarks.pretext.page import answer
from benchmarks.split_brain import REGRESSION, cross_channel_task, split_brain_task
from ssl_pretext.system.files import read_json, write_json

__all__ = ["COMPARISON", "PRESETS"]

NETWORK = f"{CNN}[width=0.5]"  # half the width, so that all tasks can be trained in an hour
HALF_WIDTH = f"{CNN}[width=0.25]"  # for tasks with two encoders, which together have as many features as `NETWORK`
DEPTH = 5
# Masked patches needs an encoder that tokens can be left out of: a transformer with about as many parameters.
TRANSFORMER = f"timm/vit_tiny_patch16_224[img_size=32;patch_size=4;embed_dim=64;depth={DEPTH};num_heads=2]"
BLOCKS = tuple(f"blocks.{i}" for i in range(DEPTH))
STRIDE = 4  # output stride of tasks that predict images, as in Zhang et al. 2016 and in the other comparisons
PATCH = 16  # patches are resized to so many pixels; with fewer, the network's output would have a single position
POOLED_SIZE = 2  # height and width that feature maps are averaged to for linear probes

L_UNTRAINED, RGB_UNTRAINED = "L untrained", "RGB untrained"
TWO_ENCODERS_UNTRAINED, VIT_UNTRAINED = "L, ab untrained", "ViT untrained"


def colorization_task(name: str, control: str | None = None) -> TaskSpec:
    """A row of colorization by regression."""
    return TaskSpec(name, "colorization", {"encoder": NETWORK, "losses": REGRESSION, "output_stride": STRIDE}, control)


def masked_patches_task(name: str, control: str | None = None) -> TaskSpec:
    """A row of a masked autoencoder whose decoder is as wide as its encoder."""
    return TaskSpec(name, "masked_patches", {"encoder": TRANSFORMER, "depth": 1, "width": 64}, control)


def rgb_task(task: str, **options: Any) -> TaskSpec:
    """A row of a task whose encoder takes RGB."""
    return TaskSpec(task, task, {"encoder": NETWORK, **options}, RGB_UNTRAINED)


def two_encoder_task(name: str, control: str | None = None) -> TaskSpec:
    """A row of a split brain by regression, with two encoders of half the width."""
    losses = [REGRESSION, REGRESSION]
    return split_brain_task(name, losses, control, encoder=[HALF_WIDTH, HALF_WIDTH], output_stride=STRIDE)


def standardized_conv(in_channels: int, num_classes: int) -> nn.Module:
    """Builds the documented conv probe with a normalization of its input.

    The feature maps of an untrained stack of convolutions with BatchNorm have small values, here below 0.01. The
    running variances of the probe's own BatchNorm start at 1 and do not reach such values in so few steps. Without
    the normalization, the probe would fit the training images but be at chance on test images, so that every
    pretraining would seem to help.
    """
    norm = nn.BatchNorm2d(in_channels, affine=False, momentum=None)  # averages over all batches, with no initial value
    return nn.Sequential(norm, sp.probes.create_probe("conv", in_channels, num_classes))


def encoder_layers(task: sp.PretextTask) -> tuple[str, ...]:
    """The names of the stages of a task's encoder."""
    return BLOCKS if task.name == "masked_patches" else LAYERS


def describe_task(task: sp.PretextTask, _data: ExperimentData) -> dict[str, Any]:
    """Describes a task's encoder for the table of tasks."""
    encoder = sum(parameter.numel() for parameter in task.encoder.parameters())
    network = "ViT" if task.name == "masked_patches" else "CNN"
    two_encoders = isinstance(task, sp.SplitBrain | sp.tasks.CrossChannelContrast)
    return {
        "sees": f"{task.first} and {task.second}" if two_encoders else str(task.encoder_channels),
        "network": f"two half-width {network}s" if two_encoders else network,
        "encoder_parameters": encoder,
    }


COMPARISON = TaskComparison(
    title="Pretext tasks compared",
    tasks=[
        colorization_task(L_UNTRAINED),
        TaskSpec(RGB_UNTRAINED, "denoising", {"encoder": NETWORK}),
        two_encoder_task(TWO_ENCODERS_UNTRAINED),
        masked_patches_task(VIT_UNTRAINED),
        # The fast tasks come first, so that a run that fails does so early.
        rgb_task("relative_patch", size=PATCH),
        TaskSpec(
            "cross_channel_contrast",
            "cross_channel_contrast",
            {"first": "lab:L", "second": "lab:ab", "encoder": [HALF_WIDTH, HALF_WIDTH]},
            TWO_ENCODERS_UNTRAINED,
        ),
        colorization_task("colorization", L_UNTRAINED),
        cross_channel_task(
            "cross_channel (plain autoencoder)",
            "rgb",
            "rgb",
            REGRESSION,
            RGB_UNTRAINED,
            encoder=NETWORK,
            output_stride=STRIDE,
        ),
        two_encoder_task("split_brain", TWO_ENCODERS_UNTRAINED),
        masked_patches_task("masked_patches", VIT_UNTRAINED),
        rgb_task("jigsaw", size=PATCH),
        rgb_task("rotation"),
        rgb_task("inpainting", losses=REGRESSION),
        rgb_task("denoising", losses=REGRESSION),
    ],
    probes=[
        ProbeSpec(
            {
                "linear, output": lambda task: sp.representations.Concatenated(
                    [task.representation()], size=POOLED_SIZE
                ),
                "linear, all layers": lambda task: sp.representations.Concatenated(
                    list(task.representations(encoder_layers(task)).values()), size=POOLED_SIZE
                ),
            }
        ),
        ProbeSpec({"conv, output": lambda task: task.representation()}, probe=standardized_conv),
    ],
    extra=describe_task,
)
PRESETS = {
    "smoke": COMPARISON_PRESETS["smoke"],
    "cpu": replace(
        COMPARISON_PRESETS["cpu"],
        about="an hour on one core; half of the images at 32 px, all classes",
        epochs=5,
        pretrain_per_class=120,
        probe_classes=None,
        seeds=3,
    ),
}


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Runs all rows and the pixel baselines, and states which tasks gain over their untrained encoder."""
    results: dict[str, Any] = {"title": COMPARISON.title}
    results["rows"] = COMPARISON.run(data, preset, out=out, device=device)
    file = out / f"pixels-{preset.seeds}.json"
    if not file.exists():
        write_json(file, pixel_baselines(data, preset, device))
    results["pixels"] = read_json(file)
    return results | {"answer": answer(results)}


def pixel_baselines(data: ExperimentData, preset: Preset, device: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Returns the accuracies per seed of the same probes on the image itself, by name, domain and column."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for column, probe, representations in (
        ("linear, output", "linear", {"pixels": sp.Pixels("rgb"), "pixels 8×8": sp.Pixels("rgb", size=8)}),
        ("conv, output", standardized_conv, {"pixels 8×8": sp.Pixels("rgb", size=8)}),
    ):
        for domain, by_name in probe_accuracies(representations, probe, data, preset.seeds, device).items():
            for name, values in by_name.items():
                found.setdefault(name, {}).setdefault(domain, {})[column] = values
    return found


if __name__ == "__main__":
    sys.exit(command_line("pretext", __doc__.partition(":")[0] + ".", run, PRESETS))
