"""Opening of photographs with Pillow, and conversion to upright 8-bit RGB."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ssl_pretext.errors import ArgumentError

__all__ = ["MAX_PIXELS", "Content", "apply_orientation", "as_rgb", "format_by_suffix", "open_photo", "orientation"]

# Only these formats are opened, whatever the suffix. Pillow would pass PostScript files to an interpreter.
FORMATS = {"AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}  # packages that add a format to Pillow
FEATURES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # parts of Pillow that some builds lack
MAX_PIXELS = 178_956_970  # limit for a photograph: twice Pillow's MAX_IMAGE_PIXELS, above which Pillow raises
ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Content:
    """A file in memory, with the attributes of a `Path` that reading an image needs.

    Attributes:
        name: Name of the file.
        data: Bytes of the file.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as `.png`."""
        return os.path.splitext(self.name)[1]

    def open(self, mode: str) -> BinaryIO:
        """Returns the bytes as a binary file; `mode` is there for the signature of `Path.open` and is ignored."""
        return io.BytesIO(self.data)


@cache
def format_by_suffix() -> dict[str, str]:
    """The format of each suffix, such as `.jpg`, that Pillow can decode here; installed plugins are registered."""
    from PIL import Image, features

    for plugin in PLUGINS.values():
        with suppress(ImportError):
            module = import_module(plugin)
            getattr(module, "register_heif_opener", lambda: None)()
    lacking = {name for name, feature in FEATURES.items() if feature not in features.get_supported()}
    known = Image.registered_extensions().items()
    return {suffix: name for suffix, name in known if name in FORMATS - lacking}


@contextmanager
def open_photo(path: str | os.PathLike[str] | Content) -> Iterator[Any]:
    """Opens a file as a Pillow image whose pixels are not decoded yet.

    Args:
        path: Path of the file, or the file in memory.

    Raises:
        Exception: Any error that Pillow raises for a damaged file or for a PNG file with a wrong checksum.
    """
    from PIL import Image

    # The file is opened here because Pillow does not close a file that it opened and fails to read.
    path = path if isinstance(path, Content) else Path(path)
    formats = format_by_suffix()
    # Files of the format TGA have no signature, so that many damaged files could be taken for one.
    unsigned = {"TGA"} - {formats.get(path.suffix.lower())}
    with path.open("rb") as file:
        image = Image.open(file, formats=sorted({*formats.values()} - {"MPO"} - unsigned))
        if image.format == "PNG":
            image.verify()  # checks all checksums, which decoding does not; the image must be opened again afterward
            file.seek(0)
            image = Image.open(file, formats=("PNG",))
        with image:
            yield image


def as_rgb(image: Any) -> Any:
    """Converts a Pillow image to 8-bit RGB. Only the first frame is used, and alpha is dropped.

    Raises:
        ArgumentError: The mode of the image does not define the range of its values.
    """
    if image.mode == "RGB":  # `convert` would copy the image
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # Pillow would clip at 255
        return _scaled(image).convert("RGB")
    if image.mode.startswith(("I", "F")):
        raise ArgumentError(
            f"the image is grayscale with an unknown range of values (Pillow mode {image.mode}); save it as .npy or "
            ".tif, which are read as arrays"
        )
    if "transparency" in image.info:  # Pillow warns when such a palette is converted to RGB directly
        image = image.convert("RGBA")
    return image.convert("RGB")


def orientation(image: Any) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 is upright."""
    image.load()  # Pillow rotates TIFF files while decoding them and then removes the tag
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises almost any error on damaged EXIF; like image viewers, we then do not rotate
        return 1


def apply_orientation(image: Any, orientation: int) -> Any:
    """Rotates or flips a Pillow image upright, given its EXIF orientation; unknown values leave it unchanged."""
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
    """Scales 16-bit gray to 8-bit gray, so that 65535 becomes 255."""
    from PIL import Image

    deep = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
