"""Predicts near-infrared from visible bands, then trains a split brain on visible and infrared bands.

Run it with `python examples/satellite_bands.py bands.npy`, where the file contains an array `(dates, H, W, 13)` of
Sentinel-2 L1C reflectances.
"""

import sys

import numpy as np
import torch
from einops import rearrange

import ssl_pretext as sp

BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()
VISIBLE, INFRARED = "B02,B03,B04", "B05,B06,B07,B08,B8A,B11,B12"
SIZE = 20  # of a patch, in pixels


def patches(file: str) -> sp.ImageStore:
    """Patches of all dates, each with the index of its date as the label."""
    scenes = np.load(file)
    dates, height, width, _ = scenes.shape
    scenes = scenes[:, : height // SIZE * SIZE, : width // SIZE * SIZE]
    cut = rearrange(scenes, "d (i h) (j w) c -> (d i j) c h w", h=SIZE, w=SIZE)
    return sp.ImageStore.from_arrays(cut, np.repeat(np.arange(dates), len(cut) // dates))


def main(file: str, out: str = "runs/satellite_bands", epochs: int = 60) -> dict[str, float]:
    """Pretrains both tasks, and returns the fraction of the variance of held-out patches that each explains."""
    store = patches(file)
    train, test = sp.holdout_split(store.names, store.labels, fraction=0.2)
    space = sp.ChannelSpace.bands("sentinel2", BANDS)  # fit() measures centers and scales on the training images
    visible, infrared = sp.Channels(space, VISIBLE), sp.Channels(space, INFRARED)
    tasks = {
        "near-infrared from visible": sp.CrossChannelPrediction(
            visible, sp.Channels(space, "B08"), "timm/resnet10t[layer=layer1]", losses={"smooth_l1": 1.0}
        ),
        "split brain": sp.SplitBrain(visible, infrared, "timm/resnet10t[layer=layer1]", losses={"smooth_l1": 1.0}),
    }
    explained = {}
    for name, task in tasks.items():
        folder = f"{out}/{name.replace(' ', '_')}"
        sp.fit(task, store.subset(train), sp.FitConfig(out=folder, epochs=epochs, batch_size=16, learning_rate=2e-3))
        with torch.no_grad():
            output = task.eval()(store.subset(test).images())
        mean = output.target.mean(dim=(0, 2, 3), keepdim=True)
        error, spread = (output.prediction - output.target).square().mean(), (output.target - mean).square().mean()
        explained[name] = 1 - float(error / spread)
        print(f"{name}: {explained[name]:.0%} of the variance of held-out patches explained")
    return explained


if __name__ == "__main__":
    main(*sys.argv[1:3])
