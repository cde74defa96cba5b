"""Opening of photographs with Pillow, and conversion to upright 8-bit sRGB without alpha."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from ssl_pretext.data.profiles import to_srgb
from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = [
    "LARGE",
    "MAX_PIXELS",
    "ORIENTATION",
    "Content",
    "apply_orientation",
    "as_rgb",
    "draft",
    "format_by_suffix",
    "open_photo",
    "orientation",
    "upright",
    "upright_size",
]

# Only these formats are opened, whatever the suffix. Pillow would pass PostScript files to an interpreter.
FORMATS = ("JPEG", "PNG", "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG2000", "JXL", "PPM", "QOI", "TIFF", "WEBP")
# Formats that other content could be mistaken for are opened by their suffix.
WITHOUT_SIGNATURE = dict.fromkeys((".icb", ".tga", ".vda", ".vst"), "TGA")
PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}  # packages that add a format to Pillow
# Formats that not every Pillow can read, by suffix, with the name of the feature that it needs.
FEATURES = {".avif": "avif", ".j2k": "jpg_2000", ".jp2": "jpg_2000", ".jpx": "jpg_2000", ".webp": "webp"}
MAX_PIXELS = 178_956_970  # limit for a photograph: twice Pillow's MAX_IMAGE_PIXELS, above which Pillow raises
LARGE = 2**25  # pixels; a larger JPEG file is decoded at a reduced size, which takes a fraction of the memory
DRAFT = 8  # a reduced JPEG has at least this many times the wanted side, so that hardly a pixel changes
ORIENTATION = 0x0112  # tag of EXIF and TIFF


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


@contextmanager
def open_photo(path: str | os.PathLike[str] | Content) -> Iterator[Any]:
    """Opens a file as a Pillow image whose pixels are not decoded yet.

    Args:
        path: Path of the file, or the file in memory.

    Raises:
        MissingDependencyError: The installed Pillow cannot read files with this suffix.
        Exception: Any error that Pillow raises for a damaged file or for a PNG file with a wrong checksum.
    """
    from PIL import Image, UnidentifiedImageError, features

    file_or_content = path if isinstance(path, Content) else Path(path)
    suffix = file_or_content.suffix.lower()
    # The file is opened here because Pillow does not close a file that it opened and fails to read.
    with file_or_content.open("rb") as file:
        try:
            image: Any = Image.open(file, formats=_formats(suffix))
        except UnidentifiedImageError as error:
            if suffix in FEATURES and FEATURES[suffix] not in features.get_supported():
                raise MissingDependencyError(
                    f"reading {path} needs a Pillow with {FEATURES[suffix]}: pip install --upgrade pillow"
                ) from error
            raise
        if image.format == "PNG":
            image.verify()  # checks all checksums, which decoding does not; the image must be opened again afterward
            file.seek(0)
            image = Image.open(file, formats=("PNG",))
        elif image.format == "TGA" and image.mode == "RGBA" and not _tga_alpha_bits(file):
            image = image.convert("RGB")  # the fourth byte is not alpha, and often 0
        with image:
            yield image


def draft(image: Any, side: int) -> tuple[float, float, float, float] | None:
    """Lets Pillow decode a large JPEG file at a half, a quarter or an eighth of its size.

    The reduced image is resized like the full one, whose pixels are means of its own; the result differs by 0.2 levels
    on average, and by about 5 at sharp edges.

    Args:
        image: Image that is not decoded yet. Its size changes.
        side: Number of pixels to which the shortest side is resized afterward.

    Returns:
        The part of the reduced image that the photo fills, as left, top, right and bottom in pixels; None if the image
        is decoded at its full size.
    """
    if image.format not in ("JPEG", "MPO") or image.width * image.height <= LARGE:
        return None
    full = image.size
    reduced = image.draft(None, (DRAFT * side, DRAFT * side))
    return reduced[1] if reduced and image.size != full else None


def as_rgb(image: Any) -> Any:
    """Converts a Pillow image to 8-bit sRGB; transparent pixels are composited on white.

    Raises:
        ArgumentError: The image has more than 8 bits per sample.
    """
    if image.mode.startswith(("I", "F")):
        raise ArgumentError(
            f"the image is grayscale with more than 8 bits (Pillow mode {image.mode}), which a photograph does not "
            "have; save it as .npy or .tif, which are read as arrays"
        )
    if not image.has_transparency_data:
        return to_srgb(image)
    from PIL import ImageChops

    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    transparency = ImageChops.invert(image.getchannel("A"))
    color = to_srgb(image.convert(image.mode.rstrip("A")))
    color.paste("white", mask=transparency)
    return color


def orientation(image: Any) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 is upright."""
    image.load()  # Pillow rotates TIFF files while decoding them and then removes the tag
    return _exif_orientation(image)


def upright_size(image: Any) -> tuple[int, int]:
    """The width and height that a Pillow image has once it is upright."""
    if image.format == "PNG":
        image.load()  # the EXIF data may stand behind the pixels
    width, height = image.size
    return (height, width) if _exif_orientation(image) in (5, 6, 7, 8) else (width, height)


def _exif_orientation(image: Any) -> int:
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


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Rotates or flips an array `(C, H, W)` upright, given its EXIF orientation; see `apply_orientation`."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels[:, ::-1] if orientation in (3, 4, 7, 8) else pixels


def _tga_alpha_bits(file: BinaryIO) -> int:
    """The bits of alpha that the header of a TGA file declares."""
    file.seek(17)
    return file.read(1)[0] & 15


@cache
def format_by_suffix() -> dict[str, str]:
    """The format of each suffix, such as `.jpg`, that Pillow can decode; installed plugins are registered with it."""
    from PIL import Image

    for plugin in PLUGINS.values():
        with suppress(ImportError):
            getattr(import_module(plugin), "register_heif_opener", lambda: None)()
    readable = {*FORMATS, *WITHOUT_SIGNATURE.values(), "MPO"}  # Pillow opens MPO files as JPEG
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in readable}


@lru_cache(maxsize=64)
def _formats(suffix: str) -> tuple[str, ...]:
    """The formats that a file with a suffix may have and that the installed version of Pillow knows."""
    from PIL import Image

    format_by_suffix()  # loads the formats of Pillow and its plugins
    own = [WITHOUT_SIGNATURE[suffix]] if suffix in WITHOUT_SIGNATURE else []
    return tuple(name for name in (*FORMATS, *own) if name in Image.OPEN)
