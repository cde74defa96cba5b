"""Colors with profiles: each expected value is from Pillow's ImageCms, or from the primaries in float64."""

import importlib.resources
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import lab2rgb

from ssl_pretext.data.decode import decode_in_memory, decoder
from ssl_pretext.data.photo import Content
from ssl_pretext.data.samples import load_photo
from ssl_pretext.data.sources import Reading

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
COLORS[0, 0] = 200, 60, 60
COLORS[0, 1:] = np.arange(15)[:, None]  # dark grays, which show a wrong tone curve
P3 = ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))  # white, red, green and blue
SRGB = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def xyz(xy):
    return np.array([xy[0] / xy[1], 1, (1 - xy[0] - xy[1]) / xy[1]])


def xyz_from_rgb(white, *primaries):
    columns = np.stack([xyz(xy) for xy in primaries], 1)
    return columns * np.linalg.solve(columns, xyz(white))


def linear_of_srgb(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def srgb_of(pixels, primaries, linear):
    """The levels in sRGB of pixels with other primaries (white D65) and a tone curve, in float64."""
    light = linear(pixels / 255) @ (np.linalg.inv(xyz_from_rgb(*SRGB)) @ xyz_from_rgb(*primaries)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def profile(space, pcs, tags):
    """An ICC profile of version 2 from its tags."""
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4x", start + len(body)) + b"\2\x40\0\0" + (b"mntr" if space != b"CMYK" else b"prtr")
    head = (head + space + pcs + bytes(12) + b"acsp").ljust(68, b"\0") + b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    return head.ljust(128, b"\0") + table + body


def curve(values):
    """A curve of 1,024 points."""
    levels = np.rint(65535 * values(np.linspace(0, 1, 1024))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + levels.tobytes()


def matrix_profile(primaries, linear):
    """A profile of a display; colors are adapted from D65 to D50 by the matrix that sRGB profiles are made with."""
    bradford = [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ]
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)}
    for name, column in zip((b"r", b"g", b"b"), (bradford @ xyz_from_rgb(*primaries)).T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *np.rint(65536 * column).astype(int))
        tags[name + b"TRC"] = curve(linear)
    return profile(b"RGB ", b"XYZ ", tags)


def ink_profile():
    """A profile of CMYK with dull inks: a table of two points per ink, from ink to Lab."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lab = np.array([95, 0, 5]) + inks @ np.array([[-35, -25, -30], [-40, 50, -5], [-8, -3, 60], [-70, 0, -4]])
    lab = np.stack([lab[:, 0].clip(0, 100) * 2.55, lab[:, 1].clip(-128, 127) + 128, lab[:, 2].clip(-128, 127) + 128], 1)
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + struct.pack(">4B9i", 4, 3, 2, 0, 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    return profile(b"CMYK", b"Lab ", {b"A2B0": table + ramp * 4 + np.rint(lab).astype(np.uint8).tobytes() + ramp * 3})


def by_image_cms(image, embedded):
    """The pixels in sRGB that Pillow's ImageCms computes."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(embedded)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, srgb, renderingIntent=1, outputMode="RGB", flags=0x2000)
    return np.asarray(converted).transpose(2, 0, 1)


def saved(image, form="PNG", **options):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this version of Pillow does not write {form}")
    file = io.BytesIO()
    image.save(file, form, **options)
    return Content(f"x.{form.lower()}", file.getvalue())


def decoded(content):
    image = decoder(Reading())(content)
    assert not isinstance(image, str), image
    return image.pixels


def with_chunks(content, *chunks):
    """A PNG file with chunks added after its header."""
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return Content(content.name, content.data[:33] + added + content.data[33:])


def gama(gamma):
    return b"gAMA", struct.pack(">I", round(gamma * 100000))


def chrm(primaries):
    return b"cHRM", struct.pack(">8I", *(round(number * 100000) for xy in primaries for number in xy))


@pytest.mark.parametrize(
    ("primaries", "linear"),
    [(P3, linear_of_srgb), (P3, lambda v: v**2.2), (SRGB, lambda v: v), (SRGB, lambda v: v**1.8)],
    ids=["Display P3", "P3 with gamma 2.2", "linear", "gamma 1.8"],
)
def test_embedded_profiles_are_converted_to_srgb(primaries, linear):
    embedded = matrix_profile(primaries, linear)
    image = Image.fromarray(COLORS)
    pixels = decoded(saved(image, icc_profile=embedded))
    np.testing.assert_array_equal(pixels, by_image_cms(image, embedded))
    exact = srgb_of(COLORS.astype(np.float64), primaries, linear).transpose(2, 0, 1)
    assert np.abs(pixels - exact).max() < 1.6  # 0.5 of rounding, and the points of the curve
    if primaries is P3 and linear is linear_of_srgb:
        assert pixels[:, 0, 0].tolist() == [217, 42, 52]
    np.testing.assert_array_equal(
        decode_in_memory(Image.open(io.BytesIO(saved(image, icc_profile=embedded).data))).pixels, pixels
    )


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "WEBP", "AVIF"])
def test_profiles_of_other_formats_are_converted(form):
    embedded = matrix_profile(P3, linear_of_srgb)
    options = {"icc_profile": embedded} | (
        {"lossless": True} if form == "WEBP" else {"quality": 90} if form != "TIFF" else {}
    )
    content = saved(Image.fromarray(COLORS), form, **options)
    with Image.open(io.BytesIO(content.data)) as image:
        expected = by_image_cms(image.convert("RGB"), embedded)
    np.testing.assert_array_equal(decoded(content), expected)


def test_profiles_of_gray_palette_and_ink_are_converted():
    gray = Image.fromarray(COLORS[..., 0])
    embedded = profile(b"GRAY", b"XYZ ", {b"kTRC": curve(lambda v: v**1.4), b"wtpt": b"XYZ \0\0\0\0" + bytes(12)})
    pixels = decoded(saved(gray, icc_profile=embedded))
    np.testing.assert_array_equal(pixels, by_image_cms(gray, embedded))
    exact = srgb_of(COLORS[..., :1].repeat(3, -1).astype(np.float64), SRGB, lambda v: v**1.4).transpose(2, 0, 1)
    assert np.abs(pixels - exact).max() < 1.6
    of_color = matrix_profile(SRGB, lambda v: v**1.4)  # a gray image in the tone curve of a color profile
    np.testing.assert_array_equal(
        decoded(saved(gray, icc_profile=of_color)), by_image_cms(gray.convert("RGB"), of_color)
    )
    palette = Image.fromarray(COLORS).quantize(64)
    p3 = matrix_profile(P3, linear_of_srgb)
    np.testing.assert_array_equal(decoded(saved(palette, icc_profile=p3)), by_image_cms(palette.convert("RGB"), p3))
    ink = Image.fromarray(RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK")
    pixels = decoded(saved(ink, "TIFF", icc_profile=ink_profile()))
    np.testing.assert_array_equal(pixels, by_image_cms(ink, ink_profile()))
    assert np.abs(pixels - np.asarray(ink.convert("RGB")).transpose(2, 0, 1).astype(int)).mean() > 10


def test_lab_images_are_converted():
    lab = np.stack([RNG.integers(0, 256, (8, 8)), *RNG.integers(-20, 20, (2, 8, 8))], -1)
    image = Image.fromarray((lab % 256).astype(np.uint8), "LAB")
    exact = lab2rgb(lab / [2.55, 1, 1], illuminant="D50")
    for options in ({}, {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()}):
        pixels = decoded(saved(image, "TIFF", **options))
        # scikit-image neither adapts D50 to D65 nor compensates the black point, so only grays agree well.
        assert np.abs(pixels.mean(0) - 255 * exact.mean(-1)).mean() < 10
    gray = Image.fromarray(np.stack([np.arange(256), np.zeros(256), np.zeros(256)], -1)[None].astype(np.uint8), "LAB")
    pixels = decoded(saved(gray, "TIFF"))
    expected = 255 * lab2rgb(np.stack([np.linspace(0, 100, 256), np.zeros(256), np.zeros(256)], -1))
    assert np.abs(pixels[:, 0].T - expected).max() < 2


@pytest.mark.parametrize("gamma", [1.0, 0.25, 1 / 1.4])
def test_the_gamma_of_a_png_is_applied(gamma):
    content = with_chunks(saved(Image.fromarray(COLORS)), gama(gamma))
    exact = srgb_of(COLORS.astype(np.float64), SRGB, lambda v: v ** (1 / gamma)).transpose(2, 0, 1)
    assert np.abs(decoded(content) - exact).max() < 1.1
    gray = with_chunks(saved(Image.fromarray(COLORS[..., 0])), gama(gamma))
    exact = srgb_of(COLORS[..., :1].repeat(3, -1).astype(np.float64), SRGB, lambda v: v ** (1 / gamma))
    assert np.abs(decoded(gray) - exact.transpose(2, 0, 1)).max() < 1.1


def test_the_primaries_of_a_png_are_applied():
    plain = saved(Image.fromarray(COLORS))
    for chunks, linear in (((gama(1 / 2.2), chrm(P3)), lambda v: v**2.2), ((chrm(P3),), linear_of_srgb)):
        exact = srgb_of(COLORS.astype(np.float64), P3, linear).transpose(2, 0, 1)
        assert np.abs(decoded(with_chunks(plain, *chunks)) - exact).max() < 1.6
    assert decoded(with_chunks(plain, chrm(P3)))[:, 0, 0].tolist() == [217, 42, 52]


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(1 / 2.2)],
        [gama(0.45), chrm(SRGB)],
        [gama(1.0), chrm(P3), (b"sRGB", b"\0")],
        [gama(0)],
        [chrm([(0, 0)] * 4)],
        [chrm([(0.3, 0.3)] * 4), gama(1.0)],
        [(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))],
    ],
    ids=["2.2", "almost sRGB", "sRGB too", "gamma 0", "no colors", "one color", "no profile"],
)
def test_srgb_and_invalid_descriptions_change_nothing(chunks):
    content = with_chunks(saved(Image.fromarray(COLORS)), *chunks)
    np.testing.assert_array_equal(decoded(content), COLORS.transpose(2, 0, 1))


def test_an_embedded_profile_takes_precedence_over_gamma():
    embedded = matrix_profile(P3, linear_of_srgb)
    content = with_chunks(saved(Image.fromarray(COLORS), icc_profile=embedded), gama(1.0))
    np.testing.assert_array_equal(decoded(content), by_image_cms(Image.fromarray(COLORS), embedded))


def test_profiles_that_are_srgb_or_damaged_change_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    p3 = matrix_profile(P3, linear_of_srgb)
    for embedded in (srgb, matrix_profile(SRGB, linear_of_srgb), p3[:200], b"\0" * 500, p3.replace(b"acsp", b"????")):
        content = saved(Image.fromarray(COLORS), icc_profile=embedded)
        np.testing.assert_array_equal(decoded(content), COLORS.transpose(2, 0, 1))


def test_the_profiles_of_real_photos_are_read():
    """scikit-image's rocket is in Adobe RGB; most of the other photos embed the sRGB profile of the IEC."""
    for name, kind in (("rocket.jpg", "Adobe RGB"), ("chelsea.png", "sRGB IEC")):
        path = Path(str(importlib.resources.files("skimage.data"))) / name
        with Image.open(path) as image:
            embedded = image.info["icc_profile"]
            assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(embedded))).startswith(kind)
            plain = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            expected = by_image_cms(image, embedded) if kind == "Adobe RGB" else plain
        pixels = decoder(Reading())(path).pixels
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(load_photo(path.stem), pixels.transpose(1, 2, 0))
        assert (np.abs(pixels - plain.astype(int)).mean() > 5) == (kind == "Adobe RGB")


def test_colors_are_converted_before_they_are_composited():
    embedded, alpha = matrix_profile(P3, linear_of_srgb), RNG.integers(0, 256, (16, 16), dtype=np.uint8)
    opacity = alpha / 255
    exact = opacity * by_image_cms(Image.fromarray(COLORS), embedded) + (1 - opacity) * 255
    image = Image.fromarray(np.dstack([COLORS, alpha]))
    assert np.abs(decoded(saved(image, icc_profile=embedded)) - exact).max() <= 1
