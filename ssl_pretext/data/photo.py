"""From a photograph's file to upright 8-bit RGB, by Pillow."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ssl_pretext.errors import ArgumentError

__all__ = ["MOST_PIXELS", "Content", "as_rgb", "open_photo", "orientation", "turned"]

# Of all that Pillow knows, whatever the suffix says: it would hand PostScript over to an interpreter.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MOST_PIXELS = 178_956_970  # of a photograph; beyond twice its MAX_IMAGE_PIXELS Pillow takes a file for a bomb
ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Content:
    """A file in memory: what is asked of a `Path` to read an image from it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    def open(self, mode: str) -> BinaryIO:
        return io.BytesIO(self.data)


@contextmanager
def open_photo(path: str | os.PathLike[str] | Content) -> Iterator[Any]:
    """A file as a Pillow image, pixels not yet decoded.

    Raises:
        Exception: Whatever Pillow raises at a file that is not whole, and of a PNG file whose checksums do not fit.
    """
    from PIL import Image

    # Pillow would not close a file of its own that it fails to read from.
    with (path if isinstance(path, Content) else Path(path)).open("rb") as file:
        image = Image.open(file, formats=FORMATS)
        if image.format == "PNG":
            image.verify()  # all checksums, of which decoding looks at some only; afterward it has to be opened anew
            file.seek(0)
            image = Image.open(file, formats=("PNG",))
        with image:
            yield image


def as_rgb(image: Any) -> Any:
    """A Pillow image in 8-bit RGB; of several frames the first, and alpha is dropped.

    Raises:
        ArgumentError: It has a mode whose range nothing states.
    """
    if image.mode == "RGB":  # which `convert` would copy
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # where Pillow would clip at 255
        return _scaled(image).convert("RGB")
    if image.mode.startswith(("I", "F")):
        raise ArgumentError(
            f"it is gray of a range that nothing states (Pillow's mode {image.mode}); save it as .npy or .tif, which "
            "are read as arrays"
        )
    if "transparency" in image.info:  # of a palette, where Pillow warns of a direct conversion
        image = image.convert("RGBA")
    return image.convert("RGB")


def orientation(image: Any) -> int:
    """What the camera says of how it was held, 1 to 8; 1 is upright."""
    image.load()  # Pillow turns TIFF files while it decodes them, and then no longer says so
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises nearly anything on broken EXIF, of which viewers too show the pixels as they are
        return 1


def turned(image: Any, orientation: int) -> Any:
    """The image upright; itself where there is nothing to turn."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _scaled(image: Any) -> Any:
    """16-bit gray as 8-bit gray, 65535 as 255."""
    from PIL import Image

    deep = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
