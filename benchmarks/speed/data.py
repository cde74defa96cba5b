"""Reading images: an epoch after the first, and the first."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import Food101

import ssl_pretext as sp
from benchmarks.speed.race import OURS, Finding, Size, check_equal, race

__all__ = ["reading"]

GOALS = {64: 4.0, 96: 12.0}  # by the size read at; images of 64 pixels as they are, of 128 pixels reduced to 96
BATCH_SIZE = 64
MOST_BYTE = 1  # levels of 255 by which resized pixels may differ


def reading(size: Size) -> list[Finding]:
    """Batches of Food-101's test split in a new order, against torchvision's way."""
    findings = []
    for stored, side in ((64, 64), (128, 96)):
        if stored not in size.data:
            continue
        findings += _reading(size, Path(size.data[stored]), stored, side)
    return findings


def _reading(size: Size, root: Path, stored: int, side: int) -> list[Finding]:
    resize = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side), transforms.PILToTensor()])
    dataset = Food101(str(root), split="test", transform=resize)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)

    def theirs() -> None:
        for _ in loader:
            pass

    with tempfile.TemporaryDirectory() as folder:

        def build() -> sp.ImageStore:
            shutil.rmtree(folder, ignore_errors=True)
            return sp.ImageStore.from_food101(root, "test", image_size=side, cache=folder)

        first = race({OURS: build, "torchvision": theirs}, rounds=min(size.rounds, 5))
        store = build()
        names = {
            path.relative_to(dataset._images_folder).with_suffix("").as_posix(): i
            for i, path in enumerate(dataset._image_files)
        }
        some = range(0, len(store), max(1, len(store) // 50))
        pixels = torch.stack([dataset[names[store.names[i]]][0] for i in some])
        error = check_equal("torchvision", store.images(some), pixels, within=MOST_BYTE)

        def ours() -> None:
            for batch in torch.randperm(len(store)).split(BATCH_SIZE):
                store.images(batch)

        later = race({OURS: ours, "torchvision": theirs}, rounds=min(size.rounds, 5))
    what = f"{len(store):,} photos of {stored} px, read at {side}"
    agreement = f"pixels differ by at most {error:.0f} of 255"
    return [
        Finding(
            work=f"{what}: an epoch after the first",
            sides=later,
            goals={"torchvision": GOALS[side]},
            agreement=agreement,
        ),
        Finding(
            work=f"{what}: decoded for the first time", sides=first, goals={"torchvision": 1 / 1.2}, agreement=agreement
        ),
    ]
