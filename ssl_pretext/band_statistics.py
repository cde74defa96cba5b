"""Measured statistics of channels: center and scale of each band, and warnings about values that do not fit."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

from ssl_pretext.channels import Channels, ChannelSpace, as_images
from ssl_pretext.data import ImageStore, as_store
from ssl_pretext.errors import ArgumentError
from ssl_pretext.spacing import evenly_spaced

__all__ = ["BandStatistics", "check_bands", "measure_bands", "measure_space", "warn_of_other_units"]

NUM_IMAGES = 1024  # evenly spaced images that are measured
NUM_VALUES = 2**24  # values that are measured in all, at random pixels; their percentiles need 64 MiB
PERCENTILES = (1, 50, 99)
DIGITS = 6  # of a center or scale, so that another version of a library measures the same numbers
# Values this many scales away from the center lie far outside; a measured scale covers 98% of the values of a band.
FAR = 10
NARROW = 0.01  # fraction of the scale below which all values of a band are nearly the same to an encoder
MOST_NAMED = 8  # bands that a message shows with their numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of the values of each channel of a space, in its units, without missing values.

    Attributes:
        low: The percentile 1 of each channel; NaN if all values are missing.
        median: The median of each channel.
        high: The percentile 99 of each channel.
        smallest: The smallest value of each channel.
        largest: The largest value of each channel.
        images: Number of images that were measured.
    """

    low: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    smallest: npt.NDArray[np.float64]
    largest: npt.NDArray[np.float64]
    images: int

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Whether all values of a channel are missing."""
        missing: npt.NDArray[np.bool_] = np.isnan(self.median)
        return missing

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Whether all values of a channel are the same."""
        constant: npt.NDArray[np.bool_] = self.smallest == self.largest
        return constant

    @property
    def center(self) -> tuple[float, ...]:
        """The median of each channel; 0 if all values are missing."""
        return _rounded(np.where(self.missing, 0.0, self.median))

    @property
    def scale(self) -> tuple[float, ...]:
        """Half of the distance between the percentiles 1 and 99 of each channel.

        For a channel that differs in less than 2% of its values, it is half of the distance between the smallest and
        the largest value; for one that is constant or missing it is 1.
        """
        scale = (self.high - self.low) / 2
        scale = np.where(scale > 0, scale, (self.largest - self.smallest) / 2)
        return _rounded(np.where(scale > 0, scale, 1.0))


def measure_bands(images: Any, space: ChannelSpace, *, num_images: int = NUM_IMAGES) -> BandStatistics:
    """Measures the channels of images in one pass.

    Args:
        images: The images: a store, a tensor or an array `(N, C, H, W)`, a dataset or a loader.
        space: The space of the channels; its center and scale are not used.
        num_images: Number of images that are measured, evenly spaced, if there are more.

    Raises:
        ArgumentError: There are no images, or they do not fit the space.
    """
    arrays = isinstance(images, torch.Tensor | np.ndarray)
    images = ImageStore.from_arrays(images) if arrays else as_store(images, target=None)
    if len(images) == 0:
        raise ArgumentError(f"the channels of space {space.name!r} are measured on at least one image, got none")
    chosen = evenly_spaced(len(images), num_images)
    per_image = max(1, NUM_VALUES // (len(chosen) * len(space.channels)))
    generator = torch.Generator().manual_seed(0)
    parts = []
    for indices in chosen.split(16):  # which limits the memory for large images
        values = rearrange(space.convert(as_images(images.images(indices), space)), "b c h w -> c b (h w)")
        pixels = values.shape[-1]
        if pixels > per_image:
            values = values[..., torch.randint(pixels, (per_image,), generator=generator)]
        parts.append(values.flatten(1).float())
    columns = []
    for band in torch.cat(parts, dim=1).numpy():
        known = band[np.isfinite(band)]
        low, median, high = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * 3
        columns.append([low, median, high, *([known.min(), known.max()] if len(known) else [np.nan] * 2)])
    low, median, high, smallest, largest = np.array(columns, dtype=np.float64).T
    return BandStatistics(low, median, high, smallest, largest, images=len(chosen))


def measure_space(space: ChannelSpace, images: Any) -> ChannelSpace:
    """Returns the space with a center and scale for each channel that are measured on images.

    The center is the median, and the scale is half of the distance between the percentiles 1 and 99, so that a few
    extreme values do not matter. Missing values (NaN) are left out. `fit` does the same for a task whose space has not
    been measured.

    Args:
        space: A space, such as `ChannelSpace.bands(name, channels)`. Its own center and scale are replaced.
        images: Training images as for `measure_bands`, of which up to 1,024 are measured.

    Raises:
        ArgumentError: There are no images, or they do not fit the space.

    Examples:
        >>> images = ImageStore.from_arrays(torch.arange(101.0).repeat(2, 1).view(1, 2, 1, 101), [0])
        >>> measure_space(ChannelSpace.bands("depth", ["near", "far"]), images).statistics
        ((50.0, 50.0), (49.0, 49.0))
    """
    statistics = measure_bands(images, space)
    return replace(space, center=statistics.center, scale=statistics.scale)


def check_bands(groups: Sequence[Channels], statistics: BandStatistics, task: str) -> None:
    """Warns of channels that are constant or missing in all images, and refuses a group that is missing as a whole.

    Args:
        groups: Groups of channels of one space that a task sees or predicts.
        statistics: Statistics of the channels of the space.
        task: Name of the task in messages.

    Raises:
        ArgumentError: All channels of a group are missing in all measured images.
    """
    measured = f"in all {statistics.images:,} measured images"
    for group in groups:
        if group.names and statistics.missing[group.indices].all():
            raise ArgumentError(
                f"{task} uses {group}, but all of its values are missing (NaN) {measured}; choose other channels, or "
                "check how the files mark missing values"
            )
    used = {name: index for group in groups for name, index in zip(group.names, group.indices, strict=True)}
    if missing := [name for name, index in used.items() if statistics.missing[index]]:
        log.warning("%s: all values are missing (NaN) %s: %s", task, measured, _listed(missing))
    constant = [
        f"{name} (always {statistics.median[index]:.6g})" for name, index in used.items() if statistics.constant[index]
    ]
    if constant:
        log.warning("%s: bands are constant %s and teach nothing: %s", task, measured, _listed(constant))


def warn_of_other_units(channels: Channels, statistics: BandStatistics, task: str) -> bool:
    """Warns if values lie far outside of what the center and scale of their space say, as in other units.

    Args:
        channels: Channels that a network sees.
        statistics: Statistics of all channels of the space.
        task: Name of the task or network in messages.

    Returns:
        Whether there was a warning.
    """
    center, scale = map(np.array, channels.statistics)
    low, high = statistics.low[channels.indices], statistics.high[channels.indices]
    with np.errstate(invalid="ignore"):  # NaN where all values of a band are missing
        far = np.maximum(abs(low - center), abs(high - center)) > FAR * scale
        narrow = high - low < NARROW * scale
    varied = ~(statistics.constant | statistics.missing)[channels.indices]
    if not far.any() and not (varied.any() and narrow[varied].all()):
        return False
    wrong = far if far.any() else narrow & varied
    shown = [
        f"{channels.names[i]} {low[i]:.4g} to {high[i]:.4g} instead of about {center[i] - scale[i]:.4g} to "
        f"{center[i] + scale[i]:.4g}"
        for i in np.flatnonzero(wrong)
    ]
    log.warning(
        "%s: the values of %d of %d channels of %r are not in the range that it was made for: %s. Do the images have "
        "other units, such as digital numbers in place of reflectances?",
        task,
        wrong.sum(),
        len(wrong),
        channels.space.name,
        _listed(shown),
    )
    return True


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def _listed(items: Sequence[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
