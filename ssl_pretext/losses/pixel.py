"""Losses of one pixel's difference: `l1`, `l2` and `smooth_l1`."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import Domain, Loss, register_loss

__all__ = ["PixelLoss"]


class PixelLoss(Loss):
    """The mean over pixels and channels of a function of the difference.

    Args:
        function: `(prediction, target) -> scalar`.
        domain: See `Loss`.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], domain: Domain = "channels") -> None:
        super().__init__(domain)
        self.function = function

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.function(prediction, target)


@register_loss("l1")
def l1(domain: Domain = "channels") -> Loss:
    """`|x - y|`."""
    return PixelLoss(F.l1_loss, domain)


@register_loss("l2")
def l2(domain: Domain = "channels") -> Loss:
    """`(x - y)²`; Zhang 2016's weak baseline."""
    return PixelLoss(F.mse_loss, domain)


@register_loss("smooth_l1")
def smooth_l1(beta: float = 1.0, domain: Domain = "channels") -> Loss:
    """`(x - y)² / (2 beta)` below `beta`, `|x - y| - beta / 2` above; `beta=1/110` is Zhang 2017's on ab / 110."""
    if not beta > 0:
        raise ArgumentError(f"smooth_l1 needs beta > 0, got {beta}; beta -> 0 is l1")
    return PixelLoss(lambda prediction, target: F.smooth_l1_loss(prediction, target, beta=beta), domain)
