"""The pretext tasks that a search tries."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.registry import duplicates, signature_of
from ssl_pretext.tasks.base import TASKS, PretextTask, create_task, parse_task

__all__ = ["Candidate", "find_candidates", "likely_tasks"]

log = logging.getLogger(__name__)

PHOTO_TASKS = (
    "cross_channel_contrast[first=lab:L;second=lab:ab]",
    "instance_contrast",
    "vicreg",
    "split_brain[first=lab:L;second=lab:ab]",
    "colorization",
    "rotation",
    "denoising",
)
ONE_BAND_TASKS = ("instance_contrast", "vicreg", "rotation", "denoising")


@dataclass(frozen=True)
class Candidate:
    """A task that a search tries.

    Attributes:
        spec: The task with its options in brackets.
        name: Its name in tables: that of the task, or the spec if another candidate is the same task.
        encoder: Name of the encoder.
        bands: All channels of the images; None for photos.
        seed: Seed of the initial weights.
    """

    spec: str
    name: str
    encoder: str
    bands: Channels | None
    seed: int

    def create(self) -> PretextTask:
        """Creates the task with the weights that `ssl-pretext pretrain --seed` draws."""
        name, given = parse_task(self.spec)
        takes_channels = "channels" in signature_of(TASKS.factory(name)).parameters and "channels" not in given
        channels = {"channels": self.bands} if self.bands is not None and takes_channels else {}
        spaces = [] if self.bands is None else [self.bands.space]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return create_task(self.spec, spaces=spaces, encoder=self.encoder, **channels)

    @property
    def folder(self) -> str:
        """The name as a part of a path."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-")


def likely_tasks(bands: Channels | None) -> list[str]:
    """Returns specs of the tasks that are likely to help.

    Args:
        bands: All channels of the images; None for photos.

    Examples:
        >>> from ssl_pretext import ChannelSpace
        >>> chips = ChannelSpace.bands("chips", ["B02", "B03", "B08"])
        >>> likely_tasks(chips["B02", "B03", "B08"])[0]
        'cross_channel_contrast[first=B02;second=B03+B08]'
    """
    if bands is None:
        return [*PHOTO_TASKS]
    if bands.num_channels == 1:
        return [*ONE_BAND_TASKS]
    names, half = bands.names, bands.num_channels // 2
    first, second = ("+".join(part) for part in (names[:half], names[half:]))
    return [
        f"cross_channel_contrast[first={first};second={second}]",
        "instance_contrast",
        f"split_brain[first={first};second={second}]",
        f"cross_channel[source={first};target={second}]",
    ]


def find_candidates(
    tasks: Sequence[str] | None, encoder: str, bands: Channels | None, seed: int, image_channels: int
) -> tuple[list[Candidate], dict[str, str]]:
    """Creates each task once, and returns those that can be tried, and why others cannot.

    Only likely tasks are left out, for a library that is not installed. A task that was asked for is an error then.

    Args:
        tasks: Specs of the tasks that were asked for; None for the likely ones. The name of a likely task alone stands
            for it with its options.
        encoder: Name of the encoder.
        bands: All channels of the images; None for photos.
        seed: Seed of the initial weights.
        image_channels: Number of channels of the images.

    Raises:
        ArgumentError: A task is named twice, does not take these images, or no task is left.
        UnknownNameError: There is no such task or encoder.
        MissingDependencyError: A task that was asked for needs a library that is not installed.
    """
    likely = {parse_task(spec)[0]: spec for spec in likely_tasks(bands)}
    specs = [*likely.values()] if tasks is None else [likely.get(spec, spec) for spec in tasks]
    if not specs or (twice := duplicates(specs)):
        what = f"{twice[0]!r} twice" if specs else "none"
        raise ArgumentError(f"search() needs tasks to try, each named once, got {what}")
    short = [parse_task(spec)[0] for spec in specs]
    names = [spec if short.count(name) > 1 or "+" in re.sub(r"\[.*?\]", "", spec) else name
             for spec, name in zip(specs, short, strict=True)]  # fmt: skip
    found, left_out = [], {}
    for spec, name in zip(specs, names, strict=True):
        candidate = Candidate(spec, name, encoder, bands, seed)
        try:
            task = candidate.create()
        except MissingDependencyError as error:
            if tasks is not None:
                raise
            left_out[name] = str(error)
            continue
        if task.image_space.image_channels != image_channels:
            raise ArgumentError(
                f"the task {spec} takes images with {task.image_space.image_channels} channels, but these have "
                f"{image_channels}; name tasks for their channels"
            )
        found.append(candidate)
    if not found:
        raise ArgumentError(f"search() has no task to try: {'; '.join(left_out.values())}")
    return found, left_out
