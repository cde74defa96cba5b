import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import map_coordinates
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ssl_pretext.augment import (
    Augmentation,
    PerImage,
    create_augmentation,
    list_augmentations,
    register_augmentation,
)
from ssl_pretext.augment.geometry import compose, resample
from ssl_pretext.augment.keyed_random import keyed_normals, keyed_uniforms, keys_of_images, keys_of_names
from ssl_pretext.augment.steps import AUGMENTATIONS
from ssl_pretext.errors import ArgumentError, UnknownNameError

ALL = sorted({*list_augmentations()})
PHOTO_STEPS = {"color_jitter", "grayscale"}


def photos(count: int = 8, size: int = 16, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def keys(count: int = 8, *parts: int) -> torch.Tensor:
    return keys_of_images(torch.arange(count), *parts)


def test_random_numbers_are_uniform_and_normal():
    found = keys_of_images(torch.arange(20_000), 3, 1)
    uniforms = keyed_uniforms(found, (3,))
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    for column in uniforms.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    neighbors = torch.stack([*uniforms.T, *uniforms.roll(1, 0).T])
    assert (torch.corrcoef(neighbors) - torch.eye(6)).abs().max() < 0.03
    normals = keyed_normals(found[:200], (3, 7, 5))
    assert normals.shape == (200, 3, 7, 5)
    assert stats.kstest(normals.flatten().numpy(), "norm").pvalue > 1e-3


def test_splitmix64_agrees_with_its_reference():
    # The first outputs for the state 1234567, from the reference implementation of Vigna.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    bits = [value >> 40 for value in expected]
    found = keyed_uniforms(torch.tensor([1234567]), (4,))[0] * 2**24
    assert found.long().tolist() == bits


@pytest.mark.parametrize("other", [(1, 2), (2, 1, 0), (2**62, 1), (-2, 1)])
def test_keys_depend_on_all_numbers(other):
    assert not (keys(50, 2, 1) == keys(50, *other)).any()
    assert torch.equal(keys(50, *other), keys(50, *other))


def test_names_have_keys():
    names = [f"folder/{index}.png" for index in range(1000)]
    found = keys_of_names(names)
    assert len(found.unique()) == 1000
    assert torch.equal(keys_of_names(reversed(names)), found.flip(0))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [3, 1, 13])
def test_an_image_is_augmented_alike_in_every_batch(name, channels):
    if name in PHOTO_STEPS and channels != 3:
        pytest.skip("for photos only")
    augmentation = create_augmentation(name, photos=channels == 3)
    images = photos(channels=channels)
    whole = augmentation(images, keys(8, 1))
    assert whole.shape == images.shape
    some = torch.tensor([4, 1])
    torch.testing.assert_close(augmentation(images[some], keys(8, 1)[some]), whole[some], rtol=0, atol=1e-6)
    assert not all(torch.equal(whole, augmentation(images, keys(8, epoch))) for epoch in range(2, 9))
    assert whole.is_floating_point() or name in {"horizontal_flip", "vertical_flip", "quarter_turns", "shift"}


def test_pixels_only_move_by_exact_steps():
    images = photos()
    flipped = create_augmentation("horizontal_flip[p=1]")(images, keys())
    assert torch.equal(flipped, images.flip(-1))
    assert torch.equal(create_augmentation("vertical_flip[p=1]")(images, keys()), images.flip(-2))
    turned = create_augmentation("quarter_turns")(photos(40), keys(40))
    rotations = torch.stack([photos(40).rot90(k, (2, 3)) for k in range(4)])
    hits = (rotations == turned).flatten(2).all(2).float()  # (4, 40)
    assert hits.sum(0).min() == 1
    assert hits.sum(1).min() >= 4


def test_shifts_mirror_the_border():
    images = photos(200, size=8)
    shifted = create_augmentation("shift[fraction=0.25]")(images, keys(200))
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect"))
    candidates = torch.stack([padded[..., i : i + 8, j : j + 8] for i in range(5) for j in range(5)])
    hits = (candidates == shifted).flatten(2).all(2)
    assert hits.any(0).all()
    assert hits.any(1).all()  # all shifts occur


@pytest.mark.parametrize(
    "spec",
    ["random_resized_crop", "rotation", "rotation[degrees=30],random_resized_crop", "shift,rotation,vertical_flip"],
)
def test_interpolation_agrees_with_scipy(spec):
    images = torch.rand(4, 2, 12, 16)
    steps = create_augmentation(spec, photos=False).steps
    matrices = torch.eye(2, 3).expand(4, 2, 3)
    for number, step in enumerate(steps):
        matrices = compose(matrices, step.matrices(keyed_uniforms(keys(4, number), (step.num_draws,)), 12, 16))
    found = resample(images, matrices, exact=False)
    y, x = np.meshgrid(np.arange(12) - 5.5, np.arange(16) - 7.5, indexing="ij")
    for image, matrix, result in zip(images.numpy(), matrices.double().numpy(), found.numpy(), strict=True):
        column, row = (matrix[k, 0] * x + matrix[k, 1] * y + matrix[k, 2] for k in range(2))
        expected = [map_coordinates(c.astype(float), [row + 5.5, column + 7.5], order=1, mode="mirror") for c in image]
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_a_crop_agrees_with_torchvision_inside():
    image = torch.rand(1, 3, 16, 16)
    top, left, height, width = 3, 5, 8, 10
    scale = torch.tensor([[width / 16, 0.0], [0.0, height / 16]])
    center = torch.tensor([[left + width / 2 - 8], [top + height / 2 - 8]])
    found = resample(image, torch.cat([scale, center], dim=1)[None], exact=False)
    expected = F.resized_crop(image, top, left, height, width, [16, 16], antialias=False)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_crops_have_the_area_and_ratio_of_the_options():
    step = create_augmentation("random_resized_crop[min_area=0.3;max_ratio=1.5]").steps[0]
    matrices = step.matrices(keyed_uniforms(keys(5000), (4,)), 30, 40)
    width, height = matrices[:, 0, 0], matrices[:, 1, 1]
    assert stats.kstest((width * height)[(width < 1) & (height < 1)], "uniform", (0.3, 0.7)).statistic < 0.3
    assert 0.25 < (width * height).min() < 0.32
    assert (width * height).max() <= 1
    ratio = width / height
    assert 1 / 1.501 <= ratio.min() < 0.7
    assert 1.45 < ratio.max() <= 1.501
    # No crop leaves the image.
    assert (matrices[:, 0, 2].abs() <= (1 - width) * 20 + 1e-4).all()
    assert (matrices[:, 1, 2].abs() <= (1 - height) * 15 + 1e-4).all()


def jittered(images: torch.Tensor, **options: float) -> tuple[torch.Tensor, torch.Tensor]:
    names = ("brightness", "contrast", "saturation", "hue")
    step = AUGMENTATIONS.create("color_jitter", p=1.0, **{name: options.get(name, 0.0) for name in names})
    draws = torch.rand(len(images), 5, generator=torch.Generator().manual_seed(1))
    changes = {name: (2 * draws[:, 1 + names.index(name)] - 1) * value for name, value in options.items()}
    return step.apply(images, draws, keys(len(images))), next(iter(changes.values()))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("brightness", lambda image, change: F.adjust_brightness(image, 1 + change)),
        ("contrast", lambda image, change: F.adjust_contrast(image, 1 + change)),
        ("saturation", lambda image, change: F.adjust_saturation(image, 1 + change)),
        ("hue", lambda image, change: F.adjust_hue(image, change)),
    ],
)
def test_color_jitter_agrees_with_torchvision(name, reference):
    images = photos(8) / 255
    images[0, :, :4] = 0.5  # gray pixels have no hue
    found, changes = jittered(images, **{name: 0.5})
    expected = torch.stack([reference(image, float(change)) for image, change in zip(images, changes, strict=True)])
    # torchvision rounds the weights of the gray value to 0.2989, 0.587 and 0.114.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert (changes < 0).any()
    assert (changes > 0).any()


def test_grayscale_agrees_with_torchvision():
    images = photos() / 255
    found = create_augmentation("grayscale[p=1]")(images, keys())
    torch.testing.assert_close(found, F.rgb_to_grayscale(images, 3), rtol=0, atol=2e-4)


def test_blur_agrees_with_torchvision():
    images = torch.rand(2, 5, 16, 12)
    step = AUGMENTATIONS.create("blur", min_sigma=0.5, max_sigma=2.0, p=1.0)
    draws = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    found = step.apply(images, draws, keys(2))
    for image, result, sigma in zip(images, found, (0.5, 2.0), strict=True):
        torch.testing.assert_close(result, F.gaussian_blur(image, [13, 13], [sigma, sigma]), rtol=0, atol=1e-5)


def test_noise_is_relative_to_each_channel():
    images = torch.randn(50, 2, 32, 32) * torch.tensor([1.0, 1000.0]).view(2, 1, 1) + 5000
    noise = create_augmentation("noise[std=0.5]", photos=False)(images, keys(50)) - images
    relative = noise.std((2, 3)) / images.std((2, 3))
    torch.testing.assert_close(relative[:, 0], relative[:, 1], rtol=0.1, atol=0.01)
    assert stats.kstest(relative[:, 0], "uniform", (0, 0.5)).pvalue > 1e-3
    assert abs(float((noise[:, 0] * noise[:, 1]).mean()) / float(noise[:, 0].std() * noise[:, 1].std())) < 0.02


@pytest.mark.parametrize("name", ALL)
def test_missing_values_stay_missing_and_do_not_spread_far(name):
    if name in PHOTO_STEPS:
        pytest.skip("photos have no missing values")
    images = torch.rand(4, 2, 16, 16)
    images[0, 0, 4:12, 4:12] = math.nan
    images[1, 1] = math.nan
    result = create_augmentation(name, photos=False)(images, keys(4))
    assert result[1, 1].isnan().all()
    assert not result[1, 0].isnan().any()
    assert not result[2:].isnan().any()
    assert 20 < result[0, 0].isnan().sum() <= 256 / 0.2
    assert result[~result.isnan()].min() > -1
    assert result[~result.isnan()].max() < 2


def test_steps_are_applied_in_their_order():
    images = photos()
    both = create_augmentation("quarter_turns,horizontal_flip")(images, keys())
    assert not torch.equal(both, create_augmentation("horizontal_flip,quarter_turns")(images, keys()))
    first, second = create_augmentation("vertical_flip[p=1],shift[fraction=0]").steps
    assert torch.equal(Augmentation([first, second])(images, keys()), images.flip(-2))
    assert create_augmentation("none")(images, keys()) is images


def test_photos_stay_in_their_range():
    for images in (photos(30), photos(30) / 255):
        found = create_augmentation("random_resized_crop,color_jitter[p=1],noise[std=5]")(images, keys(30))
        assert found.min() == 0
        assert found.max() == 1
    bands = create_augmentation("noise[std=5]", photos=False)(torch.rand(30, 3, 8, 8), keys(30))
    assert bands.min() < 0


class Crop(torch.nn.Module):
    def forward(self, image):
        return image[..., 1:]


def test_transforms_from_elsewhere_get_a_seed_for_each_image():
    transform = v2.Compose([v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip()])
    augment = PerImage(transform)
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    whole = augment(photos(), keys(8, 1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(augment(photos()[2:], keys(8, 1)[2:]), whole[2:])
    torch.manual_seed(int(keys(8, 1)[3]))
    assert torch.equal(whole[3], transform(photos()[3] / 255))
    for draw in (random.random, np.random.rand):
        noisy = PerImage(lambda image, draw=draw: image + draw())
        assert torch.equal(noisy(photos(), keys()), noisy(photos(), keys()))
    assert repr(augment) == repr(PerImage(v2.Compose(transform.transforms)))
    assert "0x" not in repr(PerImage(lambda image: image)) + repr(PerImage(torch.sin))
    # kornia adds a dimension to a single image.
    assert torch.equal(PerImage(lambda image: image[None])(photos(), keys()), photos() / 255)


@pytest.mark.parametrize("transform", [Crop(), lambda image: image.numpy(), lambda image: None])
def test_transforms_must_return_images_of_the_same_shape(transform):
    with pytest.raises(ArgumentError, match=r"must return an image tensor of the shape that it gets, \(3, 16, 16\)"):
        PerImage(transform)(photos(), keys())


@pytest.mark.parametrize(
    ("spec", "photos_", "message"),
    [
        ("random_crop", True, "there is no augmentation named 'random_crop'"),
        ("random_resized_crop[min_area=0]", True, "min_area .* from 0.01 to 1, got 0"),
        ("horizontal_flip[p=2]", True, "p of the augmentation .* from 0 to 1, got 2"),
        ("blur[min_sigma=3;max_sigma=1]", True, "min_sigma"),
        ("noise[std=nan]", True, "std"),
        ("shift[pixels=3]", True, "does not take these options"),
        ("color_jitter", False, "ColorJitter can augment photos only"),
        ("", True, "expected a name"),
    ],
)
def test_bad_specs_are_refused(spec, photos_, message):
    with pytest.raises((ArgumentError, UnknownNameError), match=message):
        create_augmentation(spec, photos=photos_)


def test_images_must_fit_the_steps():
    with pytest.raises(ArgumentError, match="square images, got 8×16"):
        create_augmentation("quarter_turns")(torch.rand(2, 3, 8, 16), keys(2))
    with pytest.raises(ArgumentError, match="three channels, got 5"):
        create_augmentation("color_jitter")(torch.rand(2, 5, 8, 8), keys(2))
    with pytest.raises(ArgumentError, match="function of an image tensor"):
        PerImage(3)


def test_own_steps_can_be_registered():
    assert "shift" in AUGMENTATIONS
    assert callable(register_augmentation("my_step"))


def test_a_cpu_augments_in_pieces_that_change_nothing(monkeypatch):
    images, keys = torch.rand(7, 3, 16, 16), torch.arange(7)
    steps = create_augmentation("random_resized_crop,horizontal_flip,color_jitter,blur")
    whole = steps(images, keys)
    monkeypatch.setattr("ssl_pretext.augment.augmentation.PIECE", 2 * images[0].numel())
    sizes, augmented = [], type(steps)._augmented

    def counted(self, some, of_some):
        sizes.append(len(some))
        return augmented(self, some, of_some)

    monkeypatch.setattr(type(steps), "_augmented", counted)
    assert torch.equal(steps(images, keys), whole)
    assert sizes == [2, 2, 2, 1]
