"""Listing of what files hold: the images of a file with several, and the tiles of large images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

from ssl_pretext.data.decode import reason_of
from ssl_pretext.data.listing import Listing
from ssl_pretext.data.opening import open_image
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.sources import Reading, Source, Window
from ssl_pretext.registry import joined
from ssl_pretext.system.cpus import available_cpus

__all__ = ["Expanded", "expand"]

AT_ONCE = 2**12  # files whose headers are read before the next ones are begun
CHUNK = 16  # files that a thread is given at once: for one that holds a single image, that takes longer than to see it


@dataclass(frozen=True)
class Expanded:
    """A listing of images, which may be several of a file.

    Attributes:
        listing: The images.
        rows: Position of each image's file in the listing of files.
    """

    listing: Listing
    rows: list[int]


def expand(listing: Listing, reading: Reading) -> Expanded:
    """Lists the images in files that hold several, and the tiles of images that are cut, from the headers of the files.

    Images are named after their file, such as `scan.nii.gz/12` for the image at position 12 and `scene.tif/0-64` for
    the tile whose top left pixel is in row 0 and column 64. A file whose header cannot be read stays as it is, so that
    its decoding gives the reason. Images that are smaller than a tile, or whose files do not fit each other, are added
    to `skipped`.

    Args:
        listing: The files.
        reading: How they are read.

    Raises:
        MissingDependencyError: A package that reads a file is missing.
        ReadError: A file cannot be read for a reason that says nothing about it, such as a lack of memory.
    """
    readers = ReaderTable(reading.reader)

    def is_one(source: Source) -> bool:
        reader = None if source.member is not None else readers.find_by_content(source.files[0])
        known = source.member is not None or reader is None or not reader.may_hold_several(source.files[0])
        return reading.tiles is None and known

    def parts(source: Source) -> list[tuple[str, Source]] | str:
        window = source.window
        if is_one(source):
            return [("", source)]
        shapes = []
        for file in source.files:
            try:
                with open_image(file, reading, readers) as opened:
                    shapes.append((opened.count, opened.height, opened.width))
            except Exception as error:
                reason_of(error, file)
                return [("", source)]
        if len({count for count, *_ in shapes}) > 1:
            numbers = joined([str(count or 1) for count, *_ in shapes])
            return f"the files of the image hold {numbers} images, where each must hold as many"
        if reading.tiles is not None and len({*shapes}) > 1:
            sizes = joined([f"{height}×{width}" for _, height, width in shapes])
            return f"the files of the image have {sizes} pixels; images that are cut into tiles need files of one size"
        count, height, width = shapes[0]
        found = [("", source)]
        if source.member is None and count is not None and count > 1:
            found = [(f"/{member}", source._replace(member=member)) for member in range(count)]
        if reading.tiles is None:
            return found
        area, size = window or Window(0, 0, height, width), reading.tiles.size
        if min(area.height, area.width) < size:
            return f"the image has {area.height}×{area.width} pixels, less than a tile of {size}×{size}"
        return [
            (f"{name}/{tile.top}-{tile.left}", image._replace(window=tile))
            for name, image in found
            for tile in reading.tiles.windows(area)
        ]

    names: list[str] = []
    sources: list[Source] = []
    rows: list[int] = []
    skipped = list(listing.skipped)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(listing.sources), AT_ONCE):
            some = listing.sources[start : start + AT_ONCE]
            chunks = [some[i : i + CHUNK] for i in range(0, len(some), CHUNK)]
            results = chain.from_iterable(pool.map(lambda chunk: [parts(source) for source in chunk], chunks))
            for row, found in enumerate(results, start):
                if isinstance(found, str):
                    skipped.append({"name": listing.names[row], "reason": found})
                    continue
                names += [f"{listing.names[row]}{name}" for name, _ in found]
                sources += [source for _, source in found]
                rows += [row] * len(found)
    labels = [listing.labels[row] for row in rows]
    return Expanded(replace(listing, names=names, sources=sources, labels=labels, skipped=skipped), rows)
