import numpy as np
import pytest
import torch
from helpers import small_encoder
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.weight_norm import WeightNorm
from torchvision.ops import FrozenBatchNorm2d

from ssl_pretext.encoders import create_encoder, without_weights
from ssl_pretext.encoders.untrained import batch_norms, measured_statistics, open_residual_branches, reinitialized
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks import Colorization


def test_names_without_pretrained_weights():
    assert without_weights("timm/resnet10t[pretrained=true]") == "timm/resnet10t"
    assert without_weights("autoencoder[width=0.5]") == "autoencoder[width=0.5]"


def test_a_copy_has_new_random_parameters_and_leaves_the_original_unchanged():
    torch.manual_seed(0)
    encoder = small_encoder(1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    untrained = reinitialized(encoder)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert untrained.state_dict().keys() == before.keys()
    for name, value in untrained.state_dict().items():
        assert value.shape == before[name].shape
    assert not torch.equal(untrained[0].weight, encoder[0].weight)
    assert not torch.equal(untrained[3].weight, encoder[3].weight)


def trained(network: nn.Module) -> nn.Module:
    """The network after some steps that teach it the mean color of images."""
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(20):
        images = torch.rand(8, 3, 12, 12)
        loss = (network(images).mean(dim=(2, 3)) - 9 * images.mean(dim=(1, 2, 3))[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def layered(wrap) -> nn.Module:
    return nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3, padding=1)), nn.BatchNorm2d(8), nn.ReLU(), wrap(nn.Conv2d(8, 8, 3, padding=1))
    )


WRAPPERS = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral and weight norm": lambda layer: parametrizations.spectral_norm(parametrizations.weight_norm(layer)),
    "old spectral_norm": nn.utils.spectral_norm,
    "old weight_norm": lambda layer: WeightNorm.apply(layer, "weight", 0) and layer,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_behind_a_parametrization_are_drawn_anew(wrapper, is_frozen):
    torch.manual_seed(0)
    network = trained(layered(WRAPPERS[wrapper])).eval().requires_grad_(not is_frozen)
    images = torch.rand(8, 3, 12, 12)
    before = network(images).detach()
    twin = reinitialized(network)
    assert torch.equal(network(images), before)
    assert {name: value.shape for name, value in twin.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert {parameter.requires_grad for parameter in twin.parameters()} == {not is_frozen}
    features, others = before.numpy(), twin(images).detach().numpy()
    correlations = [
        np.corrcoef(x.ravel(), y.ravel())[0, 1] for x in features.swapaxes(0, 1) for y in others.swapaxes(0, 1)
    ]
    assert np.abs(correlations).max() < 0.9
    assert abs(np.mean(correlations)) < 0.2
    bound = 1 / np.sqrt(8 * 9)  # nn.Conv2d draws uniformly between -bound and bound
    weight = twin[3].weight.detach().double().numpy().reshape(8, -1)
    if "spectral" in wrapper:
        assert np.linalg.norm(weight, 2) == pytest.approx(1, abs=0.02)
    elif wrapper == "orthogonal":  # of the matrices in the last two dimensions, with signs that depend on the matrix
        kernels = twin[3].weight.detach().double().numpy()
        np.testing.assert_allclose(
            kernels @ kernels.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (8, 8, 3, 3)), atol=1e-5
        )
    else:
        assert np.abs(weight).max() < bound + 1e-6
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_the_values_are_those_of_a_new_network():
    """The network is drawn as its constructor would: submodules first."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2)
    nn.init.ones_(attention.in_proj_weight)
    nn.init.ones_(attention.out_proj.bias)
    twin = reinitialized(attention)
    assert twin.in_proj_weight.abs().max() < 0.5
    assert not twin.out_proj.bias.any()


def test_fixed_filters_stay():
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[0].requires_grad_(False)
    network[2].requires_grad_(False)  # as it is in a new network
    network(torch.rand(4, 3, 8, 8))
    network.register_buffer("grid", torch.rand(5), persistent=False)
    network.register_buffer("order", torch.arange(5))
    twin = reinitialized(network)
    assert torch.equal(twin[0].weight, network[0].weight)
    assert torch.equal(twin.grid, network.grid)
    assert twin.order.tolist() == [0, 1, 2, 3, 4]
    assert not torch.equal(twin[1].weight, network[1].weight)
    assert [parameter.requires_grad for parameter in twin.parameters()] == [False, True, True, False, False]
    assert not twin[2].running_mean.any()
    trained_before = reinitialized(network.requires_grad_(False))
    assert not torch.equal(trained_before[0].weight, network[0].weight)


class Gained(nn.Conv2d):
    """A convolution with a parameter that its `reset_parameters` leaves as it is."""

    def __init__(self):
        super().__init__(3, 4, 1)
        self.gain = nn.Parameter(torch.ones(1))


class Codebook(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 1)
        self.register_buffer("codes", torch.rand(4))


class Extra(nn.Conv2d):
    """A convolution that saves something else than tensors, as quantized layers do."""

    def get_extra_state(self):
        return {"scale": 3}

    def set_extra_state(self, state):
        pass


def frozen_stage(norm):
    """A network whose first stage was frozen after training, of which only the norm is not as it is in filters."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1))
    nn.init.uniform_(norm.bias)
    network[:2].requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (Gained, "gain"),
        (Codebook, "codes"),
        (lambda: Extra(3, 4, 1), "_extra_state"),
        (lambda: FrozenBatchNorm2d(3), "weight, bias, running_mean"),
        (lambda: prune.l1_unstructured(nn.Conv2d(3, 4, 1), "weight", amount=0.5), "weight_orig, weight_mask"),
        (lambda: frozen_stage(nn.BatchNorm2d(4)), "1.bias"),
        (lambda: frozen_stage(nn.GroupNorm(2, 4)), "1.bias"),
    ],
)
def test_what_was_possibly_learned_is_refused(make, left):
    message = (
        rf"no untrained copy of \w+ can be made, .* no reset_parameters\(\) that draws {left} anew, .* persistent="
    )
    with pytest.raises(ArgumentError, match=message):
        reinitialized(make())


def test_a_task_refuses_too():
    network = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2))
    network.register_buffer("codes", torch.rand(4))
    with pytest.raises(ArgumentError, match="that draws codes anew"):
        Colorization(network).untrained(0)


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
