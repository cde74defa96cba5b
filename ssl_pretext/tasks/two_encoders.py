"""The base class of tasks with two encoders, each of which sees channels of its own."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import half_width
from ssl_pretext.errors import ArgumentError
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.tasks.base import PretextTask, channels_of_one_image

__all__ = ["TwoEncoderTask", "disjoint_groups", "pair_of"]


class TwoEncoderTask(PretextTask):
    """Base of the tasks with two encoders that share nothing; `features` concatenates theirs along the channels.

    Args:
        branches: Two tasks with one encoder each.

    Raises:
        ArgumentError: Their feature maps have different sizes.

    Attributes:
        branches: The two tasks, as an `nn.ModuleList`.
        first: The channels that the first branch sees.
        second: The channels that the second branch sees.
    """

    def __init__(self, branches: Sequence[PretextTask]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.first, self.second = (branch.channels for branch in branches)
        one, other = (branch.shape.reduction for branch in branches)
        if round(one) != round(other):
            raise ArgumentError(
                f"the two encoders must reduce images by the same factor, since their features are concatenated; got "
                f"{one:g} and {other:g}. Choose another pair, or end one earlier with 'timm/<name>[layer=...]'"
            )

    @override
    @property
    def trained_on(self) -> TrainedOn:  # kept by the branches, which can be exported alone
        return self._branches[0].trained_on

    @trained_on.setter
    def trained_on(self, trained_on: TrainedOn) -> None:
        for branch in self._branches:
            branch.trained_on = trained_on

    @override
    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # a view on the branches, which hold the modules
        return nn.ModuleList(branch.encoder for branch in self._branches)

    @override
    @property
    def encoder_channels(self) -> Channels | None:
        one_space = self.first.space == self.second.space
        return Channels(self.first.space, self.first.names + self.second.names) if one_space else None

    @override
    @property
    def image_space(self) -> ChannelSpace:
        return self.first.space

    @override
    def feature_maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        first, second = (branch.feature_maps(images, layers) for branch in self._branches)
        return {layer: torch.cat([first[layer], second[layer]], dim=1) for layer in layers}

    @override
    def layers(self) -> list[str]:
        first, second = (branch.layers() for branch in self._branches)
        return [layer for layer in first if layer in second]

    @override
    def networks(self) -> list[nn.Module]:
        return [network for branch in self._branches for network in branch.networks()]

    @override
    def prepare(self, images: ImageStore) -> None:
        for branch in self._branches:
            branch.prepare(images)

    def _converted_options(self) -> dict[str, Any]:
        names = [branch.encoder_name for branch in self._branches]
        return {"encoder": None if None in names else names}

    def _used_channels(self) -> Sequence[Channels]:
        return [self.first, self.second]

    @property
    def _branches(self) -> list[PretextTask]:
        return [cast(PretextTask, branch) for branch in self.branches]


def disjoint_groups(first: str | Channels, second: str | Channels, task: str) -> tuple[Channels, Channels]:
    """Parses the channels of the two branches of a task.

    Raises:
        ArgumentError: They overlap, or are read from different images.
    """
    groups = channels_of_one_image(first, second)
    if groups[0].space == groups[1].space and {*groups[0].names} & {*groups[1].names}:
        raise ArgumentError(f"the two encoders of {task} see different channels, got {groups[0]} and {groups[1]}")
    return groups


def pair_of(given: Any, what: str, task: str) -> list[Any]:
    """One for each branch: a pair as it is, or two of the same name, at half width where the encoder has a width.

    Raises:
        ArgumentError: It is a single module, or not two.
    """
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        raise ArgumentError(f"{task} has two encoders that share nothing; give a name or a pair, got one {what}")
    pair = [half_width(given)] * 2 if isinstance(given, str) else list(given)
    if len(pair) != 2 or (isinstance(pair[0], nn.Module) and pair[0] is pair[1]):
        raise ArgumentError(f"{what} of {task} is one for both branches or a pair of two, got {len(pair)}")
    return pair
