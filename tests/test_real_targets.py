"""One target of each kind on real microscopy and satellite images; those that nobody annotated are made, and say so."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.representations import Pixels

DATA = Path(os.environ.get("SSL_PRETEXT_DATA", "nowhere")).parent
BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A".split()


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the folder {name} next to the folder that SSL_PRETEXT_DATA names")
    return DATA / name


@pytest.fixture(scope="module")
def chips(tmp_path_factory) -> tuple[sp.ImageStore, sp.ImageStore]:
    """13-band chips of 64 pixels, 70 for training and 30 for testing."""
    cache = tmp_path_factory.mktemp("chips")
    store = sp.ImageStore.from_folder(folder("eurosat-ms13"), image_size=None, channels=13, cache=cache)
    train, test = sp.holdout_split(store.names, store.labels, fraction=0.3)
    return store.subset(train), store.subset(test)


def visible(stores: tuple[sp.ImageStore, sp.ImageStore]) -> sp.Channels:
    pixels = stores[0].images()
    center, scale = pixels.mean(dim=(0, 2, 3)), 2 * pixels.std(dim=(0, 2, 3)) + 1
    return sp.Channels(sp.ChannelSpace.bands("chips", BANDS, center=center, scale=scale), "B02,B03,B04")


def band(store: sp.ImageStore, name: str) -> torch.Tensor:
    return store.images()[:, BANDS.index(name)]


def test_phases_of_cells_are_classes(tmp_path) -> None:
    """The phases were gated on the DNA stain, so only bright field and dark field are given to the probe."""
    store = sp.ImageStore.from_folder(folder("ifc-cell-cycle"), image_size=None, cache=tmp_path)
    few, rest = sp.holdout_split(store.names, store.labels, fraction=0.9)
    test, _ = sp.holdout_split([store.names[i] for i in rest], store.labels[rest], fraction=0.7)
    space = sp.ChannelSpace.bands("cells", ["BF", "DNA", "DF"], center=[900, 500, 200], scale=[300, 500, 300])
    report = sp.evaluate(
        {"cells": Pixels(sp.Channels(space, "BF,DF"), size=8)},
        store.subset(few), store.subset([rest[i] for i in test]), metrics=["accuracy", "balanced_accuracy"], seeds=3,
    )  # fmt: skip
    assert report.interval("cells").mean - report.interval("cells").half > 0.35, "chance is about 0.27"
    assert report.card["names"] == ["G1", "G2", "Prophase", "S_phase"]
    assert report.interval("cells", "balanced_accuracy").half > 0


def test_bright_infrared_bands_are_labels(chips) -> None:
    """Made: whether a band of a chip is brighter than in most training chips; three bands, none of them visible."""
    names = ["B08", "B11", "B8A"]
    limits = {name: band(chips[0], name).mean(dim=(1, 2)).median() for name in names}
    made = [{name: (band(one, name).mean(dim=(1, 2)) > limits[name]).float() for name in names} for one in chips]
    report = sp.evaluate(
        {"visible": Pixels(visible(chips), size=8)}, *zip(chips, made, strict=True), target="labels", seeds=3
    )
    found = report.interval("visible")
    assert found.mean - found.half > np.mean([values.mean() for values in made[1].values()]), "the precision of chance"


def test_the_mean_of_a_red_edge_band_is_a_number(chips) -> None:
    """Made: the mean reflectance of band B05 in thousandths, with one chip unknown."""
    made = [band(one, "B05").mean(dim=(1, 2)) / 10 for one in chips]
    made[0][0] = torch.nan
    report = sp.evaluate(
        {"visible": Pixels(visible(chips), size=8)}, *zip(chips, made, strict=True), target="numbers", seeds=3
    )
    assert report.card["unlabeled"] == {"train": 1, "test": 0}
    assert report.interval("visible").mean - report.interval("visible").half > 0.5
    assert report.values("visible", "rmse")[0] < made[1].std()


def test_a_red_edge_band_is_a_map(chips) -> None:
    """Made: the reflectance of band B05 at each pixel in thousandths, with some pixels unknown; it is not given."""
    made = [{"B05": band(one, "B05").float() / 10} for one in chips]
    made[0]["B05"][:, :8, :8] = torch.nan
    network = sp.FrozenNetwork(nn.Conv2d(3, 16, 5, stride=2, padding=2), channels=visible(chips))
    report = sp.evaluate(
        {"filters": network}, *zip(chips, made, strict=True), target="map", seeds=2, epochs=10, controls=["untrained"],
    )  # fmt: skip
    found = report.interval("filters")
    assert found.mean - found.half > 0, "the mean of all pixels has an R² of 0"
    assert report.values("filters", "rmse[B05]")[0] < made[1]["B05"].std()
    assert any(row["reference"] == "filters (untrained)" for row in report.against_controls())


def test_vegetation_is_a_mask(chips) -> None:
    """Made: whether the vegetation index of a pixel exceeds 0.4; the index needs the band B08, which is not given."""
    made = []
    for one in chips:
        red, infrared = band(one, "B04"), band(one, "B08")
        made.append(((infrared - red) / (infrared + red) > 0.4).long())
    network = sp.FrozenNetwork(nn.Conv2d(3, 16, 5, stride=2, padding=2), channels=visible(chips))
    report = sp.evaluate(
        {"filters": network}, *zip(chips, made, strict=True), target="mask", seeds=2, epochs=4, controls=False,
    )  # fmt: skip
    counts = made[1].flatten().bincount() / made[1].numel()
    guess = counts.max() / 2  # naming the most frequent class everywhere has this mean IoU
    assert report.interval("filters").mean - report.interval("filters").half > guess
