"""Colorization (Zhang et al. 2016): cross-channel prediction from lightness to color."""

from collections.abc import Mapping

from torch import Tensor, nn

from ssl_pretext.channels import Channels, join
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction

__all__ = ["Colorization"]


@register_task("colorization")
class Colorization(CrossChannelPrediction):
    """Predicts the colors of an image from its lightness, `lab:L`; `predict` returns the colored images.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, 1, H, W)` to `(B, C, h, w)`.
        target: Channels to predict: `"lab:ab"`, or `"rgb"` as in the documented Food-101 experiment.
        decoder: Decoder, as in `CrossChannelPrediction`.
        losses: Weights of the losses, as in `CrossChannelPrediction`. The loss of Zhang et al. 2016 is
            `color_classification`.
        regularizers: Weights of the regularizers, as in `CrossChannelPrediction`.
        output_stride: Stride of the network's output, as in `CrossChannelPrediction`.

    Raises:
        ArgumentError: The target is neither `lab:ab` nor `rgb`, or the encoder, decoder and losses do not fit together.

    Examples:
        >>> import torch
        >>> task = Colorization("autoencoder", target="rgb")
        >>> task.predict(torch.rand(2, 3, 32, 32)).shape
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
            raise ArgumentError(
                f"target of colorization must be 'lab:ab' or 'rgb', got {target!r}; for other channels use the task "
                "cross_channel"
            )
        super().__init__(
            "lab:L",
            target,
            encoder,
            decoder=decoder,
            losses=losses,
            regularizers=regularizers,
            output_stride=output_stride,
        )

    @staticmethod
    def lightness(images: Tensor) -> Tensor:
        """Converts sRGB images `(B, 3, H, W)` to gray images of their lightness, which is all that the task sees."""
        light, color = Channels("lab", "L"), Channels("lab", "ab")
        values = light.extract(images)
        return join({light: values, color: values.new_zeros(len(values), 2, *values.shape[-2:])}).clamp(0, 1)
