"""Denoising (Vincent et al. 2010): the image without the noise."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.masks import noisy

__all__ = ["Denoising"]


@register_task("denoising")
class Denoising(CrossChannelPrediction):
    """Restores an image from a corrupted copy (Vincent et al. 2010, section 3).

    The losses compare the whole image with what is made of the copy: `‖x - F(x̃)‖²`, `x̃ ~ q(x̃ | x)`, for `l2`. The
    corruptions `q` are the three of the paper; each value of each channel is corrupted for itself.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What is seen and restored, such as `"rgb"`, or bands of any number.
        noise: `"gaussian"`: adds noise. `"masking"`: sets values to zero, the center of the range.
            `"salt_and_pepper"`: sets values to -1 or 1, the ends of the range.
        amount: Standard deviation of Gaussian noise in normalized values, about `[-1, 1]`; else the share of the
            values that is changed.
        decoder: As for `CrossChannelPrediction`.
        losses: Weight of each loss, by spec or by `Loss` instance; `l2` if left out.
        regularizers: As for `CrossChannelPrediction`.

    Raises:
        ArgumentError: There is no such noise, the amount is out of its range, or the parts do not fit together.

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
        noisy(torch.empty(0), noise, amount)  # complains of what it does not know
        super().__init__(channels, channels, encoder, decoder=decoder, losses=losses, regularizers=regularizers)
        self.noise, self.amount = noise, amount

    def _corrupted(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        return noisy(source, self.noise, self.amount), None
