"""What the tags of an image file say: whether it is a photograph, or has more bits, bands or pages than one."""

import re
import struct
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ssl_pretext.data.photo import ORIENTATION, Content

__all__ = ["DESCRIPTION", "HEADER", "Tags", "is_photo", "is_plain_rgb", "tiff_content", "tiff_pages"]

PHOTO_BITS = 8  # the most bits per sample of a photograph
HEADER = 16  # bytes at the start of a TIFF file
HEAD = 2**12  # bytes at the start of a PNG or PPM file that contain its header
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # start of the code stream, and the marker of the size of the image
Tags = dict[int, tuple[int, int, bytes]]  # of a page of a TIFF file: type, number of values, and their bytes
# Tags of TIFF.
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, DESCRIPTION = 254, 256, 257, 258, 262, 270
SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE = 277, 338, 339, 34675
RGB = 2  # PhotometricInterpretation
UNSIGNED = {1, 4}  # formats of samples: unsigned integers, and undefined
# Samples of a color by PhotometricInterpretation: white is zero, black is zero, RGB, palette, CMYK, YCbCr, two Labs.
COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
GRAY, GRAY_OR_RGB = (0, 1), (0, 1, 2)
ALPHA = (1, 2)  # types of a further sample, also in JPEG 2000: the two kinds of alpha; 0 or others are no alpha
TRUNCATED = b'"truncated": true'  # description in which tifffile notes that only the first page has tags
REDUCED, MASK = 1, 4  # bits of NewSubfileType: a thumbnail or overview, and a mask
USED = {SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, DESCRIPTION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT}
VALUE_TYPES = {1: "B", 2: "s", 3: "H", 4: "L", 16: "Q"}  # of these tags, as codes of `struct`
SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes of a value by type
MOST_TAGS = MOST_BYTES = 2**16  # of a page and of the values of a tag; damaged files state more


def is_photo(image: Any, path: Path | Content) -> bool:
    """Whether an image file, other than a TIFF file, is a photograph: samples of at most 8 bits, and declared alpha.

    Args:
        image: The file as opened by Pillow, which reduces deeper samples to 8 bits and drops some of the bands.
        path: The file.
    """
    if image.format == "JPEG2000":
        return _is_jpeg2000_photo(path, has_alpha="A" in image.mode)
    return image.format not in ("PNG", "PPM") or _bits_per_sample(path) <= PHOTO_BITS


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


def tiff_content(path: Path | Content) -> Literal["photo", "array"] | None:
    """Whether a TIFF file is a photograph: samples of at most 8 bits, a color, and perhaps declared alpha.

    The pages of a TIFF file in gray with 8 bits are the bands of an array, except for thumbnails, overviews and masks.
    Of other pages, the first one is the photograph.

    Args:
        path: The file.

    Returns:
        None if the file is no TIFF file by its first bytes, whatever its suffix.
    """
    with path.open("rb") as file:
        header = file.read(HEADER)
        if header[:4] not in TIFF_SIGNATURES:
            return None
        try:
            return "photo" if _is_tiff_photo(_pages(file, header)) else "array"
        except Exception:  # damaged tags raise almost any error; the reader of arrays then gives the reason
            return "array"


def _is_tiff_photo(pages: Iterator[Mapping[int, Any]]) -> bool:
    first = next(pages)
    (kind,), extra, bits = first[PHOTOMETRIC], first.get(EXTRA_SAMPLES, ()), max(first.get(BITS, (1,)))
    if kind not in COLORS or {*first.get(SAMPLE_FORMAT, ())} - UNSIGNED or bits > PHOTO_BITS:
        return False
    alpha = kind in GRAY_OR_RGB and len(extra) == 1 and extra[0] in ALPHA
    if first.get(SAMPLES, (1,)) != (COLORS[kind] + alpha,):
        return False
    if kind not in GRAY or bits < PHOTO_BITS:  # a document
        return True
    same = [page for page in (first, *pages) if (page[WIDTH], page[HEIGHT]) == (first[WIDTH], first[HEIGHT])]
    bands = [page for page in same if not page.get(SUBFILE, (0,))[0] & (REDUCED | MASK)]
    return len(bands) <= 1 and TRUNCATED not in first.get(DESCRIPTION, (b"",))[0]


def _pages(file: BinaryIO, header: bytes) -> Iterator[dict[int, tuple[Any, ...]]]:
    """Yields the values of the tags `USED` of each page of a TIFF file."""
    order = "<" if header.startswith(b"I") else ">"
    for page in tiff_pages(file, header, USED):
        yield {
            tag: struct.unpack(f"{order}{min(length, MOST_BYTES)}{VALUE_TYPES[kind]}", value)
            for tag, (kind, length, value) in page.items()
        }


def tiff_pages(file: BinaryIO, header: bytes, tags: Container[int] | None = None) -> Iterator[Tags]:
    """Yields the tags of each page of a TIFF file, as type, number of values, and the bytes of these.

    Pillow and tifffile decode all tags of all pages, which takes a third of the time to read a small file.

    Args:
        file: The file.
        header: Its first bytes, at least `HEADER`.
        tags: The tags that are wanted; None for all.
    """
    order, is_big = "<" if header.startswith(b"I") else ">", 43 in header[2:4]
    number, place = ("Q", "Q") if is_big else ("H", "L")
    entry = struct.Struct(f"{order}HH{place}{struct.calcsize(order + place)}s")
    count_size, place_size = struct.calcsize(order + number), struct.calcsize(order + place)
    (start,) = struct.unpack_from(order + place, header, place_size)
    visited: set[int] = set()
    while start and start not in visited:  # in a damaged file, a page can refer to an earlier one
        visited.add(start)
        file.seek(start)
        (count,) = struct.unpack(order + number, file.read(count_size))
        entries = file.read(min(count, MOST_TAGS) * entry.size)
        (start,) = struct.unpack(order + place, file.read(place_size).ljust(place_size, b"\0"))
        page = {}
        for tag, kind, length, value in entry.iter_unpack(entries):
            if tags is None or tag in tags:
                if (size := min(length, MOST_BYTES) * SIZES[kind]) > place_size:
                    file.seek(*struct.unpack(order + place, value))
                    value = file.read(size)
                page[tag] = (kind, length, value[:size])
        yield page
