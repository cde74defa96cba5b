"""Helpers that several test files share: small encoders and images, weights on disk, a reference of soft encoding."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssl_pretext.encoders import autoencoder
from ssl_pretext.losses import Loss
from ssl_pretext.quantize import ColorQuantizer

SQUEEZE = Path(torch.hub.get_dir()) / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
needs_squeeze = pytest.mark.skipif(not SQUEEZE.exists(), reason=f"{SQUEEZE.name} is not in TORCH_HOME")


def small_encoder(channels: int) -> nn.Module:
    """A CNN of two convolutions that halves the image size."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    )


SMALL_AUTOENCODER = {"BLOCK_CHANNELS": (8, 16, 16), "LAYERS_PER_BLOCK": 1, "NORM_GROUPS": 4}


def shrink_autoencoder(patch: pytest.MonkeyPatch) -> None:
    """Gives `autoencoder`, and the decoder of most encoders, fewer channels and layers."""
    for name, value in SMALL_AUTOENCODER.items():
        patch.setattr(autoencoder, name, value)


def smooth_images(channels: int) -> torch.Tensor:
    """Eight random images of 20×20 pixels whose neighboring pixels are alike."""
    smooth = torch.rand(8, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(smooth, size=(20, 20), mode="bilinear")


def check_frozen_network(loss: Loss) -> None:
    """Checks that a loss computes in float32 whatever it is cast to, and that its copies and moves include its network.

    The network is in the tuple `_hidden`, where `nn.Module` does not find it by itself.
    """
    x, y = 2 * torch.rand(2, 2, 3, 64, 64) - 1
    exact = loss(x, y)
    assert loss.bfloat16()(x, y) == exact
    assert loss.double()(x, y) == exact
    duplicate = copy.deepcopy(loss)
    assert duplicate(x, y) == exact
    assert duplicate.spec == loss.spec
    on_meta = copy.deepcopy(loss.to("meta"))
    assert {value.device.type for value in on_meta._hidden[0].state_dict().values()} == {"meta"}


@functools.cache
def color_quantizer(k: int) -> ColorQuantizer:
    """One quantizer for each `k`, because creating its table takes time."""
    return ColorQuantizer(neighbors=k)


def random_ab(low: float, high: float, dtype: torch.dtype, seed: int, count: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, 1, count // 2, dtype=dtype, generator=generator) * (high - low) + low


def dense_targets(indices: torch.Tensor, weights: torch.Tensor, bins: int) -> np.ndarray:
    """Soft targets `(N, Q)` in float64 from an encoding `(B, k, H, W)`."""
    indices, weights = (x.movedim(1, -1).flatten(0, -2) for x in (indices, weights))
    assert (indices.sort(1).values.diff(dim=1) > 0).all(), "a pixel has a bin twice"
    return torch.zeros(len(indices), bins, dtype=torch.float64).scatter_(1, indices, weights.double()).numpy()


def reference_targets(values: torch.Tensor, centers: torch.Tensor, sigma: float, k: int) -> np.ndarray:
    """Soft targets `(N, Q)` of values `(B, D, H, W)`, by sorting all distances in NumPy."""
    points = np.moveaxis(values.double().numpy(), 1, -1).reshape(-1, values.shape[1])
    centers = centers.double().numpy()
    squares = ((points[:, None] - centers) ** 2).sum(-1)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :k]
    weights = np.exp(-(np.take_along_axis(squares, nearest, 1) - squares.min(1, keepdims=True)) / (2 * sigma**2))
    targets = np.zeros_like(squares)
    np.put_along_axis(targets, nearest, weights / weights.sum(1, keepdims=True), 1)
    return targets
