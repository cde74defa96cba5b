"""Time per image of the documented autoencoder on a CPU, by number of threads, batch size, layout and optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ssl_pretext as sp
from benchmarks.speed.timing import OURS, Measurement, RunOptions, time_in_turn

__all__ = ["cpu_settings"]

IMAGE_SIZE, BATCH_SIZE, FEATURE_BATCH = 32, 64, 64
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def cpu_settings(options: RunOptions) -> list[Measurement]:
    """Times training steps and feature extraction per image, with one setting changed at a time."""
    images = sp.sample_photos("train", image_size=IMAGE_SIZE)
    count = 2 * BATCH_SIZE if options.small else 2 * FEATURE_BATCH
    pixels = images.images([i % len(images) for i in range(count)])
    training = {
        OURS: _training(pixels),
        "one thread": _one_thread(_training(pixels)),
        "batches of 16": _training(pixels, batch_size=16),
        "batches of 256": _training(pixels, batch_size=256),
        "channels_last": _training(pixels, layout="channels_last"),
        "fused AdamW": _training(pixels, fused=True),
    }
    features = {
        OURS: _features(pixels),
        "one thread": _one_thread(_features(pixels)),
        "batches of 16": _features(pixels, batch_size=16),
        "batches of 256": _features(pixels, batch_size=256),
        "channels_last": _features(pixels, layout="channels_last"),
        "inference_mode": _features(pixels, mode=torch.inference_mode),
    }
    return [
        Measurement(
            work=f"documented autoencoder, {IMAGE_SIZE} px, {work}, per image",
            variants={
                name: [seconds / count for seconds in taken]
                for name, taken in time_in_turn(variants, rounds=min(options.rounds, 3)).items()
            },
        )
        for work, variants in (
            (f"a training step with smooth L1 (ours: all cores, batches of {BATCH_SIZE}, AdamW)", training),
            (f"computing the latent (ours: all cores, batches of {FEATURE_BATCH}, no_grad)", features),
        )
    ]


def _task(layout: str) -> sp.Colorization:
    torch.manual_seed(0)
    task = sp.Colorization("autoencoder", target="rgb", losses={"smooth_l1": 1.0})
    return task.to(memory_format=LAYOUTS[layout])


def _training(
    pixels: Tensor, *, batch_size: int = BATCH_SIZE, layout: str = "contiguous", fused: bool = False
) -> Callable[[], None]:
    task = _task(layout)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, fused=fused)

    def run() -> None:
        for batch in pixels.split(batch_size):
            loss = task(batch.contiguous(memory_format=LAYOUTS[layout])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _features(
    pixels: Tensor,
    *,
    batch_size: int = FEATURE_BATCH,
    layout: str = "contiguous",
    mode: Callable[[], Any] = torch.no_grad,
) -> Callable[[], None]:
    task = _task(layout).eval()

    def run() -> None:
        with mode():
            for batch in pixels.split(batch_size):
                task.features(batch.contiguous(memory_format=LAYOUTS[layout]))

    return run


def _one_thread(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work()
        finally:
            torch.set_num_threads(threads)

    return run
