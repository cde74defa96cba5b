"""Parts of a module keep their modes, tasks train in train mode, and features are computed in eval mode."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import small_encoder
from torch import nn
from training_runs import noise_store, same_run, small_task

import ssl_pretext as sp
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.training.modes import set_train_mode


@pytest.fixture
def network():
    """A network in training mode with one nested part in eval mode."""
    inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).eval())
    return nn.Sequential(inner, nn.Dropout())


def modes(network):
    return {name: part.training for name, part in network.named_modules()}


def test_parts_with_different_modes_are_restored(network):
    before = modes(network)
    assert set(before.values()) == {True, False}
    with eval_mode(network):
        assert not any(modes(network).values())
    assert modes(network) == before


def test_modes_are_restored_after_an_exception(network):
    before = modes(network)
    with pytest.raises(RuntimeError, match="out of memory"), eval_mode(network):
        raise RuntimeError("out of memory")
    assert modes(network) == before


def test_modes_are_restored_when_the_last_block_ends(network):
    """Blocks of threads may overlap in any order, and blocks may be nested."""
    before = modes(network)
    first, second, inner = eval_mode(network), eval_mode(network), eval_mode(network[0])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(modes(network).values())
    inner.__enter__()
    second.__exit__(None, None, None)
    assert not any(modes(network[0]).values())
    assert network[1].training
    inner.__exit__(None, None, None)
    assert modes(network) == before


def test_threads_compute_the_same_features_of_a_network_in_train_mode():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout())
    representation, images = sp.FrozenNetwork(net).representation(), torch.rand(8, 3, 16, 16)
    expected, state = representation.features(images), copy.deepcopy(net.state_dict())
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: representation.features(images), range(200)))
    assert all(torch.equal(features, expected) for features in found)
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_training_starts_in_train_mode_and_ends_in_eval_mode(tmp_path):
    """A loaded task is in eval mode; features are those of the saved task, in whatever mode they are computed."""
    images = noise_store()
    task = small_task().eval()
    config = {"epochs": 1, "batch_size": 8, "device": "cpu"}
    sp.fit(task, images, sp.FitConfig(out=tmp_path / "first", **config))
    assert task.encoder[1].num_batches_tracked == 5
    assert not any(part.training for part in task.modules())

    loaded = sp.PretextTask.from_pretrained(tmp_path / "first/task", parts={"encoder": small_task().encoder})
    expected, state = loaded.features(images.images()), copy.deepcopy(task.state_dict())
    for training in (False, True):
        task.train(training)
        for features in (
            task.features(images.images()),
            task.feature_maps(images.images(), [""])[""],
            task.representation().features(images.images()),
            task.backbone().representations()["2"].features(images.images()),
            sp.FrozenNetwork(task.encoder, channels="lab:L").representation().features(images.images()),
            sp.export_encoder(task)(images.images()),
        ):
            torch.testing.assert_close(features, expected)
        colored = task.predict(images.images())
        torch.testing.assert_close(colored, loaded.predict(images.images()))
        torch.testing.assert_close(colored[:1], task.predict(images.images()[:1]))  # whatever the batch
        assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    assert all(part.training for part in task.modules())

    sp.fit(loaded, images, sp.FitConfig(out=tmp_path / "second", **config))
    assert loaded.encoder[1].num_batches_tracked == 10


def test_a_loaded_task_trains_like_a_new_one(tmp_path):
    """Input noise is on, and the critic of the adversarial loss learns."""

    def run(name, *, load):
        torch.manual_seed(0)
        losses = {"l2": 1.0, "adversarial[width=4]": 0.01}
        task = sp.CrossChannelPrediction("lab:L", "lab:ab", small_encoder(1), losses=losses, input_noise=0.3)
        if load:
            task.save_pretrained(tmp_path / "saved")
            task = sp.PretextTask.from_pretrained(tmp_path / "saved", parts={"encoder": small_encoder(1)})
        config = sp.FitConfig(out=tmp_path / name, epochs=1, batch_size=8, device="cpu")
        return sp.fit(task, noise_store(16), config), task.state_dict()

    assert same_run(run("new", load=False), run("loaded", load=True))


def test_frozen_parts_stay_in_eval_mode():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2)), nn.Dropout(), nn.Identity())
    net[1].requires_grad_(False)
    net.eval()
    set_train_mode(net)
    assert [part.training for part in (net, net[0], net[1], net[1][0], net[1][1], net[2], net[3])] == [
        *(True, True),
        *(False, False, False),
        *(True, True),
    ]
    net.train()  # a frozen part in train mode stays as it is
    set_train_mode(net)
    assert net[1][1].training
    task = sp.Colorization(small_encoder(1), losses={"l2": 1.0, "adversarial[width=4]": 0.01}).eval()
    set_train_mode(task)
    assert all(isinstance(part, sp.losses.Loss) <= part.training for part in task.modules())
