"""The controls that `evaluate` adds: the untrained network, pixels, source channels and color histogram."""

import pytest
import torch
from probing import PIXELS, photo_patches, small_linear, small_network, two_classes
from torch import nn

import ssl_pretext as sp
from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import evaluate
from ssl_pretext.representations.base import ColorHistogram, Concatenated, Pixels
from ssl_pretext.representations.network import FrozenNetwork
from ssl_pretext.tasks import Colorization, CrossChannelPrediction


def test_untrained_control_is_added_with_new_weights_for_each_seed() -> None:
    seeds: list[int] = []
    network = small_network()
    untrained = network.backbone.untrained
    assert untrained is not None
    network.backbone.untrained = lambda seed: seeds.append(seed) or untrained(seed)
    data = two_classes(20)
    options = {"probe": small_linear, "epochs": 1, "seeds": [3, 8], "controls": ["untrained"]}
    report = evaluate(PIXELS | {"net": network}, data, data, **options)
    names = [run["representation"] for run in report.runs]
    assert names == ["pixels"] * 2 + ["net"] * 2 + ["net (untrained)"] * 2
    assert seeds == [3, 8]
    without = evaluate({"net": network}, data, data, probe=small_linear, epochs=1, seeds=1, controls=False)
    assert [run["representation"] for run in without.runs] == ["net"]


def test_a_representation_must_not_have_the_name_of_an_untrained_control() -> None:
    given = {"net": small_network(), "net (untrained)": Pixels("rgb")}
    with pytest.raises(ArgumentError, match=r"'net \(untrained\)' is the name of the untrained control of 'net'"):
        evaluate(given, two_classes(8), two_classes(8), probe=small_linear, epochs=1, seeds=1)


@pytest.mark.parametrize("probe", ["conv", "linear", "knn"])
def test_all_controls_are_added_unless_switched_off(probe: str) -> None:
    task = Colorization(nn.Conv2d(1, 4, 2, stride=2), losses={"l1": 1.0})
    data = two_classes(20, size=8)
    report = evaluate({"net": task.representation()}, data, data, probe=probe, epochs=1, seeds=2)
    added = ["pixels rgb", "pixels lab:L", "pixels rgb 4×4", "color histogram"]
    assert report.names == ["net", "net (untrained)", *added]
    assert list(report.card["against"]["net"].values()) == ["net (untrained)", *added]
    headings = [cell.strip() for cell in report.table().splitlines()[0].split("|")][3:-1]
    assert headings == [
        "minus untrained", "minus pixels rgb", "minus its source channels", "minus pixels of its size",
        "minus color histogram",
    ]  # fmt: skip
    given = {"mine": Pixels("rgb"), "net": task.representation()}
    with_pixels = evaluate(given, data, data, probe=probe, epochs=1, seeds=1)
    assert with_pixels.card["against"]["net"]["mine"] == "mine", "a control among the representations is not added"
    assert "pixels rgb" not in with_pixels.names
    with pytest.raises(ArgumentError, match="no control 'chance'; known: untrained, before, pixels"):
        evaluate(PIXELS, data, data, controls=["chance"])
    with pytest.raises(ArgumentError, match="'pixels rgb' is the name of a control; rename the representation"):
        evaluate({"pixels rgb": task.representation()}, data, data)


@pytest.mark.parametrize(
    ("channels", "source"), [("gray", "pixels gray"), ("lab:L", "pixels lab:L"), ("lab", None), ("ycbcr:YCrCb", None)]
)
def test_a_network_that_sees_a_part_of_the_image_is_compared_with_that_part(channels: str, source: str | None) -> None:
    network = FrozenNetwork(nn.Conv2d(Channels.parse(channels).num_channels, 2, 2, stride=2), channels=channels)
    given = {"network": network.representation()}
    report = evaluate(given, two_classes(8), two_classes(8), probe="knn", seeds=1, controls=["source"])
    assert report.card["against"]["network"] == ({"its source channels": source} if source else {})


def test_features_joined_with_the_histogram_are_compared_with_it_alone() -> None:
    networks = [FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2)).representation() for _ in range(2)]
    data, test = two_classes(40), two_classes(20, seed=1)
    options = {"seeds": 2, "controls": ["pixels", "histogram", "joined"]}
    report = evaluate({"net": networks}, data, test, **options)
    row = "net + color histogram"
    assert report.names == ["net", row, "pixels rgb", "color histogram"]
    assert report.card["against"][row] == {"color histogram": "color histogram"}
    assert [found["representation"] for found in report.against_controls()] == ["net", "net", row]
    both = [Concatenated([network, ColorHistogram()], size=2) for network in networks]
    again = evaluate({"both": both}, data, test, seeds=2, controls=False)
    assert [run["scores"] for run in report.runs if run["representation"] == row] == [
        run["scores"] for run in again.runs
    ]
    assert evaluate({"net": networks}, data, test, probe="conv", epochs=1, **options).names == [
        "net", "pixels rgb", "color histogram"
    ]  # fmt: skip
    without = options | {"controls": ["pixels", "joined"]}
    assert evaluate({"net": networks}, data, test, **without).names == ["net", "pixels rgb"]
    with pytest.raises(ArgumentError, match=r"'net \+ color histogram' is the name of a row with both joined"):
        evaluate({"net": networks, row: Pixels("rgb", size=2)}, data, test, **options)


def test_controls_of_bands_are_bands() -> None:
    space = ChannelSpace.bands("four", ["B", "G", "R", "N"], scale=1)
    data = (torch.rand(12, 4, 8, 8), [0, 1] * 6)
    task = CrossChannelPrediction(space["B", "G", "R"], space["N"], nn.Conv2d(3, 4, 2, stride=2))
    report = evaluate({"net": task.representation()}, data, data, probe="knn", seeds=1)
    assert report.names[2:] == ["pixels four", "pixels four:BGR", "pixels four 4×4"]


def test_the_reduced_control_of_images_that_are_not_square(tmp_path) -> None:
    images = torch.randint(0, 256, (12, 3, 4, 8), dtype=torch.uint8)
    data = (images, [0, 1] * 6)
    narrow = sp.Representation("narrow", lambda x: x.float()[..., ::2] / 255)
    report = evaluate({"narrow": narrow}, data, data, probe="knn", seeds=2, controls=["reduced"])
    assert report.names == ["narrow", "pixels rgb 4×4"]
    report.to_json(tmp_path / "report.json")
    assert sp.ProbeReport.from_json(tmp_path / "report.json") == report


def test_an_untrained_twin_is_drawn_once_for_all_layers_of_a_network() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1)
        )
        task = Colorization(encoder, losses={"l1": 1.0})
    seeds: list[int] = []
    backbone = task.backbone()
    untrained = backbone.untrained
    assert untrained is not None
    backbone.untrained = lambda seed: seeds.append(seed) or untrained(seed)
    layers = {"first": backbone.representation("0"), "last": backbone.representation()}
    train, test = photo_patches("train"), photo_patches("test")
    report = evaluate(layers, train, test, probe="knn", seeds=[3, 5], controls=["untrained"])
    assert seeds == [3, 5]
    twin = task.untrained(5).representation("0")
    again = evaluate({"x": twin}, train, test, probe="knn", seeds=[5], controls=False)
    assert report.values("first (untrained)")[1] == again.values("x")[0]
