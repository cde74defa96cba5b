"""Pixelwise losses: `l1`, `l2` and `smooth_l1`."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import Domain, Loss, register_loss

__all__ = ["PixelLoss"]


class PixelLoss(Loss):
    """A pixelwise loss, averaged over pixels and channels.

    Args:
        function: Function of prediction and target that returns the mean as a scalar, such as `F.l1_loss`.
        domain: What the loss is computed on, `"channels"` or `"rgb"`; see `Loss`.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], domain: Domain = "channels") -> None:
        super().__init__(domain)
        self.function = function

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.function(prediction, target)


@register_loss("l1")
def l1(domain: Domain = "channels") -> Loss:
    """The mean absolute error, `|x - y|`."""
    return PixelLoss(F.l1_loss, domain)


@register_loss("l2")
def l2(domain: Domain = "channels") -> Loss:
    """The mean squared error, `(x - y)²`; the weak baseline of Zhang et al. 2016."""
    return PixelLoss(F.mse_loss, domain)


@register_loss("smooth_l1")
def smooth_l1(beta: float = 1.0, domain: Domain = "channels") -> Loss:
    """The smooth L1 loss: `(x - y)² / (2 beta)` where `|x - y| < beta`, and `|x - y| - beta / 2` elsewhere.

    Zhang et al. 2017 use it on ab / 110 with a beta of 1/110.
    """
    if not beta > 0:
        raise ArgumentError(f"smooth_l1 needs beta > 0, got {beta}; for beta -> 0 use l1")
    return PixelLoss(partial(F.smooth_l1_loss, beta=beta), domain)
