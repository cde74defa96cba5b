"""The cache of features and finished probes: what is found again, and what counts as another result."""

import json
from pathlib import Path

import pytest
import torch
from probing import features_of, random_store, small_task
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.probes.linear import shrink
from ssl_pretext.representations import cache as cache_module
from ssl_pretext.representations.base import Backbone
from ssl_pretext.representations.cache import Cache


def counted(task: sp.PretextTask, monkeypatch) -> tuple[sp.Representation, list[int]]:
    """The output of a task, and a list to which each batch that the task runs on adds its size."""
    calls: list[int] = []
    original = type(task).feature_maps

    def counting(self: sp.PretextTask, batch: Tensor, layers: list[str]) -> dict[str, Tensor]:
        calls.append(len(batch))
        return original(self, batch, layers)

    counting.__module__ = original.__module__  # features of code from other packages would not be cached
    monkeypatch.setattr(type(task), "feature_maps", counting)
    return task.representation(), calls


def test_features_are_computed_once_and_again_when_anything_changes(tmp_path: Path, monkeypatch) -> None:
    task = small_task()
    representation, calls = counted(task, monkeypatch)
    store, cache = random_store(), Cache(tmp_path)
    first = features_of(representation, store, cache=cache)
    assert torch.equal(features_of(representation, store, cache=cache), first)
    same = features_of(small_task().representation(), store, cache=cache)
    assert torch.equal(same, first), "another object with the same weights"
    assert calls == [6]
    features_of(representation, random_store(seed=1), cache=cache)
    features_of(representation, store, cache=cache, reduce=shrink)
    assert len(calls) == 3, "other images, and another reduction"
    with torch.no_grad():
        next(task.encoder.parameters()).add_(1)
    changed = features_of(representation, store, cache=cache)
    assert len(calls) == 4
    assert not torch.equal(changed, first)
    monkeypatch.setattr(cache_module, "code_identity", lambda: {"ssl_pretext": "another version"})
    features_of(representation, store, cache=cache)
    assert len(calls) == 5, "other code"


@pytest.mark.parametrize("damage", ["cut", "empty", "no note", "other note", "no array"])
def test_a_damaged_entry_counts_as_missing(damage: str, tmp_path: Path, monkeypatch) -> None:
    representation, calls = counted(small_task(), monkeypatch)
    store, cache = random_store(), Cache(tmp_path)
    first = features_of(representation, store, cache=cache).clone()
    (array,), (note,) = tmp_path.glob("*.features"), tmp_path.glob("*.json")
    if damage == "cut":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "no note":
        note.unlink()
    elif damage == "other note":
        entry = json.loads(note.read_text())
        entry["identity"]["layer"] = "another"
        note.write_text(json.dumps(entry))
    else:
        array.unlink()
    assert torch.equal(features_of(representation, store, cache=cache), first)
    assert len(calls) == 2


def test_features_of_another_kind_of_device_are_other_features(tmp_path: Path, monkeypatch) -> None:
    representation, calls = counted(small_task(), monkeypatch)
    store, cache = random_store(), Cache(tmp_path)
    features_of(representation, store, cache=cache)
    run = cache_module.run_backbone  # run on the CPU, since there may be no GPU
    monkeypatch.setattr(
        cache_module, "run_backbone", lambda *given, **options: run(*given, **options | {"device": "cpu"})
    )
    features_of(representation, store, cache=cache, device="cuda")
    assert len(calls) == 2
    features_of(representation, store, cache=cache, device="cuda:0")
    assert len(calls) == 2


def test_networks_of_equal_weights_and_other_structure_are_other_networks(tmp_path: Path) -> None:
    convolution, store, cache = nn.Conv2d(3, 4, 1), random_store(), Cache(tmp_path)
    found = [
        features_of(sp.FrozenNetwork(nn.Sequential(convolution, after)).representation(), store, cache=cache)
        for after in (nn.ReLU(), nn.Tanh())
    ]
    assert not torch.equal(*found)


def test_bands_of_the_same_name_and_another_scale_are_other_bands(tmp_path: Path) -> None:
    store = sp.ImageStore.from_arrays(torch.rand(6, 1, 4, 4), [0, 1] * 3)
    found = []
    for scale in (1.0, 50.0):
        band = sp.ChannelSpace.bands("d", ["D"], scale=scale)["D"]
        found.append(features_of(sp.Pixels(band), store, cache=Cache(tmp_path)))
    torch.testing.assert_close(found[0], found[1] * 50)


def test_features_whose_code_may_change_unnoticed_are_not_stored(tmp_path: Path) -> None:
    class Foreign(nn.Conv2d):
        pass

    store, cache = random_store(), Cache(tmp_path)
    features_of(sp.Representation("f", lambda x: x.float()), store, cache=cache)
    features_of(sp.FrozenNetwork(Foreign(3, 2, 1)).representation(), store, cache=cache)
    hooked = nn.Conv2d(3, 2, 1)
    hooked.register_forward_hook(lambda *_: None)
    features_of(sp.FrozenNetwork(hooked).representation(), store, cache=cache)
    described = Backbone(lambda x, layers: {layer: x.float() for layer in layers}, describe={"kind": "mine"})
    features_of(described.representation(), store, cache=cache)
    assert not list(tmp_path.iterdir())
    features_of(sp.FrozenNetwork(nn.Conv2d(3, 2, 1)).representation(), store, cache=cache)
    assert len(list(tmp_path.iterdir())) == 2


def test_finished_probes_are_not_trained_again(tmp_path: Path, monkeypatch) -> None:
    train, test = random_store(12), random_store(8, seed=1)
    options = {"probe": "conv", "epochs": 2, "seeds": 2, "cache": tmp_path}
    given = {"latent": small_task().representation()}
    first = sp.evaluate(given, train, test, **options)
    trained: list[int] = []
    original = cache_module.Cache.store_result

    def counting(self: Cache, identity: dict[str, object], result: object) -> None:
        if not isinstance(result, dict):  # the hash of features, or a note about them
            original(self, identity, result)
        else:
            trained.append(1)

    monkeypatch.setattr(cache_module.Cache, "store_result", counting)
    again = sp.evaluate(given, train, test, **options)
    assert again == first
    assert not trained
    sp.evaluate(given, train, test, **options | {"seeds": [7]})
    assert len(trained) == len(first.names)
    more = [sp.ImageStore.from_arrays(store.images(), store.labels, classes=list("abcdef")) for store in (train, test)]
    others = sp.evaluate(given, *more, **options)
    assert others.runs[0]["history"] != first.runs[0]["history"], "with more classes the probe has another output layer"
