import pytest
import torch

import ssl_pretext as sp
from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Loss, WeightedLosses, create_loss, parse_losses, register_loss
from ssl_pretext.losses.weighted import as_signed_rgb


def test_parse_losses():
    assert parse_losses("smooth_l1=1,lpips[net=squeeze]=0.5") == {"smooth_l1": 1.0, "lpips[net=squeeze]": 0.5}
    assert parse_losses("smooth_l1,lpips[net=squeeze]") == {"smooth_l1": 1.0, "lpips[net=squeeze]": 1.0}
    for text in ("smooth_l1=", "=1", "smooth_l1,,l1", "lpips[net=squeeze]x=", "smooth_l1=one", ""):
        with pytest.raises(ArgumentError, match="losses are written"):
            parse_losses(text)
    with pytest.raises(ArgumentError, match="the loss 'l1' is named twice in 'l1=1,l1=2'"):
        parse_losses("l1=1,l1=2")


def test_a_custom_loss_must_return_a_scalar():
    class Unaveraged(Loss):
        def forward(self, prediction, target):
            return (prediction - target).abs()

    values = torch.zeros(2, 3, 4, 4)
    message = r"loss 'Unaveraged' returned a tensor of shape \(2, 3, 4, 4\), but must return a scalar; average the"
    with pytest.raises(ArgumentError, match=message):
        WeightedLosses({Unaveraged(): 1.0}, Channels("rgb"))(values, values, values, values)


def test_rgb_losses_get_signed_rgb_for_any_target_channels():
    received = {}

    class Spy(Loss):
        def __init__(self):
            super().__init__("rgb")

        def forward(self, prediction, target):
            received["prediction"], received["target"] = prediction, target
            return (prediction - target).abs().mean()

    register_loss("spy")(Spy)
    images = torch.rand(2, 3, 16, 16)
    for name in ("lab:ab", "lab:L", "rgb", "rgb:RG"):
        channels = Channels.parse(name)
        values = channels.extract(images)
        terms = WeightedLosses({"spy": 2.0}, channels)(values, values, images, values)
        assert torch.allclose(received["target"], 2 * images - 1)
        assert terms["spy"] < 1e-4
        assert received["prediction"].abs().max() <= 1 + 1e-6


def test_gradients_do_not_vanish_out_of_gamut():
    ab = torch.full((1, 2, 4, 4), 1.0)
    ab[:, 0] = -1.0
    ab.requires_grad_()
    rgb = as_signed_rgb(ab, Channels.parse("lab:ab"), torch.ones(1, 3, 4, 4))
    assert rgb.abs().max() <= 1 + 1e-6
    rgb[:, 0].sum().backward()
    assert ab.grad.isfinite().all()
    assert (ab.grad[:, 0] != 0).all()


@pytest.mark.parametrize(("text", "weights"), [("smooth_l1", {"smooth_l1": 1.0}), ("l1=2,l2", {"l1": 2.0, "l2": 1.0})])
def test_losses_of_a_task_are_written_as_on_the_command_line(text, weights):
    for task, channels in (("colorization", {}), ("split_brain", {"first": "lab:L", "second": "lab:ab"})):
        torch.manual_seed(0)
        given = sp.create_task(task, encoder="timm/resnet10t[layer=layer1]", losses=text, **channels)
        torch.manual_seed(0)
        same = sp.create_task(task, encoder="timm/resnet10t[layer=layer1]", losses=weights, **channels)
        images = torch.rand(2, 3, 16, 16)
        assert given.options() == same.options()
        assert torch.equal(given(images).loss, same(images).loss)


def test_errors_say_what_is_wrong():
    with pytest.raises(ArgumentError, match="losses is empty, but needs at least one loss"):
        WeightedLosses({}, Channels("rgb"))
    message = "each loss must be given by name with its weight, such as {'smooth_l1': 1.0}, got .*smooth"
    with pytest.raises(ArgumentError, match=message):
        WeightedLosses(["smooth_l1"], Channels("rgb"))
    for loss in (torch.nn.L1Loss(), Loss, lambda prediction, target: 0.0):
        with pytest.raises(ArgumentError, match="a name of list_losses.. or an instance of a subclass of Loss, got"):
            WeightedLosses({loss: 1.0}, Channels("rgb"))
    for weight in (0, -1, float("nan"), "1"):
        with pytest.raises(ArgumentError, match="the weight of loss 'l1' must be a positive number"):
            WeightedLosses({"l1": weight}, Channels("rgb"))
    for same in ({"l1[domain=rgb]": 1.0, "l1[ domain=rgb]": 2.0}, {"l1": 1.0, create_loss("l1"): 2.0}):
        with pytest.raises(ArgumentError, match="two losses have the name 'l1"):
            WeightedLosses(same, Channels("rgb"))
    with pytest.raises(ArgumentError, match="two losses have the name 'Loss', so the term of one would be lost"):
        WeightedLosses({Loss(): 1.0, Loss(): 2.0}, Channels("rgb"))
    with pytest.raises(ArgumentError, match="the loss Loss was constructed directly and cannot be saved; register"):
        _ = WeightedLosses({Loss(): 1.0}, Channels("rgb")).specs
