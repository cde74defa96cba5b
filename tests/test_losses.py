import pickle

import pytest
import torch

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.losses import WeightedLosses, create_loss, list_losses


def test_pixel_losses_follow_their_formulas():
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    d = (x - y).abs()
    assert torch.allclose(create_loss("l1")(x, y), d.mean())
    assert torch.allclose(create_loss("l2")(x, y), (d**2).mean())
    for beta in (1.0, 0.25, 1 / 110):
        huber = torch.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean()
        assert torch.allclose(create_loss("smooth_l1", beta=beta)(x, y), huber)


@pytest.mark.parametrize("name", sorted({*list_losses()} - {"lpips", "perceptual"}))  # which need weights on disk
def test_losses_are_pickled(name):
    losses = WeightedLosses({name: 1.0}, Channels.parse("lab" if name == "lab_classification" else "lab:ab"))
    again = pickle.loads(pickle.dumps(losses))
    target = 0.5 * torch.rand(2, losses.channels.num_channels, 8, 8)
    output = torch.rand(2, losses.logits.num_outputs if losses.logits else 2, 8, 8)
    arguments = (target.flip(0), target, torch.rand(2, 3, 8, 8), output)
    assert again.eval()(*arguments) == losses.eval()(*arguments)


def test_specs_keep_their_options():
    loss = create_loss("smooth_l1[beta=0.5]", domain="rgb")
    assert (loss.spec, loss.domain) == ("smooth_l1[beta=0.5;domain=rgb]", "rgb")
    assert create_loss(loss) is loss
    assert WeightedLosses({"l1": 1, loss: 0.5}, Channels("rgb")).specs == {"l1": 1.0, loss.spec: 0.5}


def test_errors_say_what_is_wrong():
    assert list_losses() == (
        "adversarial channel_classification color_classification l1 l2 lab_classification lpips perceptual "
        "smooth_l1".split()
    )
    with pytest.raises(UnknownNameError, match="no loss named 'lpip'. Did you mean 'lpips'"):
        create_loss("lpip")
    with pytest.raises(ArgumentError, match="'l1' does not take these options"):
        create_loss("l1[beta=2]")
    with pytest.raises(ArgumentError, match="domain of a loss must be one of channels, rgb, logits, got 'lab'"):
        create_loss("l1[domain=lab]")
    with pytest.raises(ArgumentError, match="beta of the loss 'smooth_l1' is a number, such as 0.5, got '1/110'"):
        create_loss("smooth_l1[beta=1/110]")
    with pytest.raises(ArgumentError, match="needs beta > 0, got 0; for beta -> 0 use l1"):
        create_loss("smooth_l1[beta=0]")
    bands = Channels(ChannelSpace.bands("losses-test", ["x", "y"], scale=1))
    with pytest.raises(ArgumentError, match="cannot be computed on losses-test, whose space is not a color space"):
        create_loss("l1[domain=rgb]").bind(bands)
