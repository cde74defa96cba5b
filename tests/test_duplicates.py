"""Images that repeat others: what counts as a repetition, and what reports say about it."""

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ssl_pretext as sp
from ssl_pretext.data import duplicates
from ssl_pretext.data.duplicates import KnownImages, Repeats, _nearest, difference_vectors, find_repeats
from ssl_pretext.representations import Pixels

PHOTOS = sp.sample_photos("train", image_size=64).subset(range(0, 1500, 25))


def store(images: Tensor, names: list[str] | None = None) -> sp.ImageStore:
    return sp.ImageStore.from_arrays(images, names=names)


def changed(images: Tensor, change) -> Tensor:
    """Applies a function to the photographs, and converts the results to tensors."""
    photos = [change(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in images]
    return torch.stack([torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in photos])


def as_jpeg(photo: Image.Image) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=75)
    return Image.open(file)


COPIES = {
    "compressed": as_jpeg,
    "resized": lambda photo: photo.resize((48, 48)).resize((64, 64)),
    "cropped": lambda photo: photo.crop((1, 1, 63, 63)).resize((64, 64)),
    "brightened": lambda photo: Image.eval(photo, lambda value: min(255, round(value * 1.1))),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_photographs_are_similar_and_others_are_not(copy):
    copies = changed(PHOTOS.images(), COPIES[copy])
    vectors, others = difference_vectors(PHOTOS), difference_vectors(store(copies))
    cosines = vectors @ others.T
    clear = vectors.norm(dim=1) > 0
    assert (cosines.diagonal()[clear] >= 0.9).double().mean() >= 0.95
    photo = PHOTOS.labels[:, None] == PHOTOS.labels
    assert not (cosines[~photo] >= 0.9).any()
    found = find_repeats(store(copies), PHOTOS)
    assert found.similar + found.identical >= 0.95 * clear.sum()


def test_vectors_follow_their_definition():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 24), dtype=np.uint8)
    images[0] = 128  # no contrast
    small = images.mean(axis=1).reshape(5, 8, 2, 8, 3).mean(axis=(2, 4))
    down, right = small[:, 1:] - small[:, :-1], small[:, :, 1:] - small[:, :, :-1]
    expected = np.concatenate([down.reshape(5, -1), right.reshape(5, -1)], axis=1)
    expected[1:] /= np.linalg.norm(expected[1:], axis=1, keepdims=True)
    found = difference_vectors(store(torch.from_numpy(images)))
    assert not found[0].any()
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-5)


def test_vectors_of_bands_follow_their_definition():
    """Each channel is divided by its standard deviation, and the mean of the differences is subtracted."""
    images = np.random.default_rng(0).random((12, 2, 16, 24)) * np.array([1.0, 1000.0])[:, None, None]
    images[3] = images[2]  # which is still similar
    small = images.reshape(12, 2, 8, 2, 8, 3).mean(axis=(3, 5))
    small /= small.transpose(1, 0, 2, 3).reshape(2, -1).std(axis=1, ddof=1)[:, None, None]
    down, right = small[:, :, 1:] - small[:, :, :-1], small[..., 1:] - small[..., :-1]
    expected = np.concatenate([down.reshape(12, -1), right.reshape(12, -1)], axis=1)
    expected -= expected.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = difference_vectors(store(torch.from_numpy(images)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    missing = torch.from_numpy(images).float()
    missing[1] = torch.nan
    assert not difference_vectors(store(missing)).isnan().any()


def test_different_cells_in_the_middle_of_a_plain_background_are_no_repeats():
    """The mean channel of all of them is a bright disk, so that 99% of them once counted as repeats."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[-16:16, -16:16]
    cells = np.stack([
        [
            900.0 - 300 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / width),
            3000 * np.exp(-(rows**2 + columns**2) / (60 + 10 * draw.random())),
        ]
        for x, y, width in zip(*draw.normal(0, 3, (2, 200)), draw.uniform(40, 120, 200), strict=True)
    ]) + draw.normal(0, 20, (200, 2, 32, 32))  # fmt: skip
    known, asked = store(torch.from_numpy(cells[:150])), torch.from_numpy(cells[150:])
    assert find_repeats(store(asked), known).similar <= 5
    copies = torch.from_numpy(cells[:50]).float() * 1.02
    assert find_repeats(store(copies), known).similar == 50


def test_flat_images_repeat_each_other_only_if_they_are_identical():
    images = PHOTOS.images(range(30))
    noise = torch.randint(0, 2, (20, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flat = torch.cat([images, noise + 100, torch.full((2, 3, 64, 64), 7, dtype=torch.uint8)])
    found = find_repeats(store(flat))
    assert found == Repeats(1, find_repeats(store(images)).similar, [("51", "50"), *found.examples[1:]])
    assert find_repeats(store(torch.zeros(3, 1, 1, 1))) == Repeats(2, 0, [("1", "0"), ("2", "0")])


def test_identical_and_similar_images_are_told_apart_and_named():
    images = PHOTOS.images([0, 12, 30, 45])
    names = ["a", "b", "c", "d"]
    test = torch.cat([images[:1], images[2:] - images[2:] // 20, changed(images[3:], as_jpeg)])
    found = find_repeats(store(test, ["one", "two", "three", "four"]), store(images, names))
    assert found == Repeats(1, 3, [("one", "a"), ("two", "c")])
    assert find_repeats(store(test, ["one", "two", "three", "four"])) == Repeats(0, 1, [("four", "three")])
    known = [KnownImages.of(store(images[:1], names[:1])), KnownImages.of(store(images[1:], names[1:]))]
    by_hashes = find_repeats(store(test, ["one", "two", "three", "four"]), known)
    assert (by_hashes.identical, by_hashes.examples) == (1, found.examples)
    assert 2 <= by_hashes.similar <= 3


@pytest.mark.parametrize("copy", ["compressed", "resized"])
def test_copies_of_photographs_are_found_by_their_hashes(copy):
    known, clear = KnownImages.of(PHOTOS), difference_vectors(PHOTOS).norm(dim=1) > 0
    assert (known.hashes.shape, known.hashes.dtype) == ((60, 8), torch.uint8)
    copies = store(changed(PHOTOS.images(), COPIES[copy]))
    found = known.nearest(copies)
    photo_of = dict(zip(PHOTOS.names, PHOTOS.labels.tolist(), strict=True))
    named = [(name, own) for name, own in zip(found, PHOTOS.names, strict=True) if name is not None]
    assert len(named) >= 0.8 * clear.sum()
    assert all(photo_of[name] == photo_of[own] for name, own in named)
    others = sp.sample_photos("test", image_size=64)
    assert sum(name is not None for name in known.nearest(others)) <= 0.005 * len(others)


def test_hashes_differ_in_as_many_bits_as_the_angle_of_the_vectors_says():
    """Of random directions, the fraction angle / π separates two vectors (Goemans and Williamson 1995)."""
    draw = np.random.default_rng(0)
    one = draw.standard_normal((400, 2, 16, 16))
    for weight in (0.1, 0.5, 1.0):
        both = store(torch.from_numpy(np.concatenate([one, one + weight * draw.standard_normal(one.shape)])))
        vectors = difference_vectors(both)
        bits = np.unpackbits(KnownImages.of(both).hashes.numpy(), axis=1)
        differing = (bits[:400] != bits[400:]).mean()
        angles = torch.arccos((vectors[:400] * vectors[400:]).sum(dim=1).clamp(-1, 1))
        assert differing == pytest.approx(float(angles.mean()) / np.pi, abs=0.02)


@pytest.mark.parametrize("channels", [3, 13])
def test_hashes_are_computed_in_parts_by_statistics_of_a_part_of_the_images(channels, monkeypatch):
    images = store(torch.rand(40, channels, 16, 16, generator=torch.Generator().manual_seed(0)))
    at_once = KnownImages.of(images)
    monkeypatch.setattr(duplicates, "MOST_VALUES", 7 * channels * 16 * 16)
    in_parts = KnownImages.of(images)
    assert torch.equal(in_parts.hashes, at_once.hashes)
    monkeypatch.setattr(duplicates, "MEASURED", 14)
    measured = KnownImages.of(images.subset(range(0, 40, 3)))  # the same 14 images
    few = KnownImages.of(images)
    assert torch.equal(few.scale, measured.scale)
    assert torch.equal(few.mean, measured.mean)
    assert torch.equal(few.hashes[::3], measured.hashes)


@pytest.mark.filterwarnings("ignore:std")  # of no values
def test_no_image_repeats_nothing():
    nothing = PHOTOS.subset([])
    assert find_repeats(nothing, [KnownImages.of(PHOTOS)]) == find_repeats(nothing, PHOTOS) == Repeats(0, 0, [])


def test_hashes_of_other_channels_are_not_compared():
    bands = store(torch.rand(12, 4, 16, 16))
    known = [KnownImages.of(PHOTOS), KnownImages.of(bands)]
    assert find_repeats(bands.subset([3]), known) == Repeats(1, 0, [("3", "3")])
    assert find_repeats(store(PHOTOS.images([3]) / 255), known).similar == 1
    assert find_repeats(store(torch.zeros(1, 3, 16, 16)), known) == Repeats(0, 0, [])


def test_the_nearest_vectors_are_those_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.nn.functional.normalize(torch.randn(n, 112, generator=generator)) for n in (1500, 2600))
    expected = (one @ other.T).max(dim=1)
    cosines, places = zip(*_nearest(one, other, earlier=False), strict=True)
    assert torch.allclose(torch.tensor(cosines), expected.values)
    assert list(places) == expected.indices.tolist()
    expected = (one @ one.T).tril(-1).masked_fill(torch.ones(1500, 1500).triu().bool(), -1).max(dim=1)
    cosines, places = zip(*_nearest(one, one, earlier=True), strict=True)
    assert torch.allclose(torch.tensor(cosines), expected.values, atol=1e-6)
    assert list(places)[1:] == expected.indices.tolist()[1:]


def test_many_images_take_seconds():
    one, other = torch.nn.functional.normalize(torch.randn(12_000, 112)).split([2_000, 10_000])
    began = time.perf_counter()
    _nearest(one, other, earlier=False)
    assert time.perf_counter() - began < 2  # 0.1 s on an idle machine; 100,000 × 10,000 take 50 times as long


def test_reports_say_how_many_test_images_repeat_others():
    images = PHOTOS.images()
    labels = [i % 2 for i in range(len(images))]
    train, others = PHOTOS.subset(range(0, 60, 2)), PHOTOS.subset(range(1, 60, 2))
    copies = store(changed(train.images(range(5)), as_jpeg), [f"copy {i}" for i in range(5)])
    options = {"probe": "knn", "seeds": 1, "controls": False}
    report = sp.evaluate(
        {"pixels": Pixels("rgb")}, (train, labels[:30]), (copies, [0, 1, 0, 1, 0]), pretraining=others, **options
    )
    (said,) = [sentence for sentence in report.sentences() if "repeats" in sentence]
    assert said.startswith("Warning: 5 of 5 test images are nearly equal to training images (copy 0 repeats ")
    assert report.card["repeats"]["pretraining"]["identical"] == 0
    report = sp.evaluate(
        {"pixels": Pixels("rgb")}, (others, labels[:30]), (train, labels[:30]), pretraining=train, **options
    )
    first, second = train.names[:2]
    assert (
        "30 of 30 test images are identical to images of the pretraining, whose labels it did not use "
        f"({first} repeats {first}, {second} repeats {second})." in report.sentences()
    )


def test_images_of_8_bits_and_the_same_ones_in_floats_are_compared():
    """`evaluate` takes both together, and once ended in an error of torch."""
    known, asked = PHOTOS.images(range(20)), PHOTOS.images(range(5)) / 255
    assert find_repeats(store(asked), store(known)).similar == 5
    assert find_repeats(store(known[:5]), store(known / 255)).similar == 5
