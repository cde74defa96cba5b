"""What the tags of an image file say: whether it is a photograph, or has more bits, bands or pages than one."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ssl_pretext.data.photo import ORIENTATION, Content

__all__ = ["is_photo", "is_plain_rgb", "is_tiff", "is_tiff_photo"]

PHOTO_BITS = 8  # the most bits per sample of a photograph
HEAD = 2**12  # bytes at the start of a PNG or PPM file that contain its header
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # start of the code stream, and the marker of the size of the image
# Tags of TIFF.
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, DESCRIPTION = 254, 256, 257, 258, 262, 270
SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE = 277, 338, 339, 34675
RGB = 2  # PhotometricInterpretation
UNSIGNED = {1, 4}  # formats of samples: unsigned integers, and undefined
# Samples of a color by PhotometricInterpretation: white is zero, black is zero, RGB, palette, CMYK, YCbCr, two Labs.
COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
GRAY, GRAY_OR_RGB = (0, 1), (0, 1, 2)
ALPHA = (1, 2)  # types of a further sample, also in JPEG 2000: the two kinds of alpha; 0 or others are no alpha
TRUNCATED = '"truncated": true'  # description in which tifffile notes that only the first page has tags
REDUCED, MASK = 1, 4  # bits of NewSubfileType: a thumbnail or overview, and a mask


def is_photo(image: Any, path: Path | Content) -> bool:
    """Whether an image file, other than a TIFF file, is a photograph: samples of at most 8 bits, and declared alpha.

    Args:
        image: The file as opened by Pillow, which reduces deeper samples to 8 bits and drops some of the bands.
        path: The file.
    """
    if image.format == "JPEG2000":
        return _is_jpeg2000_photo(path, has_alpha="A" in image.mode)
    return image.format not in ("PNG", "PPM") or _bits_per_sample(path) <= PHOTO_BITS


def is_tiff(path: Path | Content) -> bool:
    """Whether a file is a TIFF file by its first bytes, whatever its suffix."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_SIGNATURES


def is_plain_rgb(image: Any) -> bool:
    """Whether the samples of a photograph are its pixels: a TIFF file in upright RGB without a color profile.

    Args:
        image: The file as opened by Pillow.
    """
    if image.format != "TIFF":
        return False
    tags = image.tag_v2
    return (
        image.mode == "RGB"
        and tags.get(PHOTOMETRIC) == RGB
        and tags.get(ORIENTATION, 1) == 1
        and PROFILE not in tags
        and {*tags[BITS]} == {PHOTO_BITS}
    )


def _bits_per_sample(path: Path | Content) -> int:
    """The bits per sample of a PNG or PPM file."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"\x89PNG"):
        return head[24]
    # Magic number, width, height and largest value; bitmaps and floating values have no largest value.
    fields = re.sub(rb"#[^\n]*", b"", head).split(maxsplit=4)
    return int(fields[3]).bit_length() if head[1:2] in b"2356" else PHOTO_BITS


def _is_jpeg2000_photo(path: Path | Content, *, has_alpha: bool) -> bool:
    """Whether all components have at most 8 bits, and what Pillow takes for alpha is declared as such."""
    with path.open("rb") as file:
        content = file.read()
    start = content.index(JPEG2000_SIZE)
    count = int.from_bytes(content[start + 40 : start + 42], "big")
    # The bits are stored less one, with the sign in front.
    bits = max((sample & 0x7F) + 1 for sample in content[start + 42 : start + 42 + 3 * count : 3])
    _, definitions, channels = content[:start].partition(b"cdef")  # a number, then channel, type and association
    types = {channels[i] << 8 | channels[i + 1] for i in range(4, 4 + 6 * count, 6)} if definitions else set()
    return bits <= PHOTO_BITS and (not has_alpha or bool(types & {*ALPHA}))


def is_tiff_photo(path: Path | Content) -> bool:
    """Whether a TIFF file is a photograph: samples of at most 8 bits, a color, and perhaps declared alpha.

    The pages of a TIFF file in gray with 8 bits are the bands of an array, except for thumbnails, overviews and masks.
    Of other pages, the first one is the photograph.

    Args:
        path: The file.
    """
    try:
        with path.open("rb") as file:
            pages = list(_pages(file))
        first = pages[0]
        kind, extra = first.get(PHOTOMETRIC), first.get(EXTRA_SAMPLES, ())
        unsigned = not {*first.get(SAMPLE_FORMAT, ())} - UNSIGNED
        if kind not in COLORS or not unsigned or max(first.get(BITS, (1,))) > PHOTO_BITS:
            return False
        alpha = kind in GRAY_OR_RGB and len(extra) == 1 and extra[0] in ALPHA
        same = [page for page in pages if (page[WIDTH], page[HEIGHT]) == (first[WIDTH], first[HEIGHT])]
        bands = [page for page in same if not page.get(SUBFILE, 0) & (REDUCED | MASK)]
        stacked = len(bands) > 1 or TRUNCATED in str(first.get(DESCRIPTION))
        document = kind not in GRAY or max(first.get(BITS, (1,))) < PHOTO_BITS
        return first.get(SAMPLES, 1) == COLORS[kind] + alpha and (document or not stacked)
    except Exception:  # Pillow raises almost any error on damaged tags; the reader of arrays then gives the reason
        return False


def _pages(file: BinaryIO) -> Iterator[Mapping[int, Any]]:
    """Yields the tags of each page of a TIFF file."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    visited = set()
    while tags.next and tags.next not in visited:  # in a damaged file, a page can refer to an earlier one
        visited.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield dict(tags)
