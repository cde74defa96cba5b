import numpy as np
import pytest
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.data.decode import decoder
from ssl_pretext.data.sources import Reading, Source, Window
from ssl_pretext.errors import ArgumentError

VALUES = np.arange(2 * 6 * 8, dtype=np.uint16).reshape(2, 6, 8)


def saved(path, values):
    np.save(path, values)
    return path


def test_the_channels_of_several_files_are_joined_in_their_order(tmp_path):
    files = tuple(saved(tmp_path / f"{name}.npy", VALUES[i]) for i, name in enumerate("ab"))
    for order in (files, files[::-1]):
        image = decoder(Reading())(Source(order))
        expected = VALUES if order is files else VALUES[::-1]
        assert image.kind == "uint16"
        assert np.array_equal(image.pixels, expected.astype(np.float32))


def test_a_photo_joined_with_an_array_keeps_its_values(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    depth = saved(tmp_path / "depth.npy", VALUES[0])
    image = decoder(Reading())(Source((tmp_path / "photo.png", depth)))
    assert np.array_equal(image.pixels[:3], photo.transpose(2, 0, 1).astype(np.float32))
    assert np.array_equal(image.pixels[3], VALUES[0].astype(np.float32))


def test_a_window_is_cut_before_the_image_is_resized(tmp_path):
    file = saved(tmp_path / "a.npy", VALUES)
    image = decoder(Reading())(Source((file,), Window(1, 2, 3, 4)))
    assert np.array_equal(image.pixels, VALUES[:, 1:4, 2:6].astype(np.float32))
    assert decoder(Reading(image_size=2))(Source((file,), Window(1, 2, 3, 4))).pixels.shape == (2, 2, 2)


def test_files_of_different_sizes_are_a_reason_and_no_error(tmp_path):
    files = (saved(tmp_path / "a.npy", VALUES[0]), saved(tmp_path / "b.npy", VALUES[0, :4]))
    assert "different sizes: [(4, 8), (6, 8)]" in decoder(Reading())(Source(files))


def test_a_subset_keeps_what_is_known_of_its_images():
    images = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    numbers = {"height": np.array([1.0, 2.0, 3.0])}
    store = sp.ImageStore(
        images, [0, 0, 0], ["all"], list("abc"), targets=numbers, groups=list("xyx"), channel_names=["BF"]
    )
    part = store.subset([2, 0])
    assert part.targets["height"].tolist() == [3.0, 1.0]
    assert (part.groups, part.channel_names) == (["x", "x"], ["BF"])
    masked = sp.ImageStore(images, [0, 0, 0], ["all"], list("abc"), targets=np.arange(3 * 16).reshape(3, 4, 4))
    assert np.array_equal(masked.subset([1]).targets, np.arange(16, 32).reshape(1, 4, 4))


def test_a_store_with_numbers_is_evaluated_on_them():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (60, 3, 4, 4), dtype=np.uint8)
    numbers = {"brightness": images.mean(axis=(1, 2, 3))}
    store = sp.ImageStore(images, [0] * 60, ["all"], list(map(str, range(60))), targets=numbers)
    pixels = {"pixels": sp.representations.Pixels("rgb")}
    options = {"target": "numbers", "seeds": 2, "controls": False}
    report = sp.evaluate(pixels, store.subset(range(40)), store.subset(range(40, 60)), **options)
    pairs = [(part, part.targets) for part in (store.subset(range(40)), store.subset(range(40, 60)))]
    assert report.values("pixels") == sp.evaluate(pixels, *pairs, **options).values("pixels")
    with pytest.raises(ArgumentError, match="only classes"):
        sp.evaluate(pixels, sp.ImageStore.from_arrays(images, [0] * 60), store, **options)
