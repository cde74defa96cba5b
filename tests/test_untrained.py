import numpy as np
import pytest
import torch
from torch import nn

from ssl_pretext.encoders import create_encoder, without_weights
from ssl_pretext.encoders.untrained import batch_norms, measured_statistics, open_residual_branches


def test_names_without_pretrained_weights():
    assert without_weights("timm/resnet10t[pretrained=true]") == "timm/resnet10t"
    assert without_weights("autoencoder[width=0.5]") == "autoencoder[width=0.5]"


# Versions that are harder to beat


@pytest.mark.parametrize(
    ("name", "ending", "count"),
    [
        ("timm/resnet18", "bn2.weight", 8),
        ("timm/resnet10t", "bn2.weight", 4),
        ("timm/regnetx_002", "conv3.bn.weight", 13),
        ("timm/convnext_atto", "gamma", 12),
        ("timm/nf_resnet26", "conv3.gain", 8),
        ("timm/swinv2_cr_tiny_224[img_size=64]", "weight", None),
        ("torchvision/convnext_tiny", "layer_scale", 18),
        ("torchvision/resnet18", "", 0),
        ("torchvision/resnet18[zero_init_residual=true]", "bn2.weight", 8),
    ],
)
def test_residual_branches_get_their_full_scale(name, ending, count):
    encoder = create_encoder(name, in_channels=3)
    others = {key: value.clone() for key, value in encoder.state_dict().items()}
    opened = open_residual_branches(encoder)
    assert count in (None, len(opened))
    assert all(key.endswith(ending) for key in opened)
    for key, value in encoder.state_dict().items():
        assert (value == 1).all() if key in opened else torch.equal(value, others[key]), key
    assert open_residual_branches(encoder) == []


def test_an_open_block_differs_from_its_shortcut():
    encoder = create_encoder("timm/resnet18", in_channels=3).eval()
    block, maps = encoder.body.layer1[1], torch.rand(2, 64, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(maps), maps)
        open_residual_branches(encoder)
        assert (block(maps) - maps).abs().mean() > 0.01


def test_zero_layers_are_drawn_again_and_other_zeros_are_kept():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(4, 4, 1)
            self.response = nn.Module()  # as timm's global response normalization, which zeros make an identity
            self.response.weight = nn.Parameter(torch.zeros(4))
            self.position = nn.Parameter(torch.zeros(1, 4, 8))
            self.skipinit_gain = nn.Parameter(torch.tensor(0.0))
            self.gamma = nn.Parameter(torch.full((4,), 0.1))

    block = Block()
    nn.init.zeros_(block.last.weight)
    assert open_residual_branches(block) == ["skipinit_gain", "last.weight"]
    assert block.last.weight.abs().min() > 0
    assert not block.response.weight.any()
    assert not block.position.any()
    assert (block.skipinit_gain, block.gamma[0]) == (1, 0.1)


def test_measured_statistics_are_the_mean_and_variance_of_all_batches():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(), nn.BatchNorm2d(5))
    network.eval()
    images = 3 + torch.randn(50, 3, 9, 9) * torch.linspace(0.1, 4, 50).view(-1, 1, 1, 1)  # batches differ
    with torch.no_grad():
        maps = network[0](images).double().numpy()
        with measured_statistics(network) as measured:
            for batch in images.tensor_split(4):
                network(batch)
            assert {*measured} == {network[1], network[4]}
    values = np.moveaxis(maps, 1, 0).reshape(5, -1)
    np.testing.assert_allclose(network[1].running_mean, values.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(network[1].running_var, values.var(axis=1, ddof=1), rtol=1e-5)
    # The second layer gets what the first one makes of a batch with the statistics of that batch.
    batches = [np.moveaxis(part, 1, 0).reshape(5, -1) for part in np.array_split(maps, 4)]
    normalized = [(b - b.mean(1, keepdims=True)) / np.sqrt(b.var(1, ddof=1, keepdims=True) + 1e-5) for b in batches]
    second = np.maximum(np.concatenate(normalized, axis=1), 0)
    np.testing.assert_allclose(network[4].running_mean, second.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(network[4].running_var, second.var(axis=1, ddof=1), rtol=1e-4)
    assert not network.training
    assert not any(layer._forward_pre_hooks for layer in network)
    before = network[1].running_mean.clone()
    network(images)
    assert torch.equal(network[1].running_mean, before)


def test_only_layers_that_run_are_measured():
    network = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)]).eval()
    with measured_statistics(network) as measured:
        network[0](torch.rand(4, 2, 3, 3))
        network[2](torch.rand(4, 2, 3, 3))
    assert [*measured] == [network[0]]
    assert network[1].running_mean.tolist() == [0, 0]
    assert batch_norms(network) == [network[0], network[1]]
