"""The page about large runs is computed from the measured costs."""

import json
import re
from dataclasses import replace

import pytest
from test_structure import ROOT

from benchmarks import scale
from benchmarks.scale import ImageCosts, costs_from, page, plan

MEASURED, SPEED = (json.loads((ROOT / file).read_text()) for file in (scale.MEASURED, scale.SPEED))
ROUND = ImageCosts(
    file_bytes=100_000,
    store_bytes=150_000,
    index_bytes=50,
    stream_seconds=0.002,
    build_seconds=0.0036,
    cpu_step_seconds=0.01,
    cpu_step_pixels=32**2,
)


def test_the_committed_page_is_what_the_script_writes():
    assert (ROOT / scale.PAGE).read_text() == page(MEASURED, SPEED)


def test_other_costs_make_another_page():
    slower = MEASURED | {"per_image": MEASURED["per_image"] | {"stream_seconds": 1.0}}
    assert page(slower, SPEED) != page(MEASURED, SPEED)


def test_a_plan_with_round_numbers():
    found = plan(ROUND, images=1_000_000, epochs=10, gpus=4, rate=500)
    assert found == pytest.approx(
        {
            "shards": 100e9,
            "store": 150.05e9,
            "shards per second": 200e6,  # 2,000 images a second
            "store per second": 300e6,
            "cores per GPU": 1.0,
            "core hours to build": 1.0,
            "GPU hours": 10_000_000 / 500 / 3600,
            "hours": 10_000_000 / 2_000 / 3600,
            "core hours instead": 10_000_000 * 0.01 * 49 / 3600,  # 49 times the pixels
        }
    )
    twice = plan(replace(ROUND, file_bytes=200_000), images=1_000_000, epochs=10, gpus=4, rate=500)
    assert {name for name in found if twice[name] != found[name]} == {"shards", "shards per second"}


def test_the_costs_are_those_that_were_measured():
    costs = costs_from(MEASURED, SPEED)
    assert costs.store_bytes == 3 * scale.SIZE**2
    row = next(row for row in SPEED["parts"]["settings"]["rows"] if row["side"] == "one thread")
    assert costs.cpu_step_seconds == row["median"]
    text = page(MEASURED, SPEED)
    assert f"{MEASURED['per_image']['stream_seconds'] * 1000:.3g} ms" in text
    assert re.search(r"GPU hours \| 36 \| 278 \|", text)  # 1,281,167 × 100 / 1,000 / 3600, and 10⁹ / 1,000 / 3600


def test_measuring_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "COUNT", 8)
    monkeypatch.setattr(scale, "SIZE", 32)
    found = scale.measure(tmp_path)["per_image"]
    assert set(found) == set(MEASURED["per_image"])
    assert found["store_bytes"] == 3 * 32**2
    assert all(value > 0 for value in found.values())
