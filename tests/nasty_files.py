"""Kinds of nasty image files: how to make each one, and its expected pixels or the reason why it is skipped."""

import io
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

SIDE = 8
# A smooth image that JPEG changes little, and that differs from all its rotations and flips.
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
RGB = np.stack([40 + 20 * ROWS, 60 + 15 * COLUMNS, 90 + 5 * ROWS + 8 * COLUMNS], -1).astype(np.uint8)
GRAY = RGB[..., 0]
BANDS = np.linspace(-1, 1, 3 * SIDE * SIDE, dtype=np.float32).reshape(3, SIDE, SIDE)
ORIENTATION, JPEG_LOSS = 0x0112, 10
GOOD_PHOTOS, GOOD_ARRAYS = [f"good{i}.png" for i in range(3)], [f"good{i}.npy" for i in range(3)]


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of nasty file.

    Attributes:
        name: Name of the file.
        make: Function that writes the file at a path.
        expected: Pixels `(C, H, W)` that are read, or a pattern of the reason why the file is skipped.
        tolerance: Largest difference of the pixels.
        among: Kind of the good images in the folder, `"photos"` or `"arrays"`.
        id: Name of the test, if the name of the file cannot be printed.
    """

    name: str
    make: Callable[[Path], Any]
    expected: Any
    tolerance: float = 0
    among: str = "photos"
    id: str = ""


def saved(image: Any, **options: Any) -> Callable[[Path], Any]:
    """Returns a function that saves an image with Pillow; `format` may differ from the suffix."""
    return lambda path: image().save(path, **options)


def rgb() -> Any:
    return Image.fromarray(RGB)


def written(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def encoded(image: Any, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG file with raw rows, each of which starts with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    )


def npy(shape: str, descr: str = "'|u1'", body: bytes = b"x" * 64) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def exif(orientation: int) -> Any:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def upright(orientation: int) -> Any:
    """The image rotated upright, from the definition of the tag: the sides that row 0 and column 0 are."""
    flips = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1]}
    transposed = RGB.transpose(1, 0, 2)
    return {
        **flips, 5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1]
    }[orientation]  # fmt: skip


def palette(transparent: bool) -> Any:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    image.putdata((GRAY // 2).flatten().tolist())
    if transparent:
        image.info["transparency"] = bytes(range(256))
    return image


PALETTE = np.stack([GRAY // 2, 255 - GRAY // 2, GRAY // 4], -1)


def with_alpha() -> Any:
    return Image.fromarray(np.concatenate([RGB, 255 - GRAY[..., None]], -1))


def on_white(pixels: Any, alpha: Any) -> Any:
    """Pixels `(H, W, 3)` composited on white."""
    opacity = np.asarray(alpha, np.float64)[..., None] / 255
    return chw(opacity * pixels + (1 - opacity) * 255)


def frames(**options: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        # Two frames: Pillow before 11.3 writes damaged MPO files if there are more.
        rgb().save(path, save_all=True, append_images=[Image.fromarray(255 - RGB)], **options)

    return make


def long_exif(path: Path) -> None:
    tags = exif(3)
    tags[0x9286] = b"x" * 65000  # UserComment
    rgb().save(path, "JPEG", quality=100, subsampling=0, exif=tags)


def profiled(path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    rgb().save(path, "PNG", icc_profile=profile)


def sparse(path: Path) -> None:
    """A sparse file of a terabyte, with a header of that size."""
    path.write_bytes(npy("(1000000, 1000000)"))
    os.truncate(path, 10**12 + 64)


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is limited to about 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def circular_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((2, SIDE, SIDE), np.uint16), photometric="minisblack", metadata=None)
    content = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    tags = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * tags, first)  # the page refers to itself as the next one
    path.write_bytes(content)


class Payload:
    """An object that ends the process when it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (66,)


def pickled(path: Path) -> None:
    content = np.empty(1, dtype=object)
    content[0] = Payload()
    np.save(path, content, allow_pickle=True)


def archived(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, BANDS)


def hidden_away(folder: str, name: str) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        (path.parent / folder).mkdir()
        rgb().save(path.parent / folder / name, "PNG")

    return make


def folder_with_image(path: Path) -> None:
    path.mkdir()
    rgb().save(path / "in.png")


def chw(pixels: Any) -> Any:
    return np.moveaxis(pixels, -1, 0)


GRAY_RGB = np.stack([GRAY] * 3)
JPEG = encoded(rgb(), "JPEG", quality=100, subsampling=0)
PNG = encoded(rgb(), "PNG")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
DEEP = (GRAY.astype(np.uint16) << 8) + 200
DEEP_RGB = (RGB.astype(np.uint16) << 8) + 200
MOSTLY = np.where(np.arange(3)[:, None, None] == 1, np.nan, BANDS)
ARRAYS = r"an array must have shape \(C, H, W\)"

PHOTOS = [
    Kind("gray.png", saved(lambda: Image.fromarray(GRAY)), GRAY_RGB),
    Kind(
        "gray_alpha.png",
        saved(lambda: Image.fromarray(np.stack([GRAY, 255 - GRAY], -1))),
        on_white(GRAY[..., None].repeat(3, -1), 255 - GRAY),
        1,
    ),
    Kind("one_bit.png", saved(lambda: Image.fromarray(GRAY > 100)), np.where(GRAY_RGB > 100, 255, 0)),
    Kind("palette.png", saved(lambda: palette(False)), chw(PALETTE)),
    Kind("transparent_palette.png", saved(lambda: palette(True)), on_white(PALETTE, GRAY // 2), 1),
    Kind("alpha.png", saved(with_alpha), on_white(RGB, 255 - GRAY), 1),
    Kind("deep_gray.png", saved(lambda: Image.fromarray(DEEP)), "the image has 1 channel of uint16, .* but most"),
    Kind(
        "deep_rgb.png",
        written(png(SIDE, SIDE, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP_RGB))),
        "the image has 3 channels of uint16, .* but most",
    ),
    Kind(
        "two_bit_gray.png",
        written(png(SIDE, SIDE, 2, 0, b"\0\x1b\x1b" * SIDE)),
        np.full((3, SIDE, SIDE), [0, 85, 170, 255] * 2),
    ),
    Kind("cmyk.jpg", saved(lambda: rgb().convert("CMYK"), quality=100), chw(RGB), JPEG_LOSS),
    Kind("progressive.jpg", saved(rgb, quality=100, subsampling=0, progressive=True), chw(RGB), JPEG_LOSS),
    Kind("subsampled.jpg", saved(rgb, quality=100, subsampling=2), chw(RGB), 1.5 * JPEG_LOSS),
    Kind("gray.jpg", saved(lambda: Image.fromarray(GRAY), quality=100), GRAY_RGB, JPEG_LOSS),
    *(
        Kind(f"exif{n}.jpg", saved(rgb, quality=100, subsampling=0, exif=exif(n)), chw(upright(n)), JPEG_LOSS)
        for n in range(1, 9)
    ),
    Kind("exif6.png", saved(rgb, exif=exif(6)), chw(upright(6))),
    Kind("exif8.webp", saved(rgb, lossless=True, exif=exif(8)), chw(upright(8))),
    Kind("exif5.tif", saved(rgb, exif=exif(5)), chw(upright(5))),
    Kind("exif99.jpg", saved(rgb, quality=100, subsampling=0, exif=exif(99)), chw(RGB), JPEG_LOSS),
    Kind(
        "exif_broken.jpg",
        saved(rgb, quality=100, subsampling=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12"),
        chw(RGB),
        JPEG_LOSS,
    ),
    Kind("exif_garbage.jpg", saved(rgb, quality=100, subsampling=0, exif=b"Exif\0\0no tags"), chw(RGB), JPEG_LOSS),
    Kind("exif_long.jpg", long_exif, chw(upright(3)), JPEG_LOSS),
    Kind("profile.png", profiled, chw(RGB)),
    Kind("several.jpg", frames(format="MPO", quality=100, subsampling=0), chw(RGB), JPEG_LOSS),
    Kind(
        "animated.gif",
        saved(lambda: palette(False), save_all=True, append_images=[Image.new("P", (SIDE, SIDE))]),
        chw(PALETTE),
    ),
    Kind("animated.webp", frames(lossless=True), chw(RGB)),
    Kind("animated.png", frames(), chw(RGB)),
    Kind("plain.bmp", saved(rgb), chw(RGB)),
    Kind("alpha.webp", saved(with_alpha, lossless=True, exact=True), on_white(RGB, 255 - GRAY), 1),
    Kind("photo.tif", saved(rgb), chw(RGB)),
    Kind("lzw.tif", saved(rgb, compression="tiff_lzw"), chw(RGB)),
    Kind("cmyk.tif", saved(lambda: rgb().convert("CMYK")), chw(RGB), 1),
    Kind("pages.tiff", frames(), chw(RGB)),
    Kind(
        "1x1.png", saved(lambda: Image.new("RGB", (1, 1), (9, 8, 7))), np.full((3, SIDE, SIDE), [[[9]], [[8]], [[7]]])
    ),
    Kind(
        "4000x20.png",
        saved(lambda: Image.new("RGB", (4000, 20), (9, 8, 7))),
        np.full((3, SIDE, SIDE), [[[9]], [[8]], [[7]]]),
    ),
    Kind("20x4000.jpg", saved(lambda: Image.new("L", (20, 4000), 77)), np.full((3, SIDE, SIDE), 77), 1),
    Kind("png.jpg", saved(rgb, format="PNG"), chw(RGB), id="a PNG file called jpg"),
    Kind("jpeg.png", written(JPEG), chw(RGB), JPEG_LOSS, id="a JPEG file called png"),
    Kind("png.tif", saved(rgb, format="PNG"), chw(RGB), id="a PNG file called tif"),
    Kind("tiff.jpg", saved(rgb, format="TIFF"), chw(RGB), id="a TIFF file called jpg"),
    Kind("LOUD.JPG", written(JPEG), chw(RGB), JPEG_LOSS),
    Kind("mixed.PnG", saved(rgb, format="PNG"), chw(RGB)),
    Kind("line\nbreak.png", saved(rgb, format="PNG"), chw(RGB), id="a line break in its name"),
    Kind("no\udcffutf8.png", saved(rgb, format="PNG"), chw(RGB), id="a name that is not UTF-8"),
    Kind("n" * 251 + ".png", saved(rgb, format="PNG"), chw(RGB), id="a name of 255 bytes"),
    Kind("<script>alert('x')&\"%s{}$(x)`.png", saved(rgb, format="PNG"), chw(RGB), id="markup in its name"),
    Kind("-rf \t .png", saved(rgb, format="PNG"), chw(RGB), id="dashes and blanks in its name"),
    Kind("trailing.jpg", written(JPEG + b"<?php" * 99), chw(RGB), JPEG_LOSS),
    Kind("link.png", lambda path: path.symlink_to("good0.png"), chw(RGB)),
    Kind("zero.jpg", written(b""), "UnidentifiedImageError"),
    Kind("zero.png", written(b""), "UnidentifiedImageError"),
    Kind("zeros.jpg", written(bytes(5000)), "UnidentifiedImageError"),
    Kind("text.jpg", written(b"Dear diary"), "UnidentifiedImageError"),
    Kind("page.jpg", written(b"<!doctype html><html>404</html>"), "UnidentifiedImageError"),
    Kind("archive.jpg", written(b"PK\3\4" + bytes(100)), "UnidentifiedImageError"),
    Kind("drawing.png", written(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "UnidentifiedImageError"),
    Kind(
        "program.jpg",
        written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"),
        "UnidentifiedImageError",
    ),
    Kind("portable.png", saved(rgb, format="PPM"), chw(RGB), id="a PPM file called png"),
    Kind("targa.png", saved(rgb, format="TGA"), "UnidentifiedImageError"),
    Kind("phone.jpg", written(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "UnidentifiedImageError"),
    Kind("header_only.jpg", written(JPEG[:2]), "UnidentifiedImageError|OSError"),
    Kind("half.jpg", written(encoded(NOISE, "JPEG")[:1500]), "OSError: image file is truncated"),
    Kind(
        "half_progressive.jpg",
        written(encoded(NOISE, "JPEG", progressive=True)[:1500]),
        "OSError: image file is truncated",
    ),
    Kind("half.png", written(encoded(NOISE, "PNG")[:5000]), "OSError: Truncated File Read"),
    Kind("half.gif", written(encoded(NOISE, "GIF")[:2500]), "OSError: image file is truncated"),
    Kind("half.webp", written(encoded(NOISE, "WEBP")[:1000]), "OSError|UnidentifiedImageError"),
    Kind("half.bmp", written(encoded(NOISE, "BMP")[:5000]), "OSError: image file is truncated"),
    Kind("half.tif", written(encoded(NOISE, "TIFF")[:5000]), "."),
    Kind("flipped.png", written(PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:]), "SyntaxError: broken PNG file"),
    Kind("bomb.png", written(png(40000, 40000, 1, 0, b"")), "DecompressionBombError"),
    Kind(
        "bomb.gif",
        written(b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\1\0;"),
        "DecompressionBombError",
    ),
    Kind(
        "bomb.bmp",
        written(b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 10**6, 10**6, 1, 24, 0, 0, 0, 0, 0, 0)),
        "DecompressionBombError",
    ),
    Kind(
        "text_bomb.png",
        written(PNG[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))) + PNG[33:]),
        "(?i)ValueError: Decompressed data too large",
    ),
    Kind(
        "thread.png",
        written(png(1, 3 * 10**6, 1, 0, bytes(6 * 10**6))),
        "ValueError: the aspect ratio of 1×3000000 pixels is too extreme",
    ),
    Kind(
        "measured.png",
        saved(lambda: Image.fromarray(BANDS[0]), format="TIFF"),
        "the image has 1 channel of float, .* but most",
    ),
    Kind(
        "floating.png",
        written(b"Pf\n8 8\n-1.0\n" + BANDS[0].tobytes()),
        "Pillow mode F|Unidentified",
    ),
    Kind("pipe.jpg", lambda path: os.mkfifo(path), "the path is not a regular file"),
    Kind("pipe.npy", lambda path: os.mkfifo(path), "the path is not a regular file"),
    Kind("pipe.tif", lambda path: os.mkfifo(path), "the path is not a regular file"),
    Kind("socket.jpg", bound, "the path is not a regular file"),
    Kind("device.jpg", lambda path: path.symlink_to("/dev/zero"), "the path is not a regular file"),
    Kind("dangling.jpg", lambda path: path.symlink_to("nowhere.jpg"), "FileNotFoundError"),
    Kind("loop.jpg", lambda path: path.symlink_to(path.name), "OSError: .*symbolic links"),
    Kind("around", lambda path: path.symlink_to("."), "the link points to a folder that is already included"),
    Kind("up", lambda path: path.symlink_to("../.."), "the link points to .* or to a parent of the data folder"),
    Kind("folder.jpg", lambda path: path.mkdir(), "the path is a folder"),
    Kind("forbidden.jpg", lambda path: (path.write_bytes(JPEG), path.chmod(0)), "PermissionError"),
    Kind("closed", lambda path: path.mkdir(mode=0), "PermissionError"),
    Kind(".hidden.png", saved(rgb), "the file or folder is hidden"),
    Kind("._x.jpg", written(b"\0\5\x16\7\0\2\0\0Mac OS X        "), "the file or folder is hidden"),
    Kind("__MACOSX", hidden_away("__MACOSX", "._y.jpg"), "the file or folder is hidden"),
    Kind(".cache", hidden_away(".cache", "z.png"), "the file or folder is hidden"),
]

ARRAY_KINDS = [
    Kind("plain.npy", lambda path: np.save(path, BANDS), BANDS),
    Kind("fortran.npy", lambda path: np.save(path, np.asfortranarray(BANDS)), BANDS),
    Kind("big_endian.npy", lambda path: np.save(path, BANDS.astype(">f8")), BANDS),
    Kind("half.npy", lambda path: np.save(path, BANDS.astype(np.float16)), BANDS.astype(np.float16)),
    Kind("nan.npy", lambda path: np.save(path, MOSTLY), MOSTLY),
    Kind("infinite.npy", lambda path: np.save(path, np.where(MOSTLY != MOSTLY, -np.inf, BANDS)), MOSTLY),
    Kind("enormous.npy", lambda path: np.save(path, np.where(MOSTLY != MOSTLY, np.float64(1e300), BANDS)), MOSTLY),
    Kind("float.tif", lambda path: tifffile.imwrite(path, BANDS, photometric="minisblack", metadata=None), BANDS),
    Kind(
        "planes.tif",
        lambda path: tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="separate", metadata=None),
        BANDS,
    ),
    Kind(
        "four.npy",
        lambda path: np.save(path, np.concatenate([BANDS, BANDS[:1]])),
        "the image has 4 channels of float, 8×8 pixels, but most images have 3 channels of float",
    ),
    Kind("one.npy", lambda path: np.save(path, BANDS[0]), "the image has 1 channel of float, .* but most"),
    Kind(
        "deep.npy",
        lambda path: np.save(path, BANDS.astype(np.uint16)),
        "the image has 3 channels of uint16, .* but most",
    ),
    Kind(
        "deep.tif",
        lambda path: tifffile.imwrite(path, DEEP_RGB, photometric="rgb"),
        "the image has 3 channels of uint16, .* but most",
    ),
    Kind("photo.png", saved(rgb), "the image has 3 channels of uint8, .* but most"),
    Kind(
        "missing.npy",
        lambda path: np.save(path, np.full((3, SIDE, SIDE), np.nan)),
        "ValueError: every value is missing",
    ),
    Kind("long.npy", lambda path: np.save(path, BANDS.astype(np.int64) + 2**25), f"{ARRAYS}.*int64"),
    Kind("bool.npy", lambda path: np.save(path, BANDS > 0), f"{ARRAYS}.*bool"),
    Kind("complex.npy", lambda path: np.save(path, BANDS + 1j), f"{ARRAYS}.*complex"),
    Kind("texts.npy", lambda path: np.save(path, np.full((3, 2, 2), "text")), f"{ARRAYS}.*<U4"),
    Kind("record.npy", lambda path: np.save(path, np.zeros((3, 8, 8), "u1,f4")), f"{ARRAYS}.*f0"),
    Kind("scalar.npy", lambda path: np.save(path, np.float32(1)), ARRAYS),
    Kind("batch.npy", lambda path: np.save(path, BANDS[None]), BANDS),
    Kind("batches.npy", lambda path: np.save(path, BANDS[None, None]), ARRAYS),
    Kind("no_channels.npy", lambda path: np.save(path, BANDS[:0]), ARRAYS),
    Kind("no_rows.npy", lambda path: np.save(path, BANDS[:, :0]), ARRAYS),
    Kind("pickle.npy", pickled, "ValueError: Object arrays cannot be loaded"),
    Kind(
        "bare_pickle.npy",
        lambda path: path.write_bytes(pickle.dumps(Payload())),
        "ValueError: the magic string is not correct",
    ),
    Kind("archive.npy", archived, "ValueError: the magic string is not correct"),
    Kind("photo.npy", written(JPEG), "ValueError: the magic string is not correct"),
    Kind("zero.npy", written(b""), "ValueError: EOF"),
    Kind("cut.npy", written(npy("(3, 8, 8)")), r"ValueError: the header states the shape \(3, 8, 8\), but"),
    Kind("huge.npy", written(npy("(3, 1000000, 1000000)")), "ValueError: the header states the shape"),
    Kind("minus.npy", written(npy("-" * 9000 + "1")), "ValueError|RecursionError"),
    Kind("overflow.npy", written(npy("(4294967296, 4294967296)")), "ValueError"),
    Kind("negative.npy", written(npy("(-1, 8, 8)")), "ValueError"),
    Kind("nested.npy", written(npy("(" * 4000 + ")" * 4000)), "Error"),
    Kind("code.npy", written(npy("__import__('os')._exit(66)")), "ValueError: "),
    Kind("long_header.npy", written(npy(" " * 30000 + "(8, 8)")), "ValueError: Header info length"),
    Kind("longer_header.npy", written(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100)), "ValueError: EOF"),
    Kind("sparse.npy", sparse, r"ValueError: the image has 1,000,000,000,064 bytes, above the limit"),
    Kind("zero.tif", written(b""), "Tiff|Error"),
    Kind("nothing.tif", written(b"II*\0" + bytes(4)), "Error"),
    Kind("circular.tif", circular_tiff, "the image has 1 channel of uint16|Error"),
]
KINDS = [*PHOTOS, *(replace(kind, among="arrays") for kind in ARRAY_KINDS)]


def good(folder: Path, among: str) -> list[str]:
    """Writes three good images."""
    for name in (names := GOOD_PHOTOS if among == "photos" else GOOD_ARRAYS):
        rgb().save(folder / name) if among == "photos" else np.save(folder / name, BANDS)
    return names
