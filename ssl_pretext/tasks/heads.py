"""Heads: what stands on an encoder while it is pretrained, and is thrown away afterward."""

from typing import cast

from torch import Tensor, nn
from typing_extensions import override

__all__ = ["PooledHead", "classifier"]

WIDTH = 128  # of the vector that a head makes of a feature map


class PooledHead(nn.Module):
    """A feature map to one vector: a 3×3 convolution, BatchNorm, ReLU, the mean over positions.

    The convolution lets an encoder of few channels, such as a latent of four, keep its task's detail out of them. A
    norm over each image would be free of the others in its batch, but takes its tone away, and learned more slowly.

    Args:
        in_channels: Channels of the map `(B, in_channels, h, w)`.
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
    """Vectors `(B, in_features)` to scores `(B, classes)`: linear, or with one hidden layer."""
    if hidden is None:
        return nn.Sequential(nn.Linear(in_features, classes))
    return nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
