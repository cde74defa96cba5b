"""The precision and memory format of features: chosen once, the same for twins, written down, and kept in caches."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from probing import features_of, random_store, small_task

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations import Pixels, feature_formats
from ssl_pretext.representations.cache import Cache
from ssl_pretext.representations.embedding import Embeddings
from ssl_pretext.representations.embedding_run import card_file, embed_to_file
from ssl_pretext.representations.feature_formats import FeatureFormats
from ssl_pretext.system.compute_format import PLAIN, ComputeFormat

BF16 = ComputeFormat("bf16-mixed", "contiguous")
OTHERS = [BF16, ComputeFormat("32-true", "channels_last"), ComputeFormat("bf16-mixed", "channels_last")]
AUTO = {"precision": "auto", "memory_format": "auto"}


@pytest.fixture
def choice(monkeypatch):
    """Replaces the timing by choices that are given, and returns the list of the modules that were asked for."""
    monkeypatch.setattr(feature_formats, "LEAST_IMAGES", 1)
    asked = []

    def choose(formats, module, step, device, *, rounds, chosen):
        asked.append(module)
        for one in formats:
            step(one)
        return chosen

    def set_choice(chosen: ComputeFormat) -> list[torch.nn.Module]:
        monkeypatch.setattr(feature_formats, "fastest_format", partial(choose, chosen=chosen))
        return asked

    return set_choice


@pytest.mark.parametrize("one", OTHERS)
def test_features_are_those_of_autocast_in_the_memory_format(one):
    task, store = small_task(), random_store(70, size=32)
    found = features_of(task.representation(), store, formats=FeatureFormats(*one))
    network = small_task()
    memory = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[one.memory_format]
    network.encoder.to(memory_format=memory)
    lightness = task.inputs(store.images())  # outside of autocast: color conversions stay in float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=one.precision == "bf16-mixed"):
        expected = torch.cat([network.encoder(some).float() for some in lightness.split(64)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    plain = features_of(task.representation(), store)
    assert not torch.equal(found, plain)
    assert (found - plain).norm() < 0.02 * plain.norm()
    assert all(parameter.is_contiguous() for parameter in task.parameters())


def test_a_choice_is_made_once_for_a_structure_and_not_for_what_is_no_network(choice):
    asked, store = choice(BF16), random_store()
    formats = FeatureFormats(**AUTO, num_images=6)
    task = small_task()
    for network in (task, small_task(), task.untrained(0)):
        assert formats(network.backbone(), [""], store) == BF16
    assert asked == [task]
    assert formats(Pixels("rgb").backbone, [""], store) == PLAIN
    assert formats.describe(task.representation()) == {"computed_in": ["bfloat16"]}
    assert formats.describe(Pixels("rgb")) == {}


def test_few_images_are_computed_in_float32(choice, monkeypatch):
    asked = choice(BF16)
    monkeypatch.setattr(feature_formats, "LEAST_IMAGES", 7)
    assert FeatureFormats(**AUTO, num_images=6)(small_task().backbone(), [""], random_store()) == PLAIN
    assert not asked


@pytest.mark.parametrize(("controls", "tried"), [(["untrained"], True), (False, False)])
def test_the_images_of_untrained_networks_count(controls, tried, choice, monkeypatch):
    """Twelve images, and three twins with as many, are enough; without twins they are not."""
    asked, store = choice(BF16), random_store()
    monkeypatch.setattr(feature_formats, "LEAST_IMAGES", 48)
    options = {"probe": "knn", "seeds": 3, "controls": controls, "device": "cpu"}
    report = sp.evaluate({"net": small_task()}, store, store, **options, **AUTO)
    assert bool(asked) == tried
    assert ("computed_in" in report.card["representations"]["net"][0]) == tried


def test_a_trial_leaves_the_network_unchanged():
    task, store = small_task(), random_store()
    before = {name: (value.clone(), value.stride()) for name, value in task.state_dict().items()}
    chosen = FeatureFormats(**AUTO, num_images=None)(task.backbone(), [""], store)
    assert chosen in [PLAIN, *OTHERS]
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]


def test_a_choice_is_kept_in_the_cache(choice, tmp_path):
    asked, store, task = choice(BF16), random_store(), small_task()
    first = FeatureFormats(**AUTO, num_images=6, cache=Cache(tmp_path))
    features = features_of(task.representation(), store, cache=Cache(tmp_path), formats=first)
    choice(PLAIN)
    again = FeatureFormats(**AUTO, num_images=6, cache=Cache(tmp_path))
    assert torch.equal(features_of(task.representation(), store, cache=Cache(tmp_path), formats=again), features)
    assert len(asked) == 1
    # Features of another format are other features.
    plain = features_of(task.representation(), store, cache=Cache(tmp_path))
    assert not torch.equal(plain, features)


def test_evaluate_writes_the_choice_into_the_card_of_network_and_twin(choice, tmp_path):
    choice(BF16)
    store = sp.sample_photos("train", image_size=32).subset(range(0, 750, 25))
    options = {"probe": "knn", "seeds": 2, "controls": ["untrained", "pixels"], "device": "cpu"}
    report = sp.evaluate({"net": small_task()}, store, store, **options, **AUTO, cache=tmp_path)
    described = report.card["representations"]
    for name in ("net", "net (untrained)"):
        assert all(one["computed_in"] == ["bfloat16"] for one in described[name]), name
    pixels = next(name for name in described if name.startswith("pixels"))
    assert "computed_in" not in described[pixels][0]
    given = sp.evaluate({"net": small_task()}, store, store, **options, precision="bf16-mixed")
    assert given.interval("net").mean == report.interval("net").mean
    plain = sp.evaluate({"net": small_task()}, store, store, **options, cache=tmp_path)
    assert "computed_in" not in plain.card["representations"]["net"][0]


def test_embeddings_have_the_choice_in_their_card_and_continue_with_it(choice, tmp_path, monkeypatch):
    choice(BF16)
    task, store, path = small_task(), random_store(9), tmp_path / "features.npy"
    representation = task.representation(pooling="gap")
    write = partial(embed_to_file, representation, store, path, settings={}, **AUTO)
    monkeypatch.setattr("ssl_pretext.representations.embedding.BLOCK", 4)
    published = "ssl_pretext.representations.embedding_run._publish"
    with monkeypatch.context() as patch:
        patch.setattr(published, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write()
    choice(PLAIN)
    write()
    assert json.loads(card_file(path).read_text())["computed_in"] == ["bfloat16"]
    expected = task.embed(store, precision="bf16-mixed").features
    np.testing.assert_array_equal(Embeddings.load(path).features, expected)
    assert not np.array_equal(task.embed(store).features, expected)


def test_unknown_formats_are_refused():
    with pytest.raises(ArgumentError, match="precision must be one of 32-true, bf16-mixed, auto, got '16-mixed'"):
        small_task().embed(random_store(2), precision="16-mixed")
    with pytest.raises(ArgumentError, match="memory_format must be one of contiguous, channels_last, auto, got 'nhwc'"):
        sp.evaluate(small_task(), random_store(2), random_store(2), memory_format="nhwc")
