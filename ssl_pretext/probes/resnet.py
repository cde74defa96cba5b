"""The resnet probe, a stronger classifier than the conv probe, for small feature maps such as latents."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["ResNetProbe"]


class Block(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a projection shortcut (He et al. 2016, section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.body(features) + self.shortcut(features))


class ResNetProbe(nn.Module):
    """Three residual blocks with 64, 128 and 256 channels, average pooling and one linear layer.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes; the output is logits `(B, num_classes)`.

    Examples:
        >>> import torch
        >>> ResNetProbe(4, 10)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(in_channels, 64, 1), Block(64, 128, 2), Block(128, 256, 2))
        self.classify = nn.Linear(256, num_classes)

    @override
    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.classify(self.blocks(features).mean(dim=(2, 3))))
