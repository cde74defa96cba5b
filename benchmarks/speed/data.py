"""Time to read images, in the first epoch and in later ones."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import Food101

import ssl_pretext as sp
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn

__all__ = ["reading"]

GOALS = {64: 4.0, 96: 12.0}  # by image size; images of 64 px keep their size, and images of 128 px are reduced to 96
BATCH_SIZE = 64
MAX_DIFFERENCE = 1  # by which resized pixels, from 0 to 255, may differ


def reading(options: RunOptions) -> list[Measurement]:
    """Times the reading of shuffled batches of Food-101's test split, compared with torchvision."""
    found = []
    for stored, image_size in ((64, 64), (128, 96)):
        if stored not in options.data:
            continue
        found += _reading(options, Path(options.data[stored]), stored, image_size)
    return found


def _reading(options: RunOptions, root: Path, stored: int, image_size: int) -> list[Measurement]:
    resize = transforms.Compose(
        [transforms.Resize(image_size), transforms.CenterCrop(image_size), transforms.PILToTensor()]
    )
    dataset = Food101(str(root), split="test", transform=resize)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)

    def theirs() -> None:
        for _ in loader:
            pass

    with tempfile.TemporaryDirectory() as folder:

        def build() -> sp.ImageStore:
            shutil.rmtree(folder, ignore_errors=True)
            return sp.ImageStore.from_food101(root, "test", image_size=image_size, cache=folder)

        first = time_in_turn({OURS: build, "torchvision": theirs}, rounds=min(options.rounds, 5))
        store = build()
        names = {
            path.relative_to(dataset._images_folder).with_suffix("").as_posix(): i
            for i, path in enumerate(dataset._image_files)
        }
        sample = range(0, len(store), max(1, len(store) // 50))
        pixels = torch.stack([dataset[names[store.names[i]]][0] for i in sample])
        error = check_equal("torchvision", store.images(sample), pixels, within=MAX_DIFFERENCE)

        def ours() -> None:
            for batch in torch.randperm(len(store)).split(BATCH_SIZE):
                store.images(batch)

        later = time_in_turn({OURS: ours, "torchvision": theirs}, rounds=min(options.rounds, 5))
    images = f"{len(store):,} photos of {stored} px, read at {image_size}"
    agreement = f"the pixels differ by at most {error:.0f} of 255"
    return [
        Measurement(
            work=f"{images}: an epoch after the first",
            variants=later,
            goals={"torchvision": GOALS[image_size]},
            agreement=agreement,
        ),
        Measurement(
            work=f"{images}: decoding for the first time",
            variants=first,
            goals={"torchvision": 1 / 1.2},
            agreement=agreement,
        ),
    ]
