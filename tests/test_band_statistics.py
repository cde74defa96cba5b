"""Measured centers and scales, and the warnings about bands that do not fit."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.band_statistics import measure_bands, measure_space, warn_of_other_units
from ssl_pretext.errors import ArgumentError, CheckpointError

ABC = ["A", "B", "C"]


def store(values: torch.Tensor) -> sp.ImageStore:
    return sp.ImageStore.from_arrays(values, [0] * len(values))


def two_bands(low: float = 1000.0, high: float = 3000.0, count: int = 20) -> sp.ImageStore:
    return store(low + (high - low) * torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(0)))


def net(channels: int = 1) -> nn.Module:
    return nn.Conv2d(channels, 4, 3, stride=2, padding=1)


def test_center_and_scale_are_percentiles_of_the_known_values():
    values = np.random.default_rng(0).gamma(2.0, [[[[100.0]], [[5.0]], [[1.0]]]], (30, 3, 16, 16)).astype(np.float32)
    values[:, 1, :, :7] = np.nan
    space = measure_space(sp.ChannelSpace.bands("x", ABC), store(torch.from_numpy(values)))
    for band in range(3):
        low, median, high = np.nanpercentile(values[:, band], [1, 50, 99])
        assert space.center[band] == pytest.approx(median, rel=1e-5)
        assert space.scale[band] == pytest.approx((high - low) / 2, rel=1e-5)


def test_a_sample_of_many_large_images_is_enough(monkeypatch):
    monkeypatch.setattr("ssl_pretext.band_statistics.NUM_VALUES", 20_000)
    images = store(torch.rand(200, 2, 32, 32, generator=torch.Generator().manual_seed(0)))
    statistics = measure_bands(images, sp.ChannelSpace.bands("x", ["A", "B"]), num_images=100)
    assert statistics.images == 100
    np.testing.assert_allclose(statistics.center, 0.5, atol=0.02)
    np.testing.assert_allclose(statistics.scale, 0.49, atol=0.01)


def test_bands_that_hardly_vary_have_a_usable_scale():
    values = torch.zeros(2, 3, 10, 10)
    values[:, 0] = 7  # constant
    values[0, 1, 0, 0] = 4  # differs in less than 1% of the values
    values[:, 2] = torch.nan
    space = measure_space(sp.ChannelSpace.bands("x", ABC), store(values))
    assert space.statistics == ((7.0, 0.0, 0.0), (1.0, 2.0, 1.0))


def test_8_bit_images_are_measured_after_the_division_by_255():
    images = store(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    assert measure_space(sp.ChannelSpace.bands("x", ["A"]), images).center == (0.5,)


def test_the_stains_have_the_range_of_the_photo():
    from skimage.data import immunohistochemistry

    photo = torch.from_numpy(immunohistochemistry()).permute(2, 0, 1)[None]
    hed = sp.Channels("hed").space
    measured = measure_bands(store(photo), hed)
    for stain in (0, 2):  # the photo has no eosin
        assert hed.center[stain] == pytest.approx(measured.center[stain], rel=0.03)
        assert hed.scale[stain] == pytest.approx(measured.scale[stain], rel=0.03)


def test_fit_measures_the_bands_of_a_task_and_saves_them(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    space, images = sp.ChannelSpace.bands("x", ["A", "B"]), two_bands()
    task = sp.CrossChannelPrediction(space["A"], space["B"], net(), losses={"channel_classification": 1.0, "l1": 1.0})
    with pytest.raises(ArgumentError, match=r"space 'x' has no center and scale yet: fit\(\) measures them"):
        task.features(images.images())
    config = sp.FitConfig(out=tmp_path, epochs=1, device="cpu")
    sp.fit(task, images, config)
    expected = measure_space(space, images)
    assert task.channels.space is task.source.space
    assert task.channels.space == task.target.space == task.losses.logits.channels.space == expected
    assert not space.is_measured
    assert "measured the center and scale of x on 20 images" in caplog.text
    loaded = sp.PretextTask.from_pretrained(tmp_path, parts={"encoder": net()})
    assert loaded.channels.space == expected
    assert torch.equal(loaded.features(images.images()), task.features(images.images()))
    assert task.untrained(1).target.space == expected
    other = measure_space(space, two_bands(0, 1))
    again = sp.CrossChannelPrediction(other["A"], other["B"], net(), losses=task.losses.specs)
    with pytest.raises(CheckpointError, match=r"started with other settings \(task\)"):
        sp.fit(again, images, sp.FitConfig(out=tmp_path, epochs=1, device="cpu", resume=True))


def test_both_branches_are_measured_together():
    space = sp.ChannelSpace.bands("x", ["A", "B"])
    task = sp.SplitBrain(space["A"], space["B"], [net(), net()])
    task.measure(two_bands())
    assert {group.space for group in (task.first, task.second, task.branches[0].target, task.branches[1].source)} == {
        measure_space(space, two_bands())
    }
    assert task.encoder_channels.space.is_measured


@pytest.mark.parametrize("kind", ["tensor", "array", "dataset"])
def test_images_in_other_forms_than_a_store_are_measured(kind):
    images = two_bands().images()
    given = {"tensor": images, "array": images.numpy(), "dataset": [(one, 0) for one in images]}[kind]
    space = sp.ChannelSpace.bands("x", ["A", "B"])
    task = sp.CrossChannelPrediction(space["A"], space["B"], net())
    task.measure(given)
    assert task.source.space == measure_space(space, two_bands()) == measure_space(space, given)


def test_what_holds_no_images_cannot_be_measured():
    space = sp.ChannelSpace.bands("x", ["A", "B"])
    for given, message in (("photos", "images must be an ImageStore, a dataset"), (torch.zeros(2, 8, 8), "N, C, H, W")):
        with pytest.raises(ArgumentError, match=message):
            sp.CrossChannelPrediction(space["A"], space["B"], net()).measure(given)


def test_tasks_of_one_space_name_and_other_statistics_are_compared(tmp_path):
    space, units = sp.ChannelSpace.bands("x", ["A", "B"]), {"counts": (1000, 3000), "reflectance": (0.1, 0.3)}
    images = {name: two_bands(*limits) for name, limits in units.items()}
    for name, found in images.items():
        torch.manual_seed(0)
        task = sp.CrossChannelPrediction(space["A"], space["B"], "autoencoder[width=0.25]")
        task.measure(found)
        task.save_pretrained(tmp_path / name)
    loaded = {name: sp.PretextTask.from_pretrained(tmp_path / name) for name in units}
    maps = [task.features(images[name].images()) for name, task in loaded.items()]
    torch.testing.assert_close(*maps, atol=1e-3, rtol=1e-3)
    labels = [0, 1] * 10
    data = (images["counts"].images(), labels)
    report = sp.evaluate(loaded, data, data, probe="knn", seeds=1, controls=["source"])
    assert {"counts", "reflectance"} < {*report.names}
    assert len({str(one) for one in report.card["representations"].values()}) == len(report.names)


@pytest.mark.parametrize(("low", "high", "warns"), [(1000, 3000, False), (0.1, 0.3, True), (1e6, 3e6, True)])
def test_values_in_other_units_are_reported_once(low, high, warns, caplog, tmp_path):
    space = measure_space(sp.ChannelSpace.bands("x", ["A", "B"]), two_bands())
    task = sp.CrossChannelPrediction(space["A"], space["B"], net())
    data = (two_bands(low, high).images(), [0, 1] * 10)
    sp.evaluate({"mine": task.representation()}, data, data, probe="knn", seeds=1, controls=["source"])
    lines = [line for line in caplog.text.splitlines() if "not in the range that it was made for" in line]
    assert len(lines) == warns
    assert not warns or "mine: the values of 1 of 1 channels of 'x'" in lines[0]
    caplog.clear()
    task.measure(two_bands(low, high))
    assert ("cross_channel: the values of 2 of 2 channels" in caplog.text) == warns


def test_a_single_band_in_other_units_is_named(caplog):
    space = sp.ChannelSpace.bands("x", ABC, center=2.0, scale=1.0)
    values = 1 + 2 * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    values[:, 1] *= 1000
    warn_of_other_units(sp.Channels(space), measure_bands(store(values), space), "mine")
    assert "the values of 1 of 3 channels of 'x'" in caplog.text
    assert "B 1014 to 2978" in caplog.text
    assert "instead of about 1 to 3" in caplog.text


def test_constant_and_missing_bands_are_reported(caplog):
    values = torch.rand(4, 3, 8, 8)
    values[:, 0], values[:, 2] = 12, torch.nan
    space = sp.ChannelSpace.bands("x", ABC)
    sp.CrossChannelPrediction(space["A", "C"], space["B"], net(2)).measure(store(values))
    assert "all values are missing (NaN) in all 4 measured images: C" in caplog.text
    assert "bands are constant in all 4 measured images and teach nothing: A (always 12)" in caplog.text
    caplog.clear()
    sp.CrossChannelPrediction(space["B"], space["B"], net()).measure(store(values))
    assert not caplog.text  # the other bands are not used


def test_a_target_that_is_missing_everywhere_is_refused_before_anything_is_written(tmp_path):
    values = torch.rand(4, 3, 8, 8)
    values[:, 2] = torch.nan
    space = sp.ChannelSpace.bands("x", ABC)
    with pytest.raises(ArgumentError, match=r"uses x:C, but all of its values are missing \(NaN\) in all 4 measured"):
        sp.fit(
            sp.CrossChannelPrediction(space["A"], space["C"], net()),
            store(values),
            sp.FitConfig(out=tmp_path / "run", device="cpu"),
        )
    assert not list(tmp_path.rglob("*.json"))


def test_images_that_do_not_fit_are_refused():
    space = sp.ChannelSpace.bands("x", ABC)
    with pytest.raises(ArgumentError, match=r"space 'x' needs image tensors of shape \(B, 3, H, W\), got \(16, 2,"):
        measure_space(space, two_bands())
    with pytest.raises(ArgumentError, match="measured on at least one image, got none"):
        measure_space(space, two_bands().subset([]))
