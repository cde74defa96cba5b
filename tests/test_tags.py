"""Files with more bits, bands or pages than a photograph: arrays that have the value of every sample."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.data.chatter import silenced
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.photo import Content
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import MissingDependencyError

RNG = np.random.default_rng(0)


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return Content("x.tif", file.getvalue())


def png(samples, color, *chunks):
    """A PNG file with 16 bits per sample, from samples `(H, W, C)`."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*part) for part in chunks), chunk(b"IDAT", zlib.compress(rows))]
    return Content("x.png", b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")]))


def decoded(content, channels=None):
    with silenced():
        image = decoder(Reading(channels=channels))(content)
    assert not isinstance(image, str), image
    return image.pixels


def values(dtype, *shape):
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


GRAY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "layout", ["pages", "plain pages", "ImageJ", "OME", "shape", "planes", "bands last", "BigTIFF", "big endian"]
)
def test_bands_and_pages_of_8_bits_are_channels(count, layout):
    array = values(np.uint8, count, 9, 7)
    options = {
        "pages": {},
        "plain pages": {"metadata": None},
        "ImageJ": {"imagej": True},
        "OME": {"ome": True},
        "shape": {"truncate": True},
        "planes": {"planarconfig": "separate"},
        "bands last": {"planarconfig": "contig"},
        "BigTIFF": {"bigtiff": True},
        "big endian": {"byteorder": ">"},
    }[layout]
    content = tiff(np.moveaxis(array, 0, -1) if layout == "bands last" else array, **GRAY, **options)
    np.testing.assert_array_equal(decoded(content), array)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [("unspecified", "array"), (None, "array"), ("unassalpha", "photo"), ("assocalpha", "photo")],
)
def test_a_fourth_band_is_alpha_only_if_the_file_says_so(extra, expected):
    array = values(np.uint8, 9, 7, 4)
    if extra == "assocalpha":
        array[..., :3] = (array[..., :3] * (array[..., 3:] / 255)).astype(np.uint8)
    content = tiff(array, **RGB, extrasamples=[extra or "unspecified"])
    if extra is None:  # without the tag ExtraSamples, whose number becomes a private one that nothing reads
        assert content.data.count(struct.pack("<HH", 338, 3)) == 1
        content = Content("x.tif", content.data.replace(struct.pack("<HH", 338, 3), struct.pack("<HH", 65000, 3)))
    pixels = decoded(content)
    if expected == "array":
        np.testing.assert_array_equal(pixels, np.moveaxis(array, -1, 0))
    else:
        opacity = array[..., 3:] / 255
        color = array[..., :3].astype(np.float64) * (1 if extra == "assocalpha" else opacity)
        assert np.abs(pixels - np.moveaxis(color + 255 * (1 - opacity), -1, 0)).max() <= 1.01
        np.testing.assert_array_equal(decoded(content, channels=4), np.moveaxis(array, -1, 0))


def test_a_second_band_of_gray_is_alpha_only_if_the_file_says_so():
    array = values(np.uint8, 9, 7, 2)
    unspecified = tiff(array, **GRAY, planarconfig="contig", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decoded(unspecified), np.moveaxis(array, -1, 0))
    opacity = array[..., 1] / 255
    alpha = decoded(tiff(array, **GRAY, planarconfig="contig", extrasamples=["unassalpha"]))
    assert np.abs(alpha - (array[..., 0] * opacity + 255 * (1 - opacity))).max() <= 1


def test_five_bands_with_the_colors_of_a_photo_are_an_array():
    array = values(np.uint8, 9, 7, 5)
    for options in (RGB | {"extrasamples": ["unassalpha", "unspecified"]}, RGB | {"extrasamples": ["unspecified"] * 2}):
        np.testing.assert_array_equal(decoded(tiff(array, **options)), np.moveaxis(array, -1, 0))
    ink = tiff(array, photometric="separated", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decoded(ink), np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16])
def test_integers_keep_their_sign_and_depth(dtype):
    for shape in ((9, 7), (3, 9, 7), (5, 9, 7)):
        array = values(dtype, *shape)
        expected = array.astype(np.float32).reshape(-1, 9, 7)
        np.testing.assert_array_equal(decoded(tiff(array, **GRAY, metadata=None)), expected)
        file = io.BytesIO()
        np.save(file, array)
        np.testing.assert_array_equal(decoded(Content("x.npy", file.getvalue())), expected)
    np.testing.assert_array_equal(sp.ImageStore.from_arrays(array[None], [0]).images()[0], expected)


def test_thumbnails_overviews_and_masks_are_no_bands():
    photo = values(np.uint8, 16, 12)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(photo, **GRAY, metadata=None)
        writer.write(photo, **GRAY, metadata=None, subfiletype=1)
        writer.write(photo > 9, photometric="mask", metadata=None, subfiletype=4)
        writer.write(photo[::2, ::2], **GRAY, metadata=None, subfiletype=1)
        writer.write(photo[::4, ::4], **GRAY, metadata=None)
    np.testing.assert_array_equal(decoded(Content("x.tif", file.getvalue())), np.stack([photo] * 3))
    pages = values(np.uint8, 3, 16, 12, 3)  # a document, of which the first page is read
    np.testing.assert_array_equal(decoded(tiff(pages, **RGB, metadata=None)), np.moveaxis(pages[0], -1, 0))
    text = decoded(tiff(pages[..., 0] > 99, **GRAY, metadata=None))
    np.testing.assert_array_equal(text, np.stack([255 * (pages[0, ..., 0] > 99)] * 3))


@pytest.mark.parametrize(("color", "count"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_files_with_16_bits_are_arrays(color, count):
    array = values(np.uint16, 9, 7, count)
    expected = np.moveaxis(array, -1, 0).astype(np.float32)
    np.testing.assert_array_equal(decoded(png(array, color)), expected)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decoded(png(array, color, (b"eXIf", exif.tobytes()[6:])))
    np.testing.assert_array_equal(turned, np.rot90(expected, -1, (1, 2)))
    small = decoder(Reading(image_size=4))(png(array, color))
    assert (small.kind, small.pixels.dtype, small.pixels.shape) == ("uint16", np.float32, (count, 4, 4))


def test_a_torchvision_without_decoders_is_named(monkeypatch):
    monkeypatch.delattr("torchvision.io.decode_png")
    match = "16-bit samples of x.png needs torchvision.io.decode_png, which this version of torchvision"
    with pytest.raises(MissingDependencyError, match=match):
        decoder(Reading())(png(values(np.uint16, 9, 7, 3), 2))
    assert decoded(png(values(np.uint16, 9, 7, 1), 0)).shape == (1, 9, 7), "gray needs no torchvision"


@pytest.mark.parametrize("turn", range(1, 9))
def test_arrays_are_rotated_as_photos_are(turn):
    array = values(np.uint8, 9, 7, 3)
    content = tiff(array, **RGB, metadata=None, extratags=[(274, "H", 1, turn, True)])
    np.testing.assert_array_equal(decoded(content, channels=3), decoded(content))


def test_the_content_of_a_file_decides_not_its_suffix():
    array = values(np.uint16, 4, 9, 7)
    for name in ("x.png", "x.jpg", "X.TIFF"):
        np.testing.assert_array_equal(decoded(Content(name, tiff(array, **GRAY).data)), array)
    deep = png(array[:1].transpose(1, 2, 0), 0)
    np.testing.assert_array_equal(decoded(Content("x.tif", deep.data)), array[:1])
    assert decoded(Content("x.tif", deep.data), channels=1).shape == (1, 9, 7)


def test_deep_files_that_cannot_be_read_fully_give_the_reason():
    plain = b"P%d\n# a comment\n3 1\n1023\n"
    for name, content in (
        ("x.ppm", plain % 6 + bytes(18)),
        ("x.pgm", plain % 5 + bytes(6)),
        ("x.pgm", plain % 2 + b"0 1 2"),
    ):
        reason = decoder(Reading())(Content(name, content))
        assert "more than 8 bits per sample, which Pillow does not read" in reason, name
        assert "save it as .tif or .npy, which are read as arrays" in reason


def test_a_band_of_jpeg_2000_is_alpha_only_if_the_file_says_so():
    array = values(np.uint8, 9, 7, 4)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG2000")
    declared = file.getvalue()
    stream = declared[declared.index(b"\xff\x4f\xff\x51") :]  # without the boxes around it
    types = declared.index(b"cdef") + 6 + 3 * 6 + 2
    assert declared[types : types + 2] == b"\0\1"
    unspecified = declared[:types] + b"\xff\xff" + declared[types + 2 :]
    assert decoded(Content("x.jp2", declared)).shape == (3, 9, 7)
    for content in (stream, unspecified):
        np.testing.assert_array_equal(decoded(Content("x.jp2", content)), np.moveaxis(array, -1, 0))
    Image.fromarray(array[..., :3]).save(file := io.BytesIO(), "JPEG2000")
    np.testing.assert_array_equal(decoded(Content("x.jp2", file.getvalue())), np.moveaxis(array[..., :3], -1, 0))


def test_photos_with_16_bits_are_refused_by_rgb_tasks_in_a_sentence(tmp_path):
    reasons = {
        1: r"needs image tensors of shape \(B, 3, H, W\), got \(4, 1, 16, 16\)",
        3: r"takes RGB in \[0, 1\], got values",
    }
    for count, color in ((1, 0), (3, 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(4):
            (folder / f"{i}.png").write_bytes(png(values(np.uint16, 16, 16, count), color).data)
        store = sp.ImageStore.from_folder(folder, image_size=16, labeled=False, cache=tmp_path / "cache")
        assert (store.num_channels, store.images().max() > 60000) == (count, True)
        config = sp.FitConfig(out=tmp_path / f"run{count}", epochs=1, batch_size=4, device="cpu")
        with pytest.raises(sp.PretextError, match=reasons[count]):
            sp.fit(sp.Colorization("autoencoder", losses={"l2": 1.0}), store, config)
