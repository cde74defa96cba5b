"""Colorization (Zhang et al. 2016): cross-channel prediction from lightness to color."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels, join
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses
from ssl_pretext.losses.weighted import as_signed_rgb
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction

__all__ = ["Colorization"]


@register_task("colorization")
class Colorization(CrossChannelPrediction):
    """Predicts an image's colors from its lightness `lab:L`.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, 1, H, W)` to `(B, C, h, w)`.
        target: `"lab:ab"`, or `"rgb"` as in the documented Food-101 experiment.
        decoder: As for `CrossChannelPrediction`.
        losses: As for `CrossChannelPrediction`; `color_classification` is Zhang's.
        regularizers: As for `CrossChannelPrediction`.
        output_stride: As for `CrossChannelPrediction`.

    Raises:
        ArgumentError: The target is another one, or the parts do not fit together.

    Examples:
        >>> task = Colorization("autoencoder", target="rgb")
        >>> task.colorize(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        target: str = "lab:ab",
        decoder: str | nn.Module | None = None,
        losses: Losses | None = None,
        regularizers: Mapping[str, float] | None = None,
        output_stride: int = 1,
    ) -> None:
        if str(Channels.parse(target)) not in ("lab:ab", "rgb"):
            raise ArgumentError(f"colorization predicts 'lab:ab' or 'rgb', got {target!r}; else use cross_channel")
        super().__init__(
            "lab:L",
            target,
            encoder,
            decoder=decoder,
            losses=losses,
            regularizers=regularizers,
            output_stride=output_stride,
        )

    @torch.no_grad()
    def colorize(self, images: Tensor) -> Tensor:
        """Colors images from their lightness alone, in eval mode.

        Args:
            images: sRGB in `[0, 1]` or `uint8`, `(B, 3, H, W)`; gray ones repeat their value three times.

        Returns:
            sRGB in `[0, 1]`, of the same shape.
        """
        images = self._checked(images)
        with eval_mode(self):
            prediction = self.predict(self._pick(self.source, images))
        return (as_signed_rgb(prediction, self.target, images) + 1) / 2

    @staticmethod
    def lightness(images: Tensor) -> Tensor:
        """What the task sees, as gray RGB images in `[0, 1]`: the lightness of `(B, 3, H, W)` without its color."""
        light, color = Channels("lab", "L"), Channels("lab", "ab")
        values = light.extract(images)
        return join({light: values, color: values.new_zeros(len(values), 2, *values.shape[-2:])}).clamp(0, 1)
