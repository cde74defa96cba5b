"""The conv probe, with the layers of the documented experiment: two convolutions and a linear layer."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["ConvProbe"]


class ConvProbe(nn.Module):
    """The layers of the documented experiment's classifier: two convolutions, average pooling, one linear layer.

    `evaluate(probe="conv")` trains them on features whose channels are standardized over the training images, so that
    the size of the values decides nothing. `probe="documented_conv"` leaves the features as they are, as the documented
    experiment does: features with small values then stay near chance, whatever they represent.

    The layers are conv 3×3 (in → 128), BatchNorm, ReLU, conv 3×3 (128 → 256), BatchNorm, global average pooling and
    linear (256 → classes). The convolutions have no bias. With 101 classes, the probe has 325,093 parameters for 3
    input channels and 326,245 for 4.

    Args:
        in_channels: Number of channels of the features `(B, in_channels, h, w)`.
        num_classes: Number of classes; the output is logits `(B, num_classes)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 128, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 256, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(256)
        self.classify = nn.Linear(256, num_classes)

    @override
    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(features)))
        if self.training:
            pooled = self.norm2(self.conv2(hidden)).mean(dim=(2, 3))
        else:
            # Everything after the ReLU is affine, because the statistics of BatchNorm are fixed in eval mode. So the
            # average can come first: each entry of the kernel is multiplied once per image, with the mean of the
            # positions that it sees, instead of at each of the h w positions.
            pooled = self.norm2(F.conv2d(_window_means(hidden), self.conv2.weight)).flatten(1)
        return cast(Tensor, self.classify(pooled))


def _window_means(maps: Tensor) -> Tensor:
    """Computes the mean that each entry of a 3×3 kernel sees in maps padded by one: `(B, C, h, w)` to `(B, C, 3, 3)`.

    The first entry, for example, sees all positions except the last row and column. The sums are computed in one pass
    over the maps; average pooling would need nine.
    """
    rows = maps.sum(dim=2)
    rows = torch.stack([rows - maps[:, :, -1], rows, rows - maps[:, :, 0]], dim=2)  # (B, C, 3, w)
    sums = rows.sum(dim=3)
    sums = torch.stack([sums - rows[..., -1], sums, sums - rows[..., 0]], dim=3)
    return sums / maps[0, 0].numel()
