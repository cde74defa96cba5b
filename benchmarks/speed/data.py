"""Time to read images, in the first epoch and in later ones."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import Food101, ImageFolder

import ssl_pretext as sp
from benchmarks.speed.timing import OURS, Measurement, RunOptions, check_equal, time_in_turn

__all__ = ["reading"]

# By image size; images of 64 px keep their size, and those of 128 and 512 px are reduced to 96 and 224.
LATER_GOALS = {64: 4.0, 96: 12.0, 224: 12.0}
FIRST_GOAL = 2.0
LARGE_PHOTOS, LARGE_PART, LARGE_READ = 200, 64, 224
BATCH_SIZE = 64
MAX_DIFFERENCE = 1  # by which resized pixels, from 0 to 255, may differ


def reading(options: RunOptions) -> list[Measurement]:
    """Times the reading of shuffled batches of photos, compared with torchvision.

    The photos are Food-101's test split at the sizes that there is a folder for, and pictures of 512 px, which are put
    together from 64 sample photos each, so that they have as much detail as a photo from a camera.
    """
    found = []
    for stored, image_size in ((64, 64), (128, 96)):
        if stored not in options.data:
            continue
        root = Path(options.data[stored])
        dataset = Food101(str(root), split="test", transform=_resize(image_size))
        files = {
            path.relative_to(dataset._images_folder).with_suffix("").as_posix(): i
            for i, path in enumerate(dataset._image_files)
        }
        build = partial(sp.ImageStore.from_food101, root, "test")
        found += _reading(options, dataset, files, build, f"photos of {stored} px", image_size)
    with tempfile.TemporaryDirectory() as folder:
        _write_large(Path(folder), 4 if options.small else LARGE_PHOTOS)
        large = ImageFolder(folder, transform=_resize(LARGE_READ))
        files = {Path(path).relative_to(folder).as_posix(): i for i, (path, _) in enumerate(large.samples)}
        build = partial(sp.ImageStore.from_folder, folder)
        found += _reading(options, large, files, build, f"photos of {8 * LARGE_PART} px", LARGE_READ)
    return found


def _resize(image_size: int) -> transforms.Compose:
    return transforms.Compose(
        [transforms.Resize(image_size), transforms.CenterCrop(image_size), transforms.PILToTensor()]
    )


def _write_large(folder: Path, count: int) -> None:
    photos = sp.sample_photos("train", image_size=LARGE_PART)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        parts = photos.images(torch.randint(len(photos), (64,), generator=generator))
        pixels = rearrange(parts, "(y x) c h w -> (y h) (x w) c", y=8).numpy()
        path = folder / f"class{number % 2}" / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def _reading(
    options: RunOptions,
    dataset: Dataset[Any],
    files: Mapping[str, int],
    open_store: Callable[..., sp.ImageStore],
    what: str,
    image_size: int,
) -> list[Measurement]:
    """Times a dataset of torchvision, in which each name of the store has a position, and the store."""
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)

    def theirs() -> None:
        for _ in loader:
            pass

    with tempfile.TemporaryDirectory() as folder:

        def build() -> sp.ImageStore:
            shutil.rmtree(folder, ignore_errors=True)
            return open_store(image_size=image_size, cache=folder)

        first = time_in_turn({OURS: build, "torchvision": theirs}, rounds=min(options.rounds, 5))
        store = build()
        sample = range(0, len(store), max(1, len(store) // 50))
        pixels = torch.stack([dataset[files[store.names[i]]][0] for i in sample])
        error = check_equal("torchvision", store.images(sample), pixels, within=MAX_DIFFERENCE)

        def ours() -> None:
            for batch in torch.randperm(len(store)).split(BATCH_SIZE):
                store.images(batch)

        later = time_in_turn({OURS: ours, "torchvision": theirs}, rounds=min(options.rounds, 5))
    images = f"{len(store):,} {what}, read at {image_size}"
    agreement = f"the pixels differ by at most {error:.0f} of 255"
    return [
        Measurement(
            work=f"{images}: an epoch after the first",
            variants=later,
            goals={"torchvision": LATER_GOALS[image_size]},
            agreement=agreement,
        ),
        Measurement(
            work=f"{images}: decoding for the first time",
            variants=first,
            goals={"torchvision": FIRST_GOAL},
            agreement=agreement,
        ),
    ]
