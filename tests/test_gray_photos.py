"""Tasks that learn from colors refuse gray photos; tasks that do not take them."""

import pytest
import torch
from skimage.color import rgb2hsv

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.gray_photos import check_colors


def store(gray, colored, dtype=torch.uint8, size=16):
    """A store of gray photos with the noise of a JPEG file, and of colored photos."""
    generator = torch.Generator().manual_seed(0)
    light = torch.randint(0, 256, (gray, 1, size, size), generator=generator).expand(-1, 3, -1, -1)
    noise = torch.randint(0, 2, (gray, 3, size, size), generator=generator)
    color = torch.randint(0, 256, (colored, 3, size, size), generator=generator)
    images = torch.cat([(light + noise).clamp(0, 255), color]).to(torch.uint8)
    return sp.ImageStore.from_arrays(images if dtype == torch.uint8 else images / 255, [0] * len(images))


COLOR_TASKS = [
    ("colorization", {}),
    ("colorization", {"target": "rgb"}),
    ("cross_channel", {"source": "ycbcr:Y", "target": "ycbcr:Cb,Cr"}),
    ("cross_channel", {"source": "rgb:R", "target": "rgb:G,B"}),
    ("split_brain", {"first": "lab:L", "second": "lab:ab"}),
    ("cross_channel_contrast", {"first": "lab:L", "second": "lab:ab"}),
]


@pytest.mark.parametrize(("name", "options"), COLOR_TASKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_task_that_learns_from_colors_refuses_gray_photos(name, options, dtype, tmp_path):
    task = sp.create_task(name, encoder="autoencoder[width=0.25]", **options)
    with pytest.raises(
        ArgumentError, match="learns from the colors of its images, but 20 of 20 training images are gray"
    ):
        task.prepare(store(20, 0, dtype))
    task.prepare(store(0, 20, dtype))


def test_fit_refuses_gray_photos(tmp_path):
    config = sp.FitConfig(out=tmp_path / "run", epochs=1, device="cpu")
    with pytest.raises(ArgumentError, match="Train it on color photos, or choose a task that needs no colors"):
        sp.fit(sp.create_task("colorization", encoder="autoencoder[width=0.25]"), store(20, 0), config)
    assert not (tmp_path / "run" / "task").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("denoising", {}),
        ("inpainting", {}),
        ("rotation", {}),
        ("cross_channel", {"source": "lab:L", "target": "lab:L"}),
    ],
    ids=str,
)
def test_other_tasks_take_gray_photos(name, options):
    sp.create_task(name, encoder="autoencoder[width=0.25]", **options).prepare(store(20, 0))


def test_bands_are_not_measured():
    space = sp.ChannelSpace.bands("three", ["a", "b", "c"], scale=1)
    task = sp.CrossChannelPrediction(space["a"], space["b", "c"], "autoencoder[width=0.25]")
    task.prepare(store(20, 0, torch.float32))


def test_photos_that_are_mostly_gray_are_reported_with_numbers(caplog):
    check_colors(store(12, 8), "colorization")
    assert "but 12 of 20 training images are gray; leave them out" in caplog.text
    caplog.clear()
    check_colors(store(9, 11), "colorization")
    assert not caplog.text


def test_a_large_store_is_measured_by_a_sample(caplog):
    with pytest.raises(ArgumentError, match=r"but 51\d of 512 training images that were measured are gray"):
        check_colors(store(2000, 2, size=2), "colorization")


def test_real_photos_have_colors():
    photos = sp.sample_photos("test", image_size=16)
    check_colors(photos, "colorization")
    pixels = photos.images([0]).permute(0, 2, 3, 1).numpy()
    assert rgb2hsv(pixels)[..., 1].mean() > 0.05
