"""The registry of probes, and the documented one: two convolutions, global average pooling, one linear layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Registry

__all__ = ["PROBES", "ConvProbe", "create_probe", "list_probes", "register_probe"]

PROBES: Registry[nn.Module] = Registry("probe")

WIDTHS = (128, 256)  # of the two convolutions, as documented


def create_probe(name: str, in_channels: int, num_classes: int, **options: object) -> nn.Module:
    """Builds a probe by name or spec: a module from features `(B, in_channels, h, w)` to logits `(B, num_classes)`.

    Raises:
        UnknownNameError: There is no such probe.
        ArgumentError: The probe does not take these options or sizes.

    Examples:
        >>> sum(p.numel() for p in create_probe("conv", in_channels=4, num_classes=101).parameters())
        326245
    """
    return PROBES.create(name, in_channels=in_channels, num_classes=num_classes, **options)


def list_probes() -> list[str]:
    """Names that `create_probe` knows."""
    return PROBES.names()


def register_probe(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Files a factory `(in_channels, num_classes, **options) -> nn.Module` under a name, as a decorator."""
    return PROBES.register(name)


@register_probe("conv")
class ConvProbe(nn.Module):
    """The documented probe: conv 3×3, BatchNorm, ReLU, conv 3×3, BatchNorm, global average pool, linear.

    Args:
        in_channels: Channels of the features.
        num_classes: How many logits it gives.

    Raises:
        ArgumentError: One of them is below 1.

    Examples:
        >>> ConvProbe(3, 10)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        if in_channels < 1 or num_classes < 1:
            raise ArgumentError(f"ConvProbe needs at least 1 channel and class, got {in_channels} and {num_classes}")
        middle, wide = WIDTHS
        self.conv1 = nn.Conv2d(in_channels, middle, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, wide, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.classify = nn.Linear(wide, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of features `(B, in_channels, h, w)`."""
        x = F.relu(self.norm1(self.conv1(features)))  # (B, 128, h, w)
        # In training BatchNorm needs the spread over positions, so there the second convolution runs in full.
        x = self._pooled_in_training(x) if self.training else self._pooled_in_eval(x)  # (B, 256)
        logits: Tensor = self.classify(x)
        return logits

    def _pooled_in_training(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.norm2(self.conv2(x)).mean(dim=(2, 3))
        return pooled

    def _pooled_in_eval(self, x: Tensor) -> Tensor:
        # From here to the pooling all is affine, so the average is taken first: of what each of the 3×3 taps sees.
        # Two one-dimensional pools, because one of the full size reads every value nine times instead of three.
        height, width = x.shape[-2:]
        padded = F.pad(x, (1,) * 4)
        rows = F.avg_pool2d(padded, (height, 1), stride=1)  # (B, 128, 3, w + 2)
        windows = F.avg_pool2d(rows, (1, width), stride=1)  # (B, 128, 3, 3)
        averages = F.conv2d(windows, self.conv2.weight)  # (B, 256, 1, 1)
        pooled: Tensor = self.norm2(averages)
        return torch.flatten(pooled, 1)
