import pytest
import torch
from torch import nn

from ssl_pretext.encoders import (
    AutoencoderDecoder,
    EncoderShape,
    UpsamplingDecoder,
    create_decoder,
    decoder_for,
    measure_encoder,
)
from ssl_pretext.errors import ArgumentError, UnknownNameError


def test_the_default_decoder_of_a_module_reaches_the_size_of_its_input():
    encoder = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.ReLU())
    shape = measure_encoder(encoder, 3)
    assert (shape.channels, shape.reduction) == (16, 4)
    assert create_decoder(decoder_for(encoder), encoder, shape, 2)(encoder(torch.zeros(1, 3, 32, 32))).shape == (
        1,
        2,
        32,
        32,
    )


def test_decoders_by_name_reach_the_size_of_the_input_from_any_reduction():
    for reduction in (1, 2, 4, 14, 21.3, 32):
        shape = EncoderShape(1, 24, reduction)
        for kind, decoder in (("upsampling", UpsamplingDecoder), ("autoencoder", AutoencoderDecoder)):
            created = create_decoder(kind, nn.Identity(), shape, 2)
            assert isinstance(created, decoder)
            assert reduction <= created(torch.zeros(2, 24, 1, 1)).shape[-1] < 2 * reduction
    head = nn.Conv2d(24, 2, 1)
    assert create_decoder(head, nn.Identity(), shape, 2) is head
    with pytest.raises(
        UnknownNameError, match="no decoder named 'unit'; the decoders are autoencoder, unet, upsampling"
    ):
        create_decoder("unit", nn.Identity(), shape, 2)
    with pytest.raises(ArgumentError, match="a decoder must be a name or an nn.Module instance, got int"):
        create_decoder(3, nn.Identity(), shape, 2)
