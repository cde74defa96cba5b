"""The examples run, on few photos and for few epochs."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SATELLITE = Path(os.environ.get("SSL_PRETEXT_DATA", "nowhere")).parent / "sentinel-2"


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def few_photos(monkeypatch):
    monkeypatch.setattr("ssl_pretext.data.samples.MAX_PATCHES", {"train": 10, "test": 2})


@pytest.mark.parametrize("name", ["colorize_with_timm", "split_brain_on_photos"])
def test_photos(name, tmp_path):
    report = example(name).main(str(tmp_path), epochs=1)
    assert set(report.card["against"]) < set(report.names)
    assert {f"{name} (untrained)" for name in report.card["against"]} < set(report.names)
    assert "pixels" in report.names


def test_stronger_probe(tmp_path):
    reports = example("stronger_probe").main(str(tmp_path), epochs=1)
    assert [report.card["probe"] for report in reports] == ["conv", "resnet", "mlp"]


def test_own_encoder_and_loss(tmp_path):
    again = example("own_encoder_and_loss").main(str(tmp_path), epochs=1)
    assert again.options()["losses"] == {"smooth_l1": 1.0, "gradient_l1": 0.5}


def test_depth_from_rgb(tmp_path):
    assert example("depth_from_rgb").main(str(tmp_path), epochs=1) < 100


def test_satellite_bands(tmp_path):
    files = list(SATELLITE.glob("*13band*.npy"))
    if not files:
        pytest.skip("needs a Sentinel-2 array in the folder sentinel-2, next to the folder that SSL_PRETEXT_DATA names")
    explained = example("satellite_bands").main(str(files[0]), str(tmp_path), epochs=8)
    assert all(fraction > 0 for fraction in explained.values()), "worse than predicting the mean"
