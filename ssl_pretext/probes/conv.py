"""The documented conv probe, and the registry of probes."""

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.registry import Option, Registry

__all__ = ["ConvProbe", "create_probe", "list_probes", "register_probe"]

PROBES: Registry[nn.Module] = Registry("probe")


@PROBES.register("conv")
class ConvProbe(nn.Module):
    """The classifier of the documented experiment: two convolutions, average pooling, one linear layer.

    conv 3×3 (in → 128), BatchNorm, ReLU, conv 3×3 (128 → 256), BatchNorm, global average, linear (256 → classes); the
    convolutions have no bias. With 101 classes 325,093 parameters for 3 input channels, 326,245 for 4.

    Args:
        in_channels: Channels of the features `(B, in_channels, h, w)`.
        num_classes: Outputs `(B, num_classes)`.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 128, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 256, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(256)
        self.classify = nn.Linear(256, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(features)))
        if self.training:
            pooled = self.norm2(self.conv2(hidden)).mean(dim=(2, 3))
        else:
            # After the ReLU all is affine once BatchNorm's statistics are fixed, so the average may come first: the
            # mean of each window that a kernel entry sees, then one 3×3 product per image instead of h w of them.
            windows = F.avg_pool2d(F.pad(hidden, (1, 1, 1, 1)), hidden.shape[-2:], stride=1)
            pooled = self.norm2(F.conv2d(windows, self.conv2.weight)).flatten(1)
        return cast(Tensor, self.classify(pooled))


def create_probe(probe: str, in_channels: int, num_classes: int, **options: Option) -> nn.Module:
    """Builds a probe by name.

    Args:
        probe: A name of `list_probes()`.
        in_channels: Channels of the features it classifies.
        num_classes: Classes it tells apart.
        options: Options of the probe.

    Raises:
        UnknownNameError: There is no such probe.
        ArgumentError: It does not take these options.

    Examples:
        >>> sum(parameter.numel() for parameter in create_probe("conv", 4, 101).parameters())
        326245
    """
    return PROBES.create(probe, in_channels=in_channels, num_classes=num_classes, **options)


def list_probes() -> list[str]:
    """Names that `create_probe` knows."""
    return PROBES.names()


def register_probe(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Files a factory `(in_channels, num_classes)` under a name, as a decorator."""
    return PROBES.register(name)
