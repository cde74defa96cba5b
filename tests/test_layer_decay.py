"""Groups of parameters by layer: their learning rates, and networks without an order of layers."""

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.encoders.layer_decay import layer_decay_groups
from ssl_pretext.errors import ArgumentError

RATES = {"layer_decay": 0.5, "learning_rate": 0.1, "weight_decay": 0.01}


@pytest.mark.parametrize("encoder", ["timm/resnet10t", "timm/resnet10t[layer=layer2]"])
def test_the_rate_falls_from_layer_to_layer(encoder):
    network = sp.create_encoder(encoder, in_channels=1)
    rates = {
        id(parameter): group["lr"] for group in layer_decay_groups([network], **RATES) for parameter in group["params"]
    }
    assert {id(parameter) for parameter in network.parameters()} == {*rates}
    names = " ".join(network.state_dict())
    stages = ["conv1", *(stage for stage in ("layer1", "layer2", "layer3", "layer4") if f"body.{stage}." in names)]
    for number, stage in enumerate(reversed(stages)):
        found = {rates[id(parameter)] for name, parameter in network.named_parameters() if f"body.{stage}." in name}
        assert [*found] == pytest.approx([0.1 * 0.5**number]), stage


def test_the_weight_decay_is_that_of_all_parameters():
    groups = layer_decay_groups([sp.create_encoder("timm/resnet10t")], **RATES)
    assert {group["weight_decay"] for group in groups} == {0.01}
    torch.optim.AdamW(groups)


def test_both_encoders_of_a_task_are_grouped_and_its_decoders_are_not():
    task = sp.SplitBrain("lab:L", "lab:ab", encoder="timm/resnet10t[layer=layer1]")
    grouped = {id(parameter) for group in layer_decay_groups([task], **RATES) for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in task.encoder.parameters()}


def test_a_network_whose_layers_have_no_order_is_refused():
    with pytest.raises(ArgumentError, match="layer_decay=0.5 needs a network whose layers are in order.*got Conv2d"):
        layer_decay_groups([nn.Conv2d(3, 4, 3)], **RATES)
