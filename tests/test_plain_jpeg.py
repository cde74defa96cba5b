"""The fast decoder of JPEG files: its pixels are those of Pillow, and it leaves to Pillow what it should not decide."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import ssl_pretext as sp
from ssl_pretext.data import plain_jpeg
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.opening import chw
from ssl_pretext.data.photo import Content
from ssl_pretext.data.plain_jpeg import decode_plain_jpeg
from ssl_pretext.data.resizing import resize_and_crop
from ssl_pretext.data.sources import Reading

SHAPES = [(64, 64), (37, 53), (8, 3), (1, 1)]
OPTIONS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "coarse": {"quality": 5},
    "comment": {"comment": b"a comment"},
}


def photo(shape: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    """A smooth picture with noise, as photographs have."""
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(colors).resize(shape[::-1], Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + generator.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(params=["_by_simplejpeg", "_by_torchvision"], autouse=True)
def one_decoder(request, monkeypatch):
    """Each test runs with each decoder."""
    monkeypatch.setattr(plain_jpeg, "DECODERS", [getattr(plain_jpeg, request.param)])
    plain_jpeg._decoder.cache_clear()
    yield
    plain_jpeg._decoder.cache_clear()


def decode(data: bytes) -> np.ndarray | None:
    return decode_plain_jpeg(Content("photo.jpg", data))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(name, shape, mode):
    data = jpeg(photo(shape, mode), **OPTIONS[name])
    found = decode(data)
    assert found is not None
    np.testing.assert_array_equal(found, by_pillow(data))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


LEFT_TO_PILLOW = {
    "EXIF": jpeg(photo(), exif=exif(6)),
    "XMP": jpeg(photo(), xmp=b"<x:xmpmeta/>"),
    "profile": jpeg(photo(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    "CMYK": jpeg(photo(mode="CMYK")),
    "colors that are not YCbCr": jpeg(photo(), keep_rgb=True),
    "truncated": jpeg(photo())[:-200],
    "only a header": jpeg(photo())[:300] + b"\xff\xd9",
    "something behind the end": jpeg(photo()) + b"more",
    "PNG": b"\x89PNG" + jpeg(photo()),
    "empty": b"",
}


@pytest.mark.parametrize("kind", LEFT_TO_PILLOW)
def test_everything_else_is_left_to_pillow(kind):
    assert decode(LEFT_TO_PILLOW[kind]) is None


def test_very_large_photos_are_left_to_pillow_which_decodes_them_at_a_reduced_size(monkeypatch):
    data = jpeg(photo())
    monkeypatch.setattr(plain_jpeg, "LARGE", 64 * 64 - 1)
    assert decode(data) is None


def test_no_damaged_file_gives_pixels_that_pillow_would_not_give():
    generator, accepted = np.random.default_rng(0), 0
    for number in range(600):
        options = [*OPTIONS.values()][number % len(OPTIONS)]
        data = bytearray(jpeg(photo((24, 40)), **options))
        for _ in range(generator.integers(1, 4)):
            data[generator.integers(2, len(data) - 2)] = generator.integers(256)
        if number % 3 == 0:
            data = data[: generator.integers(len(data))] + b"\xff\xd9"
        if (found := decode(bytes(data))) is not None:
            accepted += 1
            np.testing.assert_array_equal(found, by_pillow(bytes(data)))
    assert accepted > 100  # damage of single pixels is not noticed by either


def test_a_pipe_is_not_opened(tmp_path):
    pipe = tmp_path / "photo.jpg"
    os.mkfifo(pipe)
    assert decode_plain_jpeg(pipe) is None


@pytest.mark.parametrize("size", [None, 64, 40])
def test_a_decoder_gives_the_same_with_and_without(size, tmp_path, monkeypatch):
    path = tmp_path / "photo.JPG"
    path.write_bytes(jpeg(photo((64, 80))))
    read = decoder(Reading(image_size=size))
    fast = read(path)
    monkeypatch.setattr(plain_jpeg, "SUFFIXES", ())
    slow = read(path)
    assert isinstance(fast, Decoded)
    assert isinstance(slow, Decoded)
    np.testing.assert_array_equal(fast.pixels, slow.pixels)
    assert fast[1:] == slow[1:]
    image = Image.open(path)
    np.testing.assert_array_equal(fast.pixels, chw(image if size is None else resize_and_crop(image, size)))


def test_a_decoder_with_other_pixels_is_not_used_but_the_next_one(monkeypatch):
    data, right = jpeg(photo()), plain_jpeg.DECODERS[0]
    wrong = [lambda data: by_pillow(bytes(data)) // 2]
    monkeypatch.setattr(plain_jpeg, "DECODERS", wrong)
    assert decode(data) is None
    plain_jpeg._decoder.cache_clear()
    monkeypatch.setattr(plain_jpeg, "DECODERS", [*wrong, right])
    np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_without_simplejpeg_torchvision_decodes(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    plain_jpeg._decoder.cache_clear()
    assert plain_jpeg._decoder() is plain_jpeg._by_torchvision


def test_a_folder_of_photos_is_stored_with_the_pixels_of_pillow(tmp_path: Path):
    for number, options in enumerate(OPTIONS.values()):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(photo(), **options))
    store = sp.ImageStore.from_folder(tmp_path, image_size=64, labeled=False, cache=tmp_path / "cache")
    for pixels, name in zip(store.images(range(len(store))), store.names, strict=True):
        np.testing.assert_array_equal(pixels.numpy(), by_pillow((tmp_path / name).read_bytes()).transpose(2, 0, 1))
