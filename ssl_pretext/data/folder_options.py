"""How the files of a folder become images: the options, what they mean, and a look at a few images."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from typing_extensions import Unpack

from ssl_pretext.data.build import StoreSpec
from ssl_pretext.data.chatter import silenced
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.expand import expand
from ssl_pretext.data.listing import Listing, list_files, list_folder
from ssl_pretext.data.patterns import list_pattern, resampling_of
from ssl_pretext.data.sources import Reading, Tiles
from ssl_pretext.data.tables import Table
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import did_you_mean

__all__ = ["FolderOptions", "few_images", "list_images", "reading_of", "spec_of"]

MAX_UNREADABLE = MIN_VALID = 0.9
FEW = 8


class FolderOptions(TypedDict, total=False):
    """How the files of a folder become images of a store; all options may be left out.

    Attributes:
        crop: Whether the center of `image_size` pixels is cropped without resizing; smaller images are skipped.
        tile: Height and width in pixels of the tiles that images are cut into, such as those of a satellite scene.
            Tiles are read in parts of the file where the format has them, and are then resized to `image_size`.
        stride: Number of pixels from one tile to the next; by default `tile`.
        min_valid: Fraction of the pixels of a tile that must be valid in all channels, by default 0.9; other tiles are
            left out.
        channels: Number of channels of the images; 8-bit TIFF files are then read as arrays too. By default, the number
            is that of most images, and the tags of an 8-bit TIFF file say whether it is a photograph.
        missing: Value of the files that means missing, such as 0; a mapping gives that of each channel that has one, by
            its name in the files or in the pattern, or by its number, such as `{"B02": 0, "band13": -1}`. Images of
            `uint8` then become `float32`, too.
        reader: Reader with options for the files of its suffixes, such as `h5[key=images]` or `nii[z=max]`.
        pattern: Pattern of the names of the files, such as `"{well}_s{site}_w{channel}.tif"` or
            `"{channel:rgb|depth}/{id}.png"`, if an image is several files or its name says more of it. The part
            `channel` names the files whose channels are joined, in the order of its alternatives, or else sorted. The
            part `label` or `class` is the class, the part `group` the group, and all parts but `channel` are the name
            of the image. Files that do not match are left out; so are images that lack a channel, with a reason in
            `skipped`.
        masks: Pattern of the names of the masks, such as `"{place}_mask.tif"`, with parts of the pattern of the images.
            They have the class of each pixel, in one channel and with the height and width of the image, are resized
            by the nearest pixel, and become `targets`. Images without a mask have the class -1 (unknown) everywhere.
        resample: How files of an image that are smaller than the largest are enlarged: `"bilinear"`, or `"nearest"` for
            classes and depth; a mapping gives the rule of each channel, such as `{"depth": "nearest"}`. By default,
            images from files of different sizes are left out.
        cache: Folder of the stores; by default `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext`.
        max_unreadable: Fraction of unreadable images above which an error is raised, by default 0.9. Otherwise they are
            skipped, and `skipped` has the reasons. The same limit holds for images that lack a channel.
    """

    crop: bool
    tile: int | None
    stride: int | None
    min_valid: float
    channels: int | None
    missing: float | Mapping[str, float] | None
    reader: str | None
    pattern: str | None
    masks: str | None
    resample: str | Mapping[str, str] | None
    cache: str | Path | None
    max_unreadable: float


def reading_of(function: str, image_size: int | None, options: FolderOptions) -> Reading:
    """Returns how files are read.

    Args:
        function: Name of the public function that got the options, for messages.
        image_size: Height and width of the images in pixels; None if they keep their size.
        options: The options.

    Raises:
        ArgumentError: There is no such option, or its value is invalid.
    """
    if unknown := sorted(options.keys() - FolderOptions.__annotations__):
        hint = did_you_mean(unknown[0], FolderOptions.__annotations__)
        raise ArgumentError(f"{function}() has no option {unknown[0]!r}.{hint}")
    tile, stride = options.get("tile"), options.get("stride")
    if stride is not None and tile is None:
        raise ArgumentError(f"stride={stride} is the distance of tiles; pass tile= too")
    tiles = None
    if tile is not None:
        min_valid = options.get("min_valid", MIN_VALID)
        tiles = Tiles(size=tile, stride=tile if stride is None else stride, min_valid=min_valid)
    return Reading(
        image_size=image_size,
        crop=options.get("crop", False),
        channels=options.get("channels"),
        missing=options.get("missing"),
        tiles=tiles,
        reader=options.get("reader"),
    )


def spec_of(listing: Listing, reading: Reading, options: FolderOptions) -> StoreSpec:
    """Returns the specification of the store of listed files.

    Args:
        listing: The files.
        reading: How they are read, as far as that does not depend on the files.
        options: The options.

    Raises:
        ArgumentError: An option does not fit the files.
    """
    channels = listing.file_channels
    reading = replace(reading, files=tuple(channels or ()), resample=resampling_of(options.get("resample"), channels))
    limit = options.get("max_unreadable", MAX_UNREADABLE)
    return StoreSpec(listing=listing, reading=reading, cache=options.get("cache"), max_unreadable=limit)


def list_images(
    folder: str | Path, options: FolderOptions, *, labeled: bool | None, group: str | None = None
) -> Listing:
    """Lists the images of a folder.

    Args:
        folder: The folder.
        options: The options.
        labeled: Whether the subfolders, or the part `label` of the pattern, are classes; None if all images are listed,
            whatever the subfolders are.
        group: Part of the pattern that is the group of an image.

    Raises:
        ArgumentError: A pattern is malformed, or `group` or `masks` is given without one.
        DataError: There are no images, or they are arranged in another way.
    """
    masks = options.get("masks")
    if (pattern := options.get("pattern")) is not None:
        limit = options.get("max_unreadable", MAX_UNREADABLE)
        return list_pattern(folder, pattern, labeled=bool(labeled), group=group, masks=masks, max_incomplete=limit)
    if masks is not None:
        raise ArgumentError("masks is a pattern with parts of that of the images; pass pattern=, too")
    if group is not None:
        raise ArgumentError(f"group names a part of a pattern, such as {{{group}}}; pass the pattern, too")
    return list_files(folder) if labeled is None else list_folder(folder, labeled=labeled)


def few_images(
    folder: str | Path, table: Table | None = None, **options: Unpack[FolderOptions]
) -> Iterator[tuple[str, Decoded]]:
    """Decodes a few images from all over a folder, to see what they are before all of them are decoded.

    Args:
        folder: The folder.
        table: Table that names the images; by default, all images are looked at.
        options: The options, of which those of the size do not matter.

    Yields:
        The name of an image, and the image.

    Raises:
        PretextError: As `ImageStore.from_folder`.
    """
    reading = reading_of("few_images", None, {**options, "crop": False})
    listing = list_images(folder, options, labeled=None)
    named = listing if table is None else listing.subset(sorted(table.rows_of(listing)))
    spec = spec_of(named, reading, options)
    with silenced():
        few = expand(_few(spec.listing), spec.reading).listing  # which may be many slices or tiles
        decode = decoder(spec.reading)
        for name, source in zip(_few(few).names, _few(few).sources, strict=True):
            if isinstance(found := decode(source), Decoded):
                yield name, found


def _few(listing: Listing) -> Listing:
    count = len(listing.names)
    return listing.subset(range(0, count, max(1, count // FEW)))
