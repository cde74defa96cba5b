import urllib.error

import pytest
import torch
from helpers import check_frozen_network, needs_squeeze

from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.losses import create_loss


def test_missing_weights_are_an_error_that_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(
        MissingFileError, match=r"alexnet-owt-7be5be79\.pth.*could not be downloaded.*copy it to that path"
    ):
        create_loss("lpips")
    with pytest.raises(ArgumentError, match="net of the loss lpips must be one of alex, vgg, squeeze, got 'resnet'"):
        create_loss("lpips[net=resnet]")


@needs_squeeze
def test_equals_torchmetrics_and_has_no_parameters_or_state():
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    loss = create_loss("lpips", net="squeeze")
    x, y = 2 * torch.rand(2, 3, 32, 32) - 1, 2 * torch.rand(2, 3, 32, 32) - 1
    expected = learned_perceptual_image_patch_similarity(x, y, net_type="squeeze")
    assert torch.allclose(loss(x, y), expected, atol=1e-6)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    x.requires_grad_()
    loss.train()(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert loss(y, y) == 0
    with pytest.raises(ArgumentError, match="at least 17×17"):
        loss(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


@needs_squeeze
def test_stays_in_float32_when_cast_and_keeps_its_network_in_copies():
    check_frozen_network(create_loss("lpips[net=squeeze]"))
