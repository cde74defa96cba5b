"""Split-brain autoencoders (Zhang et al. 2017): two half-encoders, each predicting the other's input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import TaskOutput, register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.two_encoders import TwoEncoderTask, disjoint_groups, pair_of

__all__ = ["SplitBrain"]


@register_task("split_brain")
class SplitBrain(TwoEncoderTask):
    """Predicts `first` from `second` and `second` from `first`, by two networks that share nothing.

    Together the halves see the whole image; `features` joins theirs along the channels.

    Args:
        first: Channels such as `"lab:L"`.
        second: Others of the same images, such as `"lab:ab"`.
        encoder: A name, for two encoders of that name: at half width where it is one of `register_encoder` that has a
            `width` (as `"autoencoder"`), else two full ones (those of timm and torchvision); `options()` shows which.
            Or a pair of modules or names, for `first` and `second`.
        losses: Weight of each loss by spec, for both directions; or a pair, for `first → second` and
            `second → first`.
        regularizers: As for `CrossChannelPrediction`, for both.
        output_stride: As for `CrossChannelPrediction`, for both.

    Raises:
        ArgumentError: The groups overlap, or the parts do not fit together.

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
        groups = disjoint_groups(first, second, "a split brain")
        encoders = pair_of(encoder, "encoder", "a split brain")
        each = pair_of(losses, "losses", "a split brain") if isinstance(losses, Sequence) else [losses, losses]
        super().__init__(
            [
                CrossChannelPrediction(
                    source, target, one, losses=of_one, regularizers=regularizers, output_stride=output_stride
                )
                for source, target, one, of_one in zip(groups, groups[::-1], encoders, each, strict=True)
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
        # In the order of first, second: what the second branch predicts comes first.
        prediction = torch.cat([output.prediction for output in outputs[::-1]], dim=1)
        target = torch.cat([output.target for output in outputs[::-1]], dim=1)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    def _converted_options(self) -> dict[str, Any]:
        first, second = (branch.options() for branch in self._branches)
        losses = [first["losses"], second["losses"]]
        return super()._converted_options() | {"losses": losses, "regularizers": first["regularizers"]}
