"""Disparity from RGB on scikit-image's stereo pair: four bands, of which one is missing in places."""

import sys

import numpy as np
import torch
from skimage import data

import ssl_pretext as sp

SIDE, STRIDE = 64, 32


def patches() -> tuple[sp.ImageStore, sp.ImageStore]:
    """RGB in `[0, 1]` and disparity in pixels, NaN where it is unknown; the right-hand quarter is held out."""
    left, _, disparity = data.stereo_motorcycle()
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    image = np.concatenate([left.transpose(2, 0, 1) / 255, disparity[None]]).astype(np.float32)
    height, width = disparity.shape
    border = round(0.75 * width)

    def cut(first: int, end: int) -> sp.ImageStore:
        tops, lefts = range(0, height - SIDE + 1, STRIDE), range(first, end - SIDE + 1, STRIDE)
        many = [image[:, top : top + SIDE, start : start + SIDE] for top in tops for start in lefts]
        return sp.ImageStore.from_arrays(np.stack(many), [0] * len(many))

    return cut(0, border), cut(border, width)


def main(out: str = "runs/depth_from_rgb", epochs: int = 30) -> float:
    train, test = patches()
    space = sp.ChannelSpace.bands("rgbd", ["R", "G", "B", "D"], center=[0.5, 0.5, 0.5, 40], scale=[0.5, 0.5, 0.5, 40])
    task = sp.CrossChannelPrediction(
        sp.Channels(space, "RGB"), sp.Channels(space, "D"), "timm/resnet10t[layer=layer2]", losses={"smooth_l1": 1.0}
    )
    history = sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, batch_size=16, learning_rate=1e-3))
    with torch.no_grad():
        output = task.eval()(test.images())
    error = (output.prediction - output.target).abs().nanmean() * 40
    print(
        f"loss {history[0]['train_loss']:.3f} to {history[-1]['train_loss']:.3f}; held out, off by {error:.1f} pixels"
    )
    return float(error)


if __name__ == "__main__":
    main(*sys.argv[1:2])
