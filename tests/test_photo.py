import io

import numpy as np
import pytest
from PIL import Image, features

from ssl_pretext.data import photo
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.photo import Content, draft, open_photo
from ssl_pretext.data.samples import load_photo
from ssl_pretext.data.sources import Reading
from ssl_pretext.errors import MissingDependencyError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
SMOOTH = load_photo("astronaut")[:256, :256]


def saved(image, form, **options):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this version of Pillow does not write {form}")
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(name, content, size=None):
    image = decoder(Reading(image_size=size))(Content(name, content))
    assert not isinstance(image, str), image
    return image.pixels


@pytest.mark.parametrize(
    ("suffix", "form", "loss"),
    [
        ("avif", "AVIF", 12), ("bmp", "BMP", 0), ("gif", "GIF", 60), ("jfif", "JPEG", 12), ("jp2", "JPEG2000", 0),
        ("j2k", "JPEG2000", 0), ("pbm", "PPM", 0), ("ppm", "PPM", 0), ("pgm", "PPM", 0), ("qoi", "QOI", 0),
        ("tga", "TGA", 0), ("TGA", "TGA", 0), ("webp", "WEBP", 12),
    ],
)  # fmt: skip
def test_formats_that_pillow_reads_safely_are_photos(suffix, form, loss):
    image = Image.fromarray(SMOOTH).convert({"pgm": "L", "pbm": "1"}.get(suffix, "RGB"))
    options = {"quality": 95} if form in ("AVIF", "JPEG", "WEBP") else {}
    pixels = decoded(f"x.{suffix}", saved(image, form, **options)).astype(int)
    difference = np.abs(pixels - np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    assert difference.max() <= 3 * loss
    assert difference.mean() <= loss / 6


def test_formats_without_a_signature_are_opened_by_their_suffix_alone():
    for name in ("x.jpg", "x.npz", "tga"):
        assert "UnidentifiedImageError" in decoder(Reading())(Content(name, saved(Image.fromarray(COLORS), "TGA")))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"  # Pillow would call Ghostscript
    assert "UnidentifiedImageError" in decoder(Reading())(Content("x.eps", drawing))


def test_the_fourth_byte_of_a_tga_file_is_alpha_only_if_its_header_says_so():
    content = bytearray(saved(Image.fromarray(np.dstack([COLORS, np.zeros_like(COLORS[..., 0])])), "TGA"))
    assert content[17] & 15 == 8
    assert (decoded("x.tga", bytes(content)) == 255).all()
    content[17] &= 0xF0
    np.testing.assert_array_equal(decoded("x.tga", bytes(content)), COLORS.transpose(2, 0, 1))


def test_a_format_that_the_installed_pillow_lacks_is_named(monkeypatch):
    monkeypatch.setattr(features, "get_supported", lambda: ["jpg"])
    monkeypatch.setattr(photo, "_formats", lambda suffix: ("JPEG",))
    content = Content("x.avif", b"\0\0\0\x1cftypavif")
    match = r"x\.avif needs a Pillow with avif: pip install --upgrade pillow"
    with pytest.raises(MissingDependencyError, match=match), open_photo(content):
        pass


def transparent(kind):
    """An image with alpha in one of the ways in which files state it, and its colors and alpha in float64."""
    alpha = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
    alpha[0] = 0
    if kind == "RGBA":
        return Image.fromarray(np.dstack([COLORS, alpha])), {}, COLORS, alpha
    if kind == "LA":
        return Image.fromarray(np.dstack([COLORS[..., 0], alpha])), {}, COLORS[..., :1].repeat(3, -1), alpha
    if kind == "palette":
        image = Image.fromarray(COLORS).quantize(16)
        index = np.asarray(image)
        opacity = np.linspace(0, 255, 16).astype(np.uint8)
        return image, {"transparency": bytes(opacity)}, np.asarray(image.convert("RGB")), opacity[index]
    hidden = COLORS[0, 0]
    if kind == "gray key":
        gray = COLORS[..., 0]
        alpha = np.where(gray == hidden[0], 0, 255)
        return Image.fromarray(gray), {"transparency": int(hidden[0])}, gray[..., None].repeat(3, -1), alpha
    alpha = np.where((hidden == COLORS).all(-1), 0, 255)
    return Image.fromarray(COLORS), {"transparency": tuple(map(int, hidden))}, COLORS, alpha


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *(("PNG", kind) for kind in ("RGBA", "LA", "palette", "gray key", "color key")),
        ("WEBP", "RGBA"), ("TIFF", "RGBA"), ("TIFF", "LA"), ("JPEG2000", "RGBA"), ("TGA", "RGBA"), ("QOI", "RGBA"),
    ],
)  # fmt: skip
def test_transparent_pixels_are_composited_on_white(form, kind):
    image, options, colors, alpha = transparent(kind)
    if form == "WEBP":
        options = {"lossless": True, "exact": True}
    opacity = np.asarray(alpha, np.float64)[..., None] / 255
    expected = (opacity * colors + (1 - opacity) * 255).transpose(2, 0, 1)
    pixels = decoded(f"x.{form.lower()}", saved(image, form, **options))
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[:, np.asarray(alpha) == 0] == 255).all()


def test_the_first_frame_of_an_animation_is_read():
    for form in ("GIF", "PNG", "WEBP"):
        frames = [Image.fromarray(COLORS), Image.fromarray(255 - COLORS)]
        lossless = {"lossless": True} if form == "WEBP" else {}
        several = saved(frames[0], form, save_all=True, append_images=frames[1:], **lossless)
        np.testing.assert_array_equal(decoded("x", several), decoded("x", saved(frames[0], form, **lossless)))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["retina", "astronaut", "stereo_motorcycle"])
def test_large_jpeg_files_are_decoded_at_a_reduced_size(name, turn, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = turn
    content = saved(Image.fromarray(load_photo(name)), "JPEG", quality=92, exif=exif)
    exact = decoded("x.jpg", content, 24).astype(int)
    monkeypatch.setattr(photo, "LARGE", 100_000)
    reduced = decoded("x.jpg", content, 24).astype(int)
    difference = np.abs(reduced - exact)
    assert 0 < difference.max() <= 5
    assert difference.mean() <= 0.3
    with open_photo(Content("x.jpg", content)) as image:
        full = image.size
        left, top, right, bottom = draft(image, 24)
        assert min(image.size) >= 8 * 24
        assert (left, top) == (0, 0)
        scale = full[0] / right
        assert (scale in (2, 4, 8), full[1] / bottom) == (True, scale)
    np.testing.assert_array_equal(decoded("x.jpg", content, None), np.stack(decoded("x.jpg", content)))


def test_other_files_are_decoded_at_their_full_size(monkeypatch):
    content = Content("x.jpg", saved(Image.fromarray(load_photo("retina")), "JPEG"))
    with open_photo(content) as image:
        assert draft(image, 24) is None, "it is not large"
    monkeypatch.setattr(photo, "LARGE", 100_000)
    with open_photo(content) as image:
        assert draft(image, 400) is None, "no reduced size is large enough"
    with open_photo(Content("x.png", saved(Image.fromarray(SMOOTH), "PNG"))) as image:
        assert draft(image, 1) is None, "it is not a JPEG file"
