"""Networks inside of functions: they are found, and `evaluate` says what is missing or refuses what would be wrong."""

from functools import partial

import pytest
import torch
from probing import small_network, two_classes
from torch import nn
from torch.nn import functional as F

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import Backbone
from ssl_pretext.representations.hidden import hidden_networks

NETWORK = nn.Conv2d(3, 4, 3)
OTHER = nn.Conv2d(3, 5, 3)


def of_a_module(images):
    return NETWORK(images.float())


def inside(images):
    return torch.stack([NETWORK(image[None].float())[0] for image in images])


def with_default(images, network=NETWORK):
    return network(images.float())


class Extractor:
    def __init__(self, network):
        self.network = network

    def __call__(self, images):
        return self.encode(images)

    def encode(self, images):
        return self.network(images.float())


def run(network, images):
    return network(images.float())


def no_network(images):
    return F.avg_pool2d(images.float(), 2)


FUNCTIONS = {
    "global variable": of_a_module,
    "inside a comprehension": inside,
    "default": with_default,
    "closure": (lambda network: lambda images: network(images.float()))(NETWORK),
    "function in a function": lambda images: of_a_module(images),
    "list": (lambda networks: lambda images: networks[0](images.float()))([NETWORK]),
    "partial": partial(run, NETWORK),
    "object": Extractor(NETWORK),
    "method": Extractor(NETWORK).encode,
    "object in a closure": (lambda own: lambda images: own.encode(images))(Extractor(NETWORK)),
    "the network itself": NETWORK,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_networks_are_found(kind):
    assert hidden_networks(sp.Representation("own", FUNCTIONS[kind])) == [NETWORK]


def test_nothing_else_is_found():
    assert hidden_networks(sp.Representation("own", no_network)) == []
    assert hidden_networks(sp.Pixels("rgb")) == []
    assert hidden_networks(small_network()) == []
    joined = sp.representations.Concatenated([sp.Representation("own", of_a_module), sp.Pixels("rgb")])
    assert hidden_networks(joined) == [NETWORK]


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (sp.Representation("own", of_a_module), "it is a function around a Conv2d"),
        (sp.Representation("own", no_network), "it is a function"),
        (
            Backbone(lambda images, layers: {layer: of_a_module(images) for layer in layers}, module=NETWORK)
            .representation(),
            "its Backbone around a Conv2d has no `untrained`",
        ),
    ],
)  # fmt: skip
def test_a_missing_untrained_control_is_named_with_the_reason(own, reason, tmp_path):
    call = {"train": two_classes(8), "test": two_classes(8), "probe": "knn", "seeds": 1}
    found = sp.evaluate({"own": own, "network": small_network(), "pixels": sp.Pixels("rgb")}, **call)
    assert found.card["without_twin"] == {"own": reason}
    (sentence,) = [one for one in found.sentences() if "no untrained control" in one]
    assert sentence.startswith(f"own has no untrained control, because {reason}: nothing here shows what training")
    other = sp.evaluate({"more": sp.Representation("more", no_network)}, **call)
    assert found.merge(other).card["without_twin"] == {"own": reason, "more": "it is a function"}
    without = sp.evaluate({"own": own}, **call, controls=["pixels"])
    assert not any("untrained" in one for one in without.sentences())


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout(), nn.Dropout2d()])
def test_a_network_in_train_mode_inside_of_a_function_is_refused(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    own = sp.Representation("own", lambda images: network(images / 255))
    call = {"train": two_classes(8), "test": two_classes(8), "probe": "knn", "seeds": 1}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        ArgumentError, match=rf"'own' is a function around a Sequential in train mode, .* {type(layer).__name__} "
    ):
        sp.evaluate({"own": own}, **call)
    network.eval()
    assert sp.evaluate({"own": own}, **call).names
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
