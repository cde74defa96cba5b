"""Denoising (Vincent et al. 2010): restores an image from a noisy copy."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.masks import add_noise

__all__ = ["Denoising"]


@register_task("denoising")
class Denoising(CrossChannelPrediction):
    """Restores an image from a corrupted copy (Vincent et al. 2010, section 3).

    The losses compare the prediction with the clean image at all pixels: `‖x - F(x̃)‖²` with `x̃ ~ q(x̃ | x)` for `l2`.
    The corruptions `q` are the three of the paper. Each value of each channel is corrupted independently.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees and that are restored, such as `"rgb"`; any number of them.
        noise: Kind of noise. `"gaussian"` adds Gaussian noise, `"masking"` sets values to zero, the center of the
            range, and `"salt_and_pepper"` sets values to -1 or 1, the ends of the range.
        amount: For `"gaussian"` the standard deviation of the noise, where normalized values are about in `[-1, 1]`;
            for the others the fraction of the values that is changed.
        decoder: Decoder, as in `CrossChannelPrediction`.
        losses: Weight of each loss, by spec or by `Loss` instance; by default `l2` alone.
        regularizers: Weights of the regularizers, as in `CrossChannelPrediction`.

    Raises:
        ArgumentError: The kind of noise is unknown, the amount is out of its range, or the encoder, decoder and losses
            do not fit together.

    Examples:
        >>> task = Denoising("autoencoder", noise="masking", amount=0.5)
        >>> task(torch.rand(2, 3, 32, 32)).prediction.shape
        torch.Size([2, 3, 32, 32])
    """

    default_losses: ClassVar[Losses] = {"l2": 1.0}

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        noise: str = "gaussian",
        amount: float = 0.5,
        decoder: str | nn.Module | None = None,
        losses: Losses | None = None,
        regularizers: Mapping[str, float] | None = None,
    ) -> None:
        add_noise(torch.empty(0), noise, amount)  # only to check the arguments
        super().__init__(channels, channels, encoder, decoder=decoder, losses=losses, regularizers=regularizers)
        self.noise, self.amount = noise, amount

    @override
    def _corrupt(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        return add_noise(source, self.noise, self.amount), None
