"""Probes that predict a class or numbers for each pixel from feature maps."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["ConvMapProbe", "LinearMapProbe"]


class LinearMapProbe(nn.Module):
    """A linear model of each position of the feature map, the same for all positions (a 1×1 convolution).

    `evaluate(target="mask", probe="linear")` interpolates its logits bilinearly to the size of the masks, as the linear
    segmentation probe of Oquab et al. 2023 (DINOv2, 2304.07193) does; `target="map"` does so with its numbers.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes or maps; the output is `(B, num_classes, h, w)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(in_channels, num_classes, kernel_size=1)

    @override
    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.classify(features))


class ConvMapProbe(nn.Module):
    """A 3×3 convolution to 128 channels, BatchNorm, ReLU and a 1×1 convolution, without change of the map's size.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes or maps; the output is `(B, num_classes, h, w)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 128, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(128)
        self.classify = nn.Conv2d(128, num_classes, kernel_size=1)

    @override
    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.classify(F.relu(self.norm(self.conv(features)))))
