"""Comparison of all pretext tasks of the library by the same probes: `python -m benchmarks.pretext`.

All tasks are pretrained on the same images for the same time, with the same optimizer and schedule. Tasks that predict
a hidden part of an image see random crops and flips; tasks that compare two views have the augmentation of their
papers. The same probes evaluate each task and its untrained encoder.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import ExperimentData
from benchmarks.harness import PRESETS as COMPARISON_PRESETS
from benchmarks.harness import Readout, TaskComparison, TaskSpec, command_line
from benchmarks.networks import STRIDED_CNN as CNN
from benchmarks.networks import STRIDED_LAYERS as LAYERS
from benchmarks.pretext.page import answer
from benchmarks.split_brain import REGRESSION, cross_channel_task, split_brain_task

__all__ = ["COMPARISON", "PRESETS"]

NETWORK = f"{CNN}[width=0.5]"  # half the width, so that all tasks can be trained in an hour
HALF_WIDTH = f"{CNN}[width=0.25]"  # for tasks with two encoders, which together have as many features as `NETWORK`
DEPTH = 5
# Masked patches needs an encoder that tokens can be left out of: a transformer with about as many parameters.
TRANSFORMER = f"timm/vit_tiny_patch16_224[img_size=32;patch_size=4;embed_dim=64;depth={DEPTH};num_heads=2]"
BLOCKS = tuple(f"blocks.{i}" for i in range(DEPTH))
STRIDE = 4  # output stride of tasks that predict images, as in Zhang et al. 2016 and in the other comparisons
PATCH = 16  # patches are resized to so many pixels; with fewer, the network's output would have a single position
CROPS = "random_resized_crop,horizontal_flip"
POOLED_SIZE = 2  # height and width that feature maps are averaged to for linear probes


def rgb_task(task: str, **options: Any) -> TaskSpec:
    """A row of a task whose encoder takes RGB."""
    return TaskSpec(task, task, {"encoder": NETWORK, **options}, augment=CROPS)


def joint_task(task: str, **options: Any) -> TaskSpec:
    """A row of a task that compares two views, with its own augmentation."""
    return TaskSpec(task, task, {"encoder": NETWORK, **options})


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
        # The fast tasks come first, so that a run that fails does so early.
        rgb_task("relative_patch", size=PATCH),
        TaskSpec(
            "cross_channel_contrast",
            "cross_channel_contrast",
            {"first": "lab:L", "second": "lab:ab", "encoder": [HALF_WIDTH, HALF_WIDTH]},
            augment=CROPS,
        ),
        TaskSpec(
            "cross_channel_contrast (one crop)",
            "cross_channel_contrast",
            {
                "first": "lab:L",
                "second": "lab:ab",
                "encoder": [HALF_WIDTH, HALF_WIDTH],
                "separate_views": False,
            },
            augment=CROPS,
        ),
        joint_task("instance_contrast"),
        joint_task("vicreg"),
        joint_task("barlow_twins"),
        joint_task("simsiam"),
        rgb_task("colorization", losses=REGRESSION, output_stride=STRIDE),
        replace(
            cross_channel_task(
                "cross_channel (plain autoencoder)", "rgb", "rgb", REGRESSION, encoder=NETWORK, output_stride=STRIDE
            ),
            augment=CROPS,
        ),
        replace(
            split_brain_task(
                "split_brain", [REGRESSION, REGRESSION], encoder=[HALF_WIDTH, HALF_WIDTH], output_stride=STRIDE
            ),
            augment=CROPS,
        ),
        # The decoder is as wide as the encoder.
        TaskSpec("masked_patches", "masked_patches", {"encoder": TRANSFORMER, "depth": 1, "width": 64}, augment=CROPS),
        rgb_task("jigsaw", size=PATCH),
        rgb_task("rotation"),
        rgb_task("multi_task", tasks={"inpainting": 1.0, "rotation": 1.0}),
        rgb_task("inpainting", losses=REGRESSION),
        rgb_task("denoising", losses=REGRESSION),
    ],
    readouts={
        "linear, all layers": Readout(
            lambda task: sp.representations.Concatenated(
                list(task.representations(encoder_layers(task)).values()), size=POOLED_SIZE
            ),
            baselines={"pixels": sp.Pixels("rgb"), "pixels 8×8": sp.Pixels("rgb", size=8)},
        )
    },
    extra=describe_task,
)
PRESETS = {
    "smoke": COMPARISON_PRESETS["smoke"],
    "cpu": replace(
        COMPARISON_PRESETS["cpu"],
        about="an hour on one core; half of the images at 32 px, all classes, 30 seconds per task and seed",
        seconds=30,
        pretrain_per_class=120,
        probe_classes=None,
        seeds=3,
    ),
}


def run(data: ExperimentData, preset: Preset, out: Path, device: str) -> dict[str, Any]:
    """Runs all rows, and states which tasks gain over their untrained encoder."""
    results = COMPARISON.run(data, preset, out=out, device=device)
    return results | {"answer": answer(results)}


if __name__ == "__main__":
    sys.exit(command_line("pretext", __doc__.partition(":")[0] + ".", run, PRESETS))
