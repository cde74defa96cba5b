import pytest
import torch
from torch import nn

from ssl_pretext.encoders import (
    AutoencoderDecoder,
    AutoencoderEncoder,
    create_decoder,
    create_encoder,
    feature_layers,
    list_encoders,
    measure_encoder,
)
from ssl_pretext.encoders.inspection import capture
from ssl_pretext.errors import ArgumentError, UnknownNameError


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_documented_autoencoder_has_the_published_parameters():
    encoder = AutoencoderEncoder()
    assert parameters(encoder.body) == 533_544
    assert parameters(encoder.to_latent) == 36
    assert parameters(AutoencoderDecoder()) == 754_051
    shape = measure_encoder(create_encoder("autoencoder"), 1)
    assert (shape.channels, shape.reduction) == (4, 4)
    assert parameters(encoder, create_decoder(encoder, shape, 3)) == 1_287_631


@pytest.mark.parametrize("size", [32, 48])
def test_decoder_mirrors_the_encoder(size):
    encoder = AutoencoderEncoder(in_channels=2)
    latent = encoder(torch.zeros(1, 2, size, size))
    assert latent.shape == (1, 4, size // 4, size // 4)
    assert AutoencoderDecoder(out_channels=5)(latent).shape == (1, 5, size, size)


def test_a_module_passes_through_and_gets_a_decoder_back_to_its_input():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.ReLU())
    assert create_encoder(net) is net
    shape = measure_encoder(net, 3)
    assert (shape.channels, shape.reduction) == (16, 4)
    assert create_decoder(net, shape, 2)(net(torch.zeros(1, 3, 32, 32))).shape == (1, 2, 32, 32)


def test_measuring_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[2].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    measure_encoder(net, 1)
    assert [part.training for part in net] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_layers_are_in_running_order_and_can_be_captured():
    encoder = AutoencoderEncoder()
    layers = feature_layers(encoder, 1)
    assert layers.index("body.conv_in") < layers.index("body.down_blocks.0") < layers.index("body.mid_block")
    assert layers.index("body.mid_block") < layers.index("to_latent")
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(capture(encoder, images, "to_latent"), encoder(images))
    for layer in layers:
        assert capture(encoder, images, layer).dim() == 4


def test_errors_say_what_is_wrong():
    assert list_encoders() == ["autoencoder"]
    with pytest.raises(UnknownNameError, match="no encoder named 'autoencodr'. Did you mean 'autoencoder'"):
        create_encoder("autoencodr")
    with pytest.raises(ArgumentError, match="a name or an nn.Module instance, got int"):
        create_encoder(3)
    with pytest.raises(ArgumentError, match="does not run on images of shape"):
        measure_encoder(nn.Conv2d(3, 4, 1), 1)
    with pytest.raises(ArgumentError, match=r"returned \(1, 4096\)"):
        measure_encoder(nn.Flatten(), 1)
    with pytest.raises(UnknownNameError, match="no layer 'nope'"):
        capture(AutoencoderEncoder(), torch.zeros(1, 1, 32, 32), "nope")
    with pytest.raises(ArgumentError, match="gives no feature map"):
        capture(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 8, 8))), torch.zeros(1, 1, 8, 8), "0")
