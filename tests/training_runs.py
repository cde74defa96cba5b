"""Small images, tasks and runs for the tests of training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import ssl_pretext as sp


def noise_store(count: int = 40) -> sp.ImageStore:
    """Images of noise in four classes, named `folder/0.jpg` and so on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    names = [f"folder/{index}.jpg" for index in range(count)]
    return sp.ImageStore.from_arrays(images, [index % 4 for index in range(count)], names=names)


def write_photos(folder: Path, count: int = 12, size: int = 40) -> Path:
    """Writes PNG files of noise into two subfolders, `a` for even and `b` for odd numbers."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return folder


def small_encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def small_task() -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.Colorization(small_encoder())


def fit_noisy_task(out: Path, **options: object) -> tuple[list[dict[str, object]], dict[str, Tensor]]:
    """Trains a task with random input noise and a loss that has a state; returns its history and weights.

    A checkpoint is saved after each of the 12 steps in 3 epochs.
    """
    torch.manual_seed(0)
    losses = {"l2": 1.0, "adversarial[width=4]": 0.01}
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", small_encoder(), losses=losses, input_noise=0.1)
    config = sp.FitConfig(out=out, epochs=3, batch_size=8, device="cpu", checkpoint_minutes=1e-9, **options)
    history = sp.fit(task, noise_store(32), config, validation=noise_store(8))
    return history, task.state_dict()


def same_run(one, other) -> bool:
    """Whether two results of `fit_noisy_task` are equal."""
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())
