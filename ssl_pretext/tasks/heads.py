"""Heads: layers on top of an encoder that are used during pretraining and discarded afterward."""

from typing import cast

from torch import Tensor, nn
from typing_extensions import override

__all__ = ["PooledHead", "classifier"]

WIDTH = 128  # length of the vector that a `PooledHead` computes


class PooledHead(nn.Module):
    """Maps a feature map to one vector: a 3×3 convolution, BatchNorm, ReLU, and the mean over all positions.

    The convolution can learn the details that only the task needs, so that an encoder with few channels, such as a
    latent of four, does not have to represent them. BatchNorm makes the output depend on the other images
    in the batch. A norm over each image alone would avoid that, but it removes the mean of the image's features, and
    training with it was slower.

    Args:
        in_channels: Channels of the feature map `(B, in_channels, h, w)`.
        width: Length of the vector `(B, width)`.

    Examples:
        >>> import torch
        >>> PooledHead(4)(torch.zeros(2, 4, 7, 7)).shape
        torch.Size([2, 128])
    """

    def __init__(self, in_channels: int, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )

    @override
    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features)).mean(dim=(2, 3))


def classifier(in_features: int, classes: int, hidden: int | None = None) -> nn.Sequential:
    """Creates a classifier of vectors, which is linear or has one hidden layer.

    Args:
        in_features: Length of the vectors `(B, in_features)`.
        classes: Number of logits `(B, classes)`.
        hidden: Width of the hidden layer; None for a linear classifier.
    """
    if hidden is None:
        return nn.Sequential(nn.Linear(in_features, classes))
    return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
