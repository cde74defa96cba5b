"""Split-brain autoencoders (Zhang et al. 2017): two half-encoders, each predicting the other's input."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import half_width
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction

__all__ = ["SplitBrain"]


@register_task("split_brain")
class SplitBrain(PretextTask):
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
        super().__init__()
        groups = self.first, self.second = Channels.parse(first), Channels.parse(second)
        if self._one_space and {*groups[0].names} & {*groups[1].names}:
            raise ArgumentError(f"the halves of a split brain see different channels, got {groups[0]} and {groups[1]}")
        encoders = _pair(encoder, "encoder")
        each = _pair(losses, "losses") if isinstance(losses, Sequence) else [losses, losses]
        self._encoder_names = [one if isinstance(one, str) else None for one in encoders]
        self.halves = nn.ModuleList(
            CrossChannelPrediction(
                source, target, one, losses=of_one, regularizers=regularizers, output_stride=output_stride
            )
            for source, target, one, of_one in zip(groups, groups[::-1], encoders, each, strict=True)
        )

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # a view on the halves, which hold the modules
        return nn.ModuleList(half.encoder for half in self._halves)

    def forward(self, images: Tensor) -> TaskOutput:
        outputs = [half(images) for half in self._halves]
        terms = {
            f"{half.target} {name}": value
            for half, output in zip(self._halves, outputs, strict=True)
            for name, value in output.terms.items()
        }
        # In the order of first, second: what the second half predicts comes first.
        prediction = torch.cat([output.prediction for output in outputs[::-1]], dim=1)
        target = torch.cat([output.target for output in outputs[::-1]], dim=1)
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, prediction, target)

    @property
    def sees(self) -> Channels | None:
        return Channels(self.first.space, self.first.names + self.second.names) if self._one_space else None

    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        first, second = (half.feature_maps(images, layers) for half in self._halves)
        return {layer: torch.cat([first[layer], second[layer]], dim=1) for layer in layers}

    def layers(self) -> list[str]:
        first, second = (half.layers() for half in self._halves)
        return [layer for layer in first if layer in second]

    def networks(self) -> list[nn.Module]:
        return [network for half in self._halves for network in half.networks()]

    def prepare(self, images: ImageStore) -> None:
        for half in self._halves:
            half.prepare(images)

    def options(self) -> dict[str, Any]:
        first, second = (half.options() for half in self._halves)
        names = self._encoder_names
        same = ("regularizers", "output_stride")
        return {
            "first": first["source"],
            "second": second["source"],
            "encoder": None if None in names else names,
            "losses": [first["losses"], second["losses"]],
            **{key: first[key] for key in same},
        }

    @property
    def _one_space(self) -> bool:
        return self.first.space == self.second.space

    @property
    def _halves(self) -> list[CrossChannelPrediction]:
        return [cast(CrossChannelPrediction, half) for half in self.halves]


def _pair(given: Any, what: str) -> list[Any]:
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        raise ArgumentError(f"a split brain has two encoders that share nothing; give a name or a pair, got one {what}")
    pair = [half_width(given)] * 2 if isinstance(given, str) else list(given)
    if len(pair) != 2 or (isinstance(pair[0], nn.Module) and pair[0] is pair[1]):
        raise ArgumentError(f"{what} of a split brain is one for both halves or a pair of two, got {len(pair)}")
    return pair
