"""Split-brain autoencoders (Zhang et al. 2017): two networks, each of which predicts the other's input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import TaskOutput, register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.two_encoders import TwoEncoderTask, pair_for_branches, parse_disjoint_channels

__all__ = ["SplitBrain"]

NAME = "split_brain"


@register_task(NAME)
class SplitBrain(TwoEncoderTask):
    """Predicts `first` from `second` and `second` from `first`, with two networks that have separate weights.

    Each encoder sees one of the two groups of channels. `features` concatenates their feature maps along the channels.

    Args:
        first: Channels that the first encoder sees, such as `"lab:L"`.
        second: Other channels of the same images, which the second encoder sees, such as `"lab:ab"`.
        encoder: Name of an encoder, from which two are created, or a pair of names or modules for `first` and
            `second`. With one name, the two have half the width each if the encoder was added by `register_encoder` and
            has an option `width`, such as `"autoencoder"`; those of timm and torchvision have full width. `options()`
            shows the names of both.
        losses: Weight of each loss, by spec, for both directions; or a pair of such mappings, for `first → second` and
            `second → first`.
        regularizers: Weights of the regularizers of both encoders, as in `CrossChannelPrediction`.
        output_stride: Stride of the output of both networks, as in `CrossChannelPrediction`.

    Raises:
        ArgumentError: The groups of channels overlap, or the encoders and losses do not fit the channels or each other.

    Examples:
        >>> task = SplitBrain("lab:L", "lab:ab", "autoencoder", losses={"smooth_l1": 1.0})
        >>> task.features(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        first: str | Channels,
        second: str | Channels,
        encoder: str | Sequence[str] | Sequence[nn.Module] | nn.ModuleList,
        *,
        losses: Losses | Sequence[Losses] | None = None,
        regularizers: Mapping[str, float] | None = None,
        output_stride: int = 1,
    ) -> None:
        groups = parse_disjoint_channels(first, second, NAME)
        encoders = pair_for_branches(encoder, "encoder", NAME)
        for_both = isinstance(losses, str) or not isinstance(losses, Sequence)
        pair = [losses, losses] if for_both else pair_for_branches(losses, "losses", NAME)
        super().__init__(
            [
                CrossChannelPrediction(
                    source, target, network, losses=weights, regularizers=regularizers, output_stride=output_stride
                )
                for source, target, network, weights in zip(groups, groups[::-1], encoders, pair, strict=True)
            ]
        )
        self.output_stride = output_stride

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        outputs = [branch(images) for branch in self._branches]
        terms = {
            f"{target} {name}": value
            for target, output in zip((self.second, self.first), outputs, strict=True)
            for name, value in output.terms.items()
        }
        # Reversed, because the second branch predicts the first group of channels.
        prediction = torch.cat([output.prediction for output in outputs[::-1]], dim=1)
        target = torch.cat([output.target for output in outputs[::-1]], dim=1)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    def _converted_options(self) -> dict[str, Any]:
        first, second = (branch.options() for branch in self._branches)
        losses = [first["losses"], second["losses"]]
        return super()._converted_options() | {"losses": losses, "regularizers": first["regularizers"]}
