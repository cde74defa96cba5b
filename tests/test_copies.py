import copy
import threading

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ssl_pretext as sp
from ssl_pretext.encoders.copies import detached_copy, unwrapped
from ssl_pretext.errors import ArgumentError


class Recorder(nn.Module):
    """An encoder that stores what it computed, directly and inside of other objects."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, 2, stride=2)

    def forward(self, images):
        self.last = self.layer(images)
        self.seen = {"maps": [self.last, images]}
        return self.last


@pytest.mark.parametrize("make", [Recorder, lambda: nn.utils.spectral_norm(nn.Conv2d(1, 4, 2, stride=2))])
def test_modules_with_computed_tensors_are_exported_and_have_controls(make):
    task, photos = sp.Colorization(make(), losses={"l1": 1.0}), torch.rand(2, 3, 8, 8)
    task(photos).loss.backward()
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly"):
        copy.deepcopy(task.encoder)
    exported = sp.export_encoder(task)
    assert torch.equal(exported(photos), task.eval().features(photos))
    assert not torch.equal(task.untrained(0).eval().features(photos), task.features(photos))
    with torch.no_grad():
        next(exported.parameters()).add_(1)
    assert not torch.equal(exported(photos), task.features(photos))


def test_a_tensor_that_is_stored_twice_is_copied_once():
    network = Recorder()
    network(torch.rand(1, 1, 4, 4))
    duplicate = detached_copy(network)
    assert duplicate.last is duplicate.seen["maps"][0]
    assert torch.equal(duplicate.last, network.last)
    assert (duplicate.last.requires_grad, network.last.requires_grad) == (False, True)


def test_what_cannot_be_copied_is_named():
    network = nn.Conv2d(1, 2, 3)
    network.lock = threading.Lock()
    with pytest.raises(ArgumentError, match=r"Conv2d cannot be copied: .*lock.* outside of the module"):
        sp.export_encoder(sp.Colorization(network))


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, AveragedModel, lambda x: torch.compile(nn.DataParallel(x))]
)
@pytest.mark.parametrize("wrapped_later", [False, True])
def test_wrapped_networks_are_saved_and_loaded(wrap, wrapped_later, tmp_path):
    network, decoder = nn.Conv2d(1, 4, 2, stride=2), nn.ConvTranspose2d(4, 2, 2, stride=2)
    task = sp.Colorization(wrap(network), decoder=wrap(decoder), losses={"l1": 1.0})
    task.save_pretrained(tmp_path)
    new = {"encoder": nn.Conv2d(1, 4, 2, stride=2), "decoder": nn.ConvTranspose2d(4, 2, 2, stride=2)}
    parts = {name: wrap(part) for name, part in new.items()} if wrapped_later else new
    again, photos = sp.PretextTask.from_pretrained(tmp_path, parts=parts), torch.rand(2, 3, 8, 8)
    assert {"encoder.weight", "decoder.weight"} < {*again.state_dict()}
    assert torch.equal(again.features(photos), task.features(photos))
    assert torch.equal(sp.FrozenNetwork(wrap(network), channels="lab:L").encoder.weight, network.weight)


def test_one_network_in_two_wrappers_is_one_network():
    network = nn.Conv2d(1, 4, 2, stride=2)
    with pytest.raises(ArgumentError, match="the same module twice"):
        sp.SplitBrain("lab:L", "gray", [network, nn.DataParallel(network)])


def test_networks_that_are_named_module_stay():
    network = nn.Module()
    network.module = nn.Conv2d(1, 4, 2)
    assert unwrapped(network) is network
