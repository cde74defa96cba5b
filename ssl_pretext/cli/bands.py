"""The bands of images for the command line: their names and ranges, and the channels that a task gets by default."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.cli.files import read_yaml
from ssl_pretext.cli.options import ImageOptions
from ssl_pretext.config import Config
from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.data.sources import numbered_channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import duplicates, joined, signature_of
from ssl_pretext.tasks.base import TASKS, parse_task

__all__ = ["Band", "ImageFormat", "choose_bands", "default_task", "image_format", "read_bands", "with_missing"]

SPACE = "bands"  # name of the channel space of images that are not photos
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Band(Config):
    """One band of the images.

    Attributes:
        name: Name of the band.
        position: Position among the channels of the images, counted from 1; its place in the list if left out.
        center: Value that is normalized to 0; measured if left out.
        scale: Distance from the center that is normalized to 1; measured if left out.
        missing: Value of the files that means missing in this band; None if there is none.
    """

    name: str
    position: int | None = None
    center: float | None = None
    scale: float | None = None
    missing: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, number in (("center", self.center), ("scale", self.scale), ("missing value", self.missing)):
            if number is not None and not math.isfinite(number):
                raise ArgumentError(f"the {name} of the band {self.name!r} must be a finite number, got {number}")


@dataclass(frozen=True)
class ImageFormat:
    """What images look like to a task.

    Attributes:
        num_channels: Number of channels.
        is_photo: Whether the images have three channels of 8 bits, as photos have.
        names: Names of the channels in the files, if they have any.
    """

    num_channels: int
    is_photo: bool
    names: Sequence[str] | None = None


def image_format(images: ImageStore | ImageStream) -> ImageFormat:
    """Returns the format of the images of a store, or of the first image of a stream."""
    if not isinstance(images, ImageStore):
        _, pixels = next(images.read(seed=None, epoch=0, rank=0, world=1))
        images = ImageStore.from_arrays(pixels[None])
    return ImageFormat(images.num_channels, images.are_photos, images.channel_names)


def read_bands(text: str) -> list[Band]:
    """Parses names separated by commas, or reads a YAML file with a list of bands.

    Raises:
        MissingFileError: The file does not exist.
        ArgumentError: A name is empty or repeats, only some bands have a position, a center or a scale, or the file is
            not a list of bands.

    Examples:
        >>> [band.name for band in read_bands("B02, B03")]
        ['B02', 'B03']
    """
    if text.endswith(SUFFIXES):
        entries = read_yaml(Path(text))
        if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
            raise ArgumentError(
                f"{text} must contain a list of bands, each a name such as '- B02', or a mapping such as "
                "'- {name: B02, position: 2, center: 1100, scale: 400}'"
            )
        bands = [_band(entry, text) for entry in entries]
    else:
        bands = [Band(name=name.strip()) for name in text.split(",")]
    names = [band.name for band in bands]
    if not all(names) or not names:
        raise ArgumentError(f"--bands must name at least one band, and each name must not be empty, got {text!r}")
    if twice := duplicates(names):
        raise ArgumentError(f"--bands must name each band once, got {twice[0]!r} twice")
    for given in ("position", "center", "scale"):
        without = [band.name for band in bands if getattr(band, given) is None]
        if 0 < len(without) < len(bands):
            raise ArgumentError(f"{text}: give {given} for all bands or for none; {without[0]} has none")
    return bands


def _band(entry: str | dict[str, Any], file: str) -> Band:
    values = {"name": entry} if isinstance(entry, str) else {str(key): value for key, value in entry.items()}
    if "name" not in values:
        raise ArgumentError(f"each band in {file} needs a name, got {entry}")
    return Band.from_dict(values)


def choose_bands(bands: Sequence[Band] | None, images: ImageFormat) -> Channels | None:
    """Returns the bands that a task uses, in the channel space of the images; None for photos.

    Args:
        bands: Bands from `read_bands`. Without them, the names are those in the files, or `band1`, `band2` and so on.
        images: Format of the images.

    Raises:
        ArgumentError: The bands do not fit the channels of the images.
    """
    count = images.num_channels
    numbered = numbered_channels(count)
    if bands is None:
        if images.is_photo:
            return None
        distinct = images.names is not None and len({*images.names}) == count and all(images.names)
        return Channels(ChannelSpace.bands(SPACE, images.names if images.names and distinct else numbered))
    positions = _positions(bands)
    if bands[0].position is None and len(bands) != count:
        raise ArgumentError(
            f"--bands names {len(bands)} bands, but the images have {count} channels; name all of them in order, or "
            "give their positions in a YAML file"
        )
    if len({*positions}) < len(positions) or not 1 <= min(positions) <= max(positions) <= count:
        raise ArgumentError(
            f"the positions of --bands must differ and be from 1 to {count}, the number of channels of the images, got "
            f"{positions}"
        )
    at = dict(zip(positions, bands, strict=True))
    names = [at[number].name if number in at else numbered[number - 1] for number in range(1, count + 1)]
    statistics: dict[str, list[float]] = {}
    for key, otherwise in (("center", 0.0), ("scale", 1.0)):
        if getattr(bands[0], key) is not None:  # channels that are not listed are not used, so any number will do
            statistics[key] = [getattr(at[n], key) if n in at else otherwise for n in range(1, count + 1)]
    return ChannelSpace.bands(SPACE, names, **statistics)[tuple(band.name for band in bands)]


def _positions(bands: Sequence[Band]) -> list[int]:
    """The position of each band among the channels of the images, counted from 1."""
    return [number if band.position is None else band.position for number, band in enumerate(bands, start=1)]


def with_missing(images: ImageOptions, bands: Sequence[Band] | None) -> ImageOptions:
    """Returns the options of images with the values that mean missing in some of the bands, if any band has one.

    Raises:
        ArgumentError: The options have such values, too.
    """
    values = {at: band.missing for at, band in zip(_positions(bands or ()), bands or (), strict=True)}
    given = [f"band{at}={value!r}" for at, value in values.items() if value is not None]
    if given and images.missing is not None:
        raise ArgumentError("the file of --bands and --missing both say which value means missing; leave one out")
    return replace(images, missing=",".join(given)) if given else images


PHOTO_TASK = "cross_channel_contrast[first=lab:L;second=lab:ab]"


def default_task(task: str | None, bands: Channels | None) -> tuple[str, dict[str, Channels], str | None]:
    """Returns the spec of a task, the channels that it gets by default, and a sentence about a task that was chosen.

    For photos, lightness and color of different crops are matched, which taught more than other tasks of the same
    duration in the comparisons that were made. Images with several bands are divided into two halves, in the order of
    the bands, each of which is predicted from the other; images with one channel are inpainted.

    Args:
        task: Spec of the task; None to choose one.
        bands: Bands of the images; None for photos.
    """
    if bands is None:
        about = "cross_channel_contrast matches the lightness of photos with their colors; --task colorization predicts"
        return (task, {}, None) if task else (PHOTO_TASK, {}, f"{about} colors")
    if task is not None:
        name, given = parse_task(task)
        takes = signature_of(TASKS.factory(name)).parameters
        return task, {"channels": bands} if "channels" in takes and "channels" not in given else {}, None
    names, half = bands.names, bands.num_channels // 2
    if half == 0:
        return "inpainting", {"channels": bands}, f"the images are not photos: inpainting fills in {names[0]}"
    first, second = bands.space[names[:half]], bands.space[names[half:]]
    chosen = (
        f"the images are not photos: split_brain predicts {joined(second.names)} from {joined(first.names)}, and the "
        f"reverse; --task 'cross_channel[source={names[0]};target={names[-1]}]' would predict chosen bands"
    )
    return "split_brain", {"first": first, "second": second}, chosen
