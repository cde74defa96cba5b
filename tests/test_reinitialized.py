import numpy as np
import pytest
import torch
from helpers import small_encoder
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.weight_norm import WeightNorm
from torchvision.ops import FrozenBatchNorm2d

from ssl_pretext.encoders.reinitialized import reinitialized
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks import Colorization


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


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (Gained, "gain"),
        (Codebook, "codes"),
        (lambda: Extra(3, 4, 1), "_extra_state"),
        (lambda: FrozenBatchNorm2d(3), "weight, bias, running_mean"),
        (lambda: prune.l1_unstructured(nn.Conv2d(3, 4, 1), "weight", amount=0.5), "weight_orig, weight_mask"),
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


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
def test_a_stage_that_was_trained_and_then_frozen_is_refused(norm):
    """Its convolution may be a fixed filter, but its norm cannot be."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Conv2d(4, 4, 1))
    nn.init.uniform_(norm.bias)
    network[:2].requires_grad_(False)
    with pytest.raises(
        ArgumentError, match=r"1.bias is frozen but not as in a new norm, .* such as 0.bias. Call requires_"
    ):
        reinitialized(network)
    network[0].requires_grad_(True)  # only the norm is frozen, as in fine-tuning, and it is drawn anew
    twin = reinitialized(network)
    assert not twin[1].bias.any()
    assert not torch.equal(twin[0].weight, network[0].weight)
