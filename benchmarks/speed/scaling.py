"""Time of an epoch by the number of images, their size and the number of their channels."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import ssl_pretext as sp
from benchmarks.speed.timing import RunOptions

__all__ = ["scaling"]

IMAGES, IMAGE_SIZE, CHANNELS = 1_024, 32, 3
AXES: dict[str, tuple[int, ...]] = {
    "images": (512, 1_024, 2_048, 4_096),
    "pixels per image": (16**2, 32**2, 48**2, 64**2),
    "channels": (3, 6, 12, 24),
}


def scaling(options: RunOptions) -> list[dict[str, float | str]]:
    """Times an epoch along each axis while the others are fixed, and fits a straight line to the times.

    Returns:
        One row per value of an axis, with the seconds of an epoch and their relative deviation from the line.
    """
    points: list[dict[str, float | str]] = []
    for axis, values in AXES.items():
        values = (
            tuple(max(16, value // 16) if axis != "channels" else value for value in values)
            if options.small
            else values
        )
        taken: dict[int, list[float]] = {value: [] for value in values}
        for _ in range(1 if options.small else 3):
            for value in values:
                images = value if axis == "images" else (16 if options.small else IMAGES)
                image_size = round(value**0.5) if axis == "pixels per image" else IMAGE_SIZE
                taken[value].append(_epoch(images, image_size, value if axis == "channels" else CHANNELS))
        seconds = {value: statistics.median(times) for value, times in taken.items()}
        slope, intercept = statistics.linear_regression(list(seconds), list(seconds.values()))
        points += [
            {"axis": axis, "value": value, "seconds": found, "off_line": found / (slope * value + intercept) - 1}
            for value, found in seconds.items()
        ]
    return points


def _epoch(images: int, image_size: int, channels: int) -> float:
    """The seconds of the second of two epochs, which do not include the start of the run."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, channels, image_size, image_size), dtype=torch.uint8, generator=generator)
    store = sp.ImageStore.from_arrays(pixels, [0] * images)
    names = [f"band{number}" for number in range(channels)]
    source = sp.ChannelSpace.bands("scaling", names, scale=1)[names[0]]
    target = source.complement()
    task = sp.CrossChannelPrediction(source, target, _network(1), losses={"smooth_l1": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        ends: list[float] = []
        task.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
        sp.fit(task, store, sp.FitConfig(out=Path(folder), epochs=2, batch_size=64, device="cpu"))
    steps = len(ends) // 2
    return ends[-1] - ends[steps - 1]


def _network(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1),
    )
