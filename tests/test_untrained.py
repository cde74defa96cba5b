import pytest
import torch
from helpers import small_encoder
from torch import nn

from ssl_pretext.encoders import without_weights
from ssl_pretext.encoders.untrained import reinitialized
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


def test_a_part_without_reset_parameters_is_an_error():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, images):
            return self.gain * images

    message = r"no untrained copy of Scaled can be made, .* parameters gain have no reset_parameters\(\)"
    with pytest.raises(ArgumentError, match=message):
        Colorization(Scaled()).untrained(0)
