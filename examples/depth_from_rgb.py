"""Predicts disparity from RGB on scikit-image's stereo photograph, whose disparity has missing values."""

import sys

import numpy as np
import torch
from skimage import data

import ssl_pretext as sp

SIZE, STRIDE = 64, 32  # of the patches, in pixels


def patches() -> tuple[sp.ImageStore, sp.ImageStore]:
    """Training and test patches: RGB in `[0, 1]`, and disparity in pixels, which is NaN where it is unknown.

    The test patches come from the right-hand quarter of the photograph.
    """
    left, _, disparity = data.stereo_motorcycle()
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    image = np.concatenate([left.transpose(2, 0, 1) / 255, disparity[None]]).astype(np.float32)
    height, width = disparity.shape
    border = round(0.75 * width)

    def cut(first: int, end: int) -> sp.ImageStore:
        tops, lefts = range(0, height - SIZE + 1, STRIDE), range(first, end - SIZE + 1, STRIDE)
        cuts = [image[:, top : top + SIZE, start : start + SIZE] for top in tops for start in lefts]
        return sp.ImageStore.from_arrays(np.stack(cuts), [0] * len(cuts))

    return cut(0, border), cut(border, width)


def main(out: str = "runs/depth_from_rgb", epochs: int = 30) -> float:
    """Pretrains, and returns the mean absolute error of the predicted disparity on the test patches, in pixels."""
    train, test = patches()
    space = sp.ChannelSpace.bands("rgbd", ["R", "G", "B", "D"], center=[0.5, 0.5, 0.5, 40], scale=[0.5, 0.5, 0.5, 40])
    task = sp.CrossChannelPrediction(
        space["R", "G", "B"], space["D"], "timm/resnet10t[layer=layer2]", losses={"smooth_l1": 1.0}
    )
    history = sp.fit(task, train, sp.FitConfig(out=out, epochs=epochs, batch_size=16, learning_rate=1e-3))
    with torch.no_grad():
        output = task.eval()(test.images())
    error = (output.prediction - output.target).abs().nanmean() * 40
    print(f"training loss: {history[0]['train_loss']:.3f} to {history[-1]['train_loss']:.3f}")
    print(f"mean absolute error on the test patches: {error:.1f} pixels")
    return float(error)


if __name__ == "__main__":
    main(*sys.argv[1:2])
