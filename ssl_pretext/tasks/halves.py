"""What tasks of two encoders share: each half sees channels of its own, and features are joined."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import half_width
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, channels_of_one_image

__all__ = ["TwoHalves", "pair_of", "two_groups"]


class TwoHalves(PretextTask):
    """Base of the tasks with two encoders that share nothing; `features` joins theirs along the channels.

    Args:
        halves: A task with an encoder each.

    Raises:
        ArgumentError: Their maps are of different sizes.
    """

    def __init__(self, halves: Sequence[PretextTask]) -> None:
        super().__init__()
        self.halves = nn.ModuleList(halves)
        self.first, self.second = (half.channels for half in halves)
        one, other = (half.shape.reduction for half in halves)
        if round(one) != round(other):
            raise ArgumentError(
                f"the encoders of both halves reduce images alike, since their features are joined; got {one:g} and "
                f"{other:g}. Choose another pair, or end one earlier with 'timm/<name>[layer=...]'"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("image_size", "resize", "pretraining"):  # as `fit` and a checkpoint tell it of both
            for half in self._halves:
                setattr(half, name, value)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # a view on the halves, which hold the modules
        return nn.ModuleList(half.encoder for half in self._halves)

    @property
    def sees(self) -> Channels | None:
        one_space = self.first.space == self.second.space
        return Channels(self.first.space, self.first.names + self.second.names) if one_space else None

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
        names = [half.encoder_name for half in self._halves]
        return {
            "first": str(self.first),
            "second": str(self.second),
            "encoder": None if None in names else names,
        }

    @property
    def _halves(self) -> list[PretextTask]:
        return [cast(PretextTask, half) for half in self.halves]


def two_groups(first: str | Channels, second: str | Channels, task: str) -> tuple[Channels, Channels]:
    """The channels of both halves.

    Raises:
        ArgumentError: They overlap, or are read from different images.
    """
    groups = channels_of_one_image(first, second)
    if groups[0].space == groups[1].space and {*groups[0].names} & {*groups[1].names}:
        raise ArgumentError(f"the halves of {task} see different channels, got {groups[0]} and {groups[1]}")
    return groups


def pair_of(given: Any, what: str, task: str) -> list[Any]:
    """One for each half: a pair as it is, two of a name, at half width where that is known.

    Raises:
        ArgumentError: It is one module, or not two.
    """
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        raise ArgumentError(f"{task} has two encoders that share nothing; give a name or a pair, got one {what}")
    pair = [half_width(given)] * 2 if isinstance(given, str) else list(given)
    if len(pair) != 2 or (isinstance(pair[0], nn.Module) and pair[0] is pair[1]):
        raise ArgumentError(f"{what} of {task} is one for both halves or a pair of two, got {len(pair)}")
    return pair
