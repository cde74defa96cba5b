import os

import pytest
import timm
import torch
from helpers import check_frozen_network
from safetensors.torch import save_file

from ssl_pretext.errors import ArgumentError, CheckpointError, MissingFileError, UnknownNameError
from ssl_pretext.losses import create_loss


@pytest.fixture
def weights(tmp_path):
    """A file with weights of resnet10t."""
    torch.manual_seed(0)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), file)
    return file


def test_is_a_distance_of_unit_features(weights):
    loss = create_loss("perceptual", backbone="resnet10t", stages="0+2", weights=str(weights))
    x, y = 2 * torch.rand(2, 3, 64, 64) - 1, 2 * torch.rand(2, 3, 64, 64) - 1
    body = timm.create_model("resnet10t", features_only=True, out_indices=[0, 2]).eval()
    body.load_state_dict(torch.load(weights), strict=False)
    mean, std = (torch.tensor(body.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = [body((image + 1) / 2 / std - mean / std) for image in (x, y)]
        units = [[m / m.norm(dim=1, keepdim=True).clamp(min=1e-12) for m in many] for many in maps]
        expected = torch.stack([(a - b).square().sum(1).mean() for a, b in zip(*units, strict=True)]).mean()
    assert loss(x, y).item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss(y, y) == 0
    assert not list(loss.parameters())
    assert not loss.state_dict()
    x.requires_grad_()
    loss(x, y).backward()
    assert x.grad.abs().sum() > 0
    loss._hidden = (torch.nn.MaxPool2d(32),)  # pools as much as the VGG networks, which are large, with five layers
    with pytest.raises(ArgumentError, match=r"needs larger images than \(16, 16\): .*too small; choose a larger image"):
        loss(x[..., :16, :16], y[..., :16, :16])


def test_stays_in_float32_when_cast_and_keeps_its_network_in_copies(weights):
    loss = create_loss("perceptual", backbone="resnet10t", weights=str(weights))
    weights.unlink()  # copies must not read it again
    check_frozen_network(loss)


def test_errors_say_what_is_wrong():
    with pytest.raises(MissingFileError, match="needs a file of weights at nowhere.pth, which does not exist"):
        create_loss("perceptual", backbone="resnet10t", weights="nowhere.pth")
    with pytest.raises(UnknownNameError, match="timm has no model 'resnet1'"):
        create_loss("perceptual[backbone=resnet1]")
    with pytest.raises(ArgumentError, match="stages of the perceptual loss must be numbers such as '0.1.2', or 'all'"):
        create_loss("perceptual[backbone=resnet10t;stages=first]")


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_file_of_weights_runs_no_code(tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"conv1.weight": Command(f"touch {trace}")}, file)
    with pytest.raises(CheckpointError, match="is not a file of weights for the perceptual loss: Weights only load"):
        create_loss("perceptual", backbone="resnet10t", weights=str(file))
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the file is as hostile as it was meant to be"


def test_safetensors_give_the_same_distance(weights, tmp_path):
    save_file(torch.load(weights), tmp_path / "weights.safetensors")
    x, y = 2 * torch.rand(2, 3, 64, 64) - 1, 2 * torch.rand(2, 3, 64, 64) - 1
    first, second = (
        create_loss("perceptual", backbone="resnet10t", weights=str(file))
        for file in (weights, tmp_path / "weights.safetensors")
    )
    assert first(x, y) == second(x, y) > 0
