"""Classification of all three channels of Lab, for autoencoders of color images."""

import torch
from torch import Tensor
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import LogitsLoss, register_loss
from ssl_pretext.losses.classification import ChannelClassification, ColorClassification

__all__ = ["LabClassification"]


@register_loss("lab_classification")
class LabClassification(LogitsLoss):
    """The sum of `channel_classification` of L and `color_classification` of ab, one-hot as in Zhang et al. 2017.

    Args:
        bins: Number of bins of L.
        rebalance: λ of the rebalancing of rare colors, as in `ColorClassification`; 1, the default, switches it off.
        neighbors: Number of nearest bins that form the target of a color, as in `ColorClassification`.
    """

    def __init__(self, bins: int = 50, rebalance: float = 1.0, neighbors: int = 1) -> None:
        super().__init__()
        self.lightness = ChannelClassification(bins=bins)
        self.color = ColorClassification(rebalance=rebalance, neighbors=neighbors)

    @override
    def bind(self, channels: Channels) -> None:
        if str(channels) != "lab":
            raise ArgumentError(
                f"the loss {self.label} has bins for all three channels of lab and cannot be computed on {channels}; "
                "use channel_classification or color_classification"
            )
        self.lightness.bind(Channels("lab", "L"))
        self.color.bind(Channels("lab", "ab"))
        self.num_outputs = self.lightness.num_outputs + self.color.num_outputs

    @override
    def prepare(self, images: ImageStore) -> None:
        self.lightness.prepare(images)
        self.color.prepare(images)

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        lightness, color = self._split(prediction)
        loss: Tensor = self.lightness(lightness, target[:, :1]) + self.color(color, target[:, 1:])
        return loss

    @override
    def decode(self, logits: Tensor) -> Tensor:
        lightness, color = self._split(logits)
        return torch.cat([self.lightness.decode(lightness), self.color.decode(color)], dim=1)

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        count = self.lightness.num_outputs
        return logits[:, :count], logits[:, count:]
