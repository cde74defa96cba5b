"""Masks in files of their own, which are found by a pattern with the parts of that of the images."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.build import StoreSpec, open_or_build
from ssl_pretext.data.integers import MISSING
from ssl_pretext.data.listing import Listing, find_images
from ssl_pretext.data.patterns import CHANNEL, parse_pattern
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.registry import did_you_mean, joined

__all__ = ["list_masks", "read_masks"]

log = logging.getLogger(__name__)


def list_masks(images: Listing, pattern: str, masks: str) -> Listing:
    """Lists the masks of images; the files of a mask are the mask itself and then those of its image.

    Args:
        images: The images, which were listed by a pattern.
        pattern: The pattern of the images.
        masks: The pattern of the masks, with some of the parts of that of the images.

    Raises:
        ArgumentError: The pattern of the masks is malformed, or has other parts.
        DataError: No image has a mask, or an image has two.
    """
    parts = [part for part in parse_pattern(pattern).parts if part != CHANNEL]
    wanted = parse_pattern(masks)
    if unknown := [part for part in wanted.parts if part not in parts]:
        raise ArgumentError(
            f"the pattern of the masks {masks!r} has the part {unknown[0]!r}, which does not tell images apart."
            f"{did_you_mean(unknown[0], parts)} The parts of the images are {joined(parts)}"
        )
    files: dict[tuple[str, ...], str] = {}
    for name in find_images(images.folder)[0]:
        if (match := wanted.expression.fullmatch(name)) and (first := files.setdefault(match.groups(), name)) != name:
            raise DataError(f"{first} and {name} in {images.folder} are both masks of one image by {masks!r}")
    places = [parts.index(part) for part in wanted.parts]
    # The parts of a path have no slash, so that the name of an image can be divided into them again.
    divided = [name.split("/") for name in images.names]
    found = [files.get(tuple(values[place] for place in places)) for values in divided]
    chosen = [i for i, name in enumerate(found) if name is not None]
    if not chosen:
        raise DataError(f"no file of {images.folder} is the mask of an image by the pattern {masks!r}")
    if len(chosen) < len(found):
        lacking = images.names[found.index(None)]
        log.warning("%d of %d images have no mask, such as %s", len(found) - len(chosen), len(found), lacking)
    listing = replace(images, labels=[0] * len(found), classes=["mask"], skipped=[], groups=None, file_channels=None)
    listing = listing.subset(chosen)
    sources = [
        source._replace(files=(images.folder / str(found[i]), *source.files))
        for i, source in zip(chosen, listing.sources, strict=True)
    ]
    return replace(listing, sources=sources)


def read_masks(
    names: Sequence[str], masks: Listing, images: StoreSpec
) -> tuple[npt.NDArray[np.int32], list[dict[str, str]]]:
    """Reads the masks of images, which are stored like the images, resized by the nearest pixel.

    Args:
        names: Names of the images.
        masks: The masks.
        images: Specification of the store of the images.

    Returns:
        The class of each pixel `(N, H, W)`, -1 where it is unknown; and the masks that cannot be read, with reasons.

    Raises:
        PretextError: As `open_or_build`.
    """
    whole, tiles = images.reading, images.reading.tiles
    reading = Reading(
        image_size=whole.image_size,
        crop=whole.crop,
        tiles=None if tiles is None else replace(tiles, min_valid=0),
        reader=whole.reader,
        masks=True,
    )
    pixels, index, checksums = open_or_build(replace(images, listing=masks, reading=reading))
    checksums.check(pixels, np.arange(len(pixels)))
    rows = {name: row for row, name in enumerate(index["names"])}
    found = np.full((len(names), *pixels.shape[2:]), MISSING, np.int32)
    for mask, name in zip(found, names, strict=True):
        if name in rows:
            mask[:] = _classes(pixels[rows[name], 0])
    return found, [{**item, "reason": f"its mask: {item['reason']}"} for item in index["skipped"]]


def _classes(values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.where(np.isnan(values), MISSING, values).astype(np.int32)
