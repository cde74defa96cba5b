"""Decoding of plain JPEG files with simplejpeg or torchvision, which take a third of Pillow's time for small ones."""

import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.photo import LARGE, Content

__all__ = ["decode_plain_jpeg", "may_be_plain_jpeg"]

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg")
LARGEST = 2**23  # bytes; in larger files, little of the time is that of opening them
START, END = b"\xff\xd8\xff", b"\xff\xd9"
SCAN = 0xDA
SEGMENT = 10  # bytes of a segment up to its number of components
SIZES = (0xC0, 0xC2)  # baseline and progressive
# Tables, restart intervals, JFIF, Photoshop's resources and comments. Other segments may hold a color profile, an
# orientation or a transform of the colors, and other pictures, which Pillow handles.
HARMLESS = {0xDB, 0xC4, 0xDD, 0xE0, 0xED, 0xFE}
BITS = 8
GRAY, COLOR = 1, 3  # numbers of components


def may_be_plain_jpeg(path: Path | Content) -> bool:
    """Whether a file has the suffix of JPEG."""
    return path.name.lower().endswith(SUFFIXES)


def decode_plain_jpeg(path: Path | Content) -> Pixels | None:
    """Decodes a JPEG file to RGB `(H, W, 3)` if it has only pixels, that is neither a profile nor an orientation.

    The decoder is simplejpeg, if it is installed, or torchvision. The pixels are those of Pillow, which is tried once
    per process: the libraries may be built with different versions of libjpeg. Python's global lock is released
    meanwhile, whereas Pillow holds it while it opens a file.

    Args:
        path: Path of the file, or the file in memory.

    Returns:
        The pixels; None if the file is something else, or damaged, so that another reader has to decide about it.

    Raises:
        OSError: The file cannot be read.
    """
    if not may_be_plain_jpeg(path) or (decode := _decoder()) is None:
        return None
    content = bytearray(path.data) if isinstance(path, Content) else _read(path)
    return decode(content) if content is not None and _is_plain(content) else None


def _read(path: Path) -> bytearray | None:
    """Reads a regular file that is not large; opening a pipe would block until something writes to it."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        return None
    content = bytearray(status.st_size)
    with path.open("rb", buffering=0) as file:
        return content if file.readinto(content) == len(content) else None


def _is_plain(content: bytearray) -> bool:
    """Whether a file is a gray or color JPEG file of 8 bits without any segment that changes the pixels."""
    if not content.startswith(START) or not content.endswith(END):
        return False
    position, has_size = 2, False
    while position + SEGMENT <= len(content) and content[position] == 0xFF:
        marker, segment = content[position + 1], position + 4
        if marker == SCAN:
            return has_size
        if marker in SIZES and not has_size:
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (segment + 1, segment + 3))
            if content[segment] != BITS or content[segment + 5] not in (GRAY, COLOR) or height * width > LARGE:
                return False
            has_size = True
        elif marker not in HARMLESS:
            return False
        position += 2 + int.from_bytes(content[position + 2 : segment], "big")
    return False


def _by_simplejpeg(content: bytearray) -> Pixels | None:
    import simplejpeg

    try:
        decoded: Pixels = simplejpeg.decode_jpeg(content)
    except ValueError:
        return None
    return decoded


def _by_torchvision(content: bytearray) -> Pixels | None:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        pixels = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    decoded: Pixels = pixels.permute(1, 2, 0).numpy()  # without a copy: libjpeg's order is this one
    return decoded


DECODERS: list[Callable[[bytearray], Pixels | None]] = [_by_simplejpeg, _by_torchvision]  # the fastest first


@cache
def _decoder() -> Callable[[bytearray], Pixels | None] | None:
    """The fastest installed decoder that gives the pixels of Pillow."""
    return next(filter(_is_same_as_pillow, DECODERS), None)


def _is_same_as_pillow(decode: Callable[[bytearray], Pixels | None]) -> bool:
    """Whether a decoder is installed, and gives the pixels of Pillow for the usual kinds of files."""
    import io

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((37, 29), Image.Resampling.BILINEAR)
    kinds: list[dict[str, Any]] = [{"subsampling": 2}, {"subsampling": 1}, {"subsampling": 0}, {"progressive": True}]
    try:
        for one, options in [*((image, kind) for kind in kinds), (image.convert("L"), {})]:
            file = io.BytesIO()
            one.save(file, "JPEG", quality=90, **options)
            found = decode(bytearray(file.getvalue()))
            if found is None or not np.array_equal(found, np.asarray(Image.open(file).convert("RGB"))):
                return False
    except ImportError:  # simplejpeg is not required, and a later torchvision may have no decoder
        return False
    return True
