"""The base class of tasks with two encoders, which see different channels of the same images."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.data import ImageStore
from ssl_pretext.encoders import half_width
from ssl_pretext.encoders.copies import unwrapped
from ssl_pretext.encoders.untrained import reinitialized
from ssl_pretext.errors import ArgumentError
from ssl_pretext.saving.contract import TrainedOn
from ssl_pretext.tasks.base import PretextTask, parse_channel_pair

__all__ = ["TwoEncoderTask", "pair_for_branches", "parse_disjoint_channels"]


class TwoEncoderTask(PretextTask):
    """Base class of tasks with two encoders that have separate weights.

    Each encoder belongs to a *branch*, which is a task with one encoder. `features` concatenates the feature maps of
    the two branches along the channels.

    Args:
        branches: The two branches.

    Raises:
        ArgumentError: The two encoders reduce images by different factors.

    Attributes:
        branches: The two branches, as an `nn.ModuleList`.
        first: Channels that the first branch sees.
        second: Channels that the second branch sees.
    """

    def __init__(self, branches: Sequence[PretextTask]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.first, self.second = (branch.channels for branch in branches)
        one, other = (branch.shape.reduction for branch in branches)
        if round(one) != round(other):
            raise ArgumentError(
                "the two encoders must reduce images by the same factor, because their features are concatenated; got "
                f"{one:g} and {other:g}. Choose two similar encoders, or stop one of them at an earlier layer with "
                "'timm/<name>[layer=...]'"
            )

    @override
    @property
    def trained_on(self) -> TrainedOn:  # stored in the branches, because each of them can be exported alone
        return self._branches[0].trained_on

    @trained_on.setter
    def trained_on(self, trained_on: TrainedOn) -> None:
        for branch in self._branches:
            branch.trained_on = trained_on

    @override
    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]  # the modules belong to the branches
        return nn.ModuleList(branch.encoder for branch in self._branches)

    @override
    @property
    def encoder_channels(self) -> Channels | None:
        same_space = self.first.space == self.second.space
        return Channels(self.first.space, self.first.names + self.second.names) if same_space else None

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

    @override
    def _starts_from_weights(self) -> bool:
        return any(branch._starts_from_weights() for branch in self._branches)

    @override
    def _starting_options(self) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoders = [branch.encoder_name or reinitialized(branch.encoder) for branch in self._branches]
        return {**self.options(), "encoder": encoders}

    @override
    def _restore_encoder_names(self, saved: object) -> None:
        for branch, name in zip(self._branches, saved if isinstance(saved, list) else [], strict=False):
            branch._restore_encoder_names(name)

    def _used_channels(self) -> Sequence[Channels]:
        return [self.first, self.second]

    @property
    def _branches(self) -> list[PretextTask]:
        return [cast(PretextTask, branch) for branch in self.branches]


def parse_disjoint_channels(first: str | Channels, second: str | Channels, task: str) -> tuple[Channels, Channels]:
    """Parses the channels of the two branches of a task.

    Args:
        first: Channels of the first branch.
        second: Channels of the second branch.
        task: Name of the task in messages.

    Raises:
        ArgumentError: The two groups overlap, or are not read from the same images.
    """
    groups = parse_channel_pair(first, second)
    if groups[0].space == groups[1].space and {*groups[0].names} & {*groups[1].names}:
        raise ArgumentError(f"the two encoders of {task} must see different channels, got {groups[0]} and {groups[1]}")
    return groups


def pair_for_branches(value: Any, argument: str, task: str) -> list[Any]:
    """Returns the values of an argument for the two branches of a task.

    Args:
        value: A pair, which is returned as a list, or the name of an encoder. A name is returned twice, with half the
            width if the encoder has a width.
        argument: Name of the argument in messages.
        task: Name of the task in messages.

    Raises:
        ArgumentError: The value is a single module, the same module twice, or not a pair.
    """
    if isinstance(value, nn.Module) and not isinstance(value, nn.ModuleList):
        raise ArgumentError(
            f"{task} has two encoders with separate weights; give {argument} as a name or as a pair of modules, got "
            f"one {type(value).__name__}"
        )
    pair = [half_width(value)] * 2 if isinstance(value, str) else list(value)
    modules = [unwrapped(one) for one in pair if isinstance(one, nn.Module)]
    same_module = len(pair) == len(modules) == 2 and modules[0] is modules[1]
    if len(pair) != 2 or same_module:
        got = "the same module twice" if same_module else f"{len(pair)} values"
        raise ArgumentError(f"{argument} of {task} must be one value for both branches or one for each, got {got}")
    return pair
