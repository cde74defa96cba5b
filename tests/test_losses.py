import copy
import urllib.error
from pathlib import Path

import pytest
import torch

from ssl_pretext.channels import Channels, ChannelSpace
from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.losses import Loss, WeightedLosses, create_loss, list_losses, parse_losses, register_loss
from ssl_pretext.losses.base import LOSSES
from ssl_pretext.losses.weighted import as_signed_rgb
from ssl_pretext.regularizers import WeightedRegularizers

SQUEEZE = Path(torch.hub.get_dir()) / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
needs_squeeze = pytest.mark.skipif(not SQUEEZE.exists(), reason=f"{SQUEEZE.name} is not in TORCH_HOME")


def test_pixel_losses_follow_their_formulas():
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    d = (x - y).abs()
    assert torch.allclose(create_loss("l1")(x, y), d.mean())
    assert torch.allclose(create_loss("l2")(x, y), (d**2).mean())
    for beta in (1.0, 0.25, 1 / 110):
        huber = torch.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean()
        assert torch.allclose(create_loss("smooth_l1", beta=beta)(x, y), huber)


def test_specs_keep_their_options():
    loss = create_loss("smooth_l1[beta=0.5]", domain="rgb")
    assert (loss.spec, loss.domain) == ("smooth_l1[beta=0.5;domain=rgb]", "rgb")
    assert create_loss(loss) is loss
    assert WeightedLosses({"l1": 1, loss: 0.5}, Channels("rgb")).specs == {"l1": 1.0, loss.spec: 0.5}


def test_losses_as_text():
    assert parse_losses("smooth_l1=1,lpips[net=squeeze]=0.5") == {"smooth_l1": 1.0, "lpips[net=squeeze]": 0.5}
    for text in ("smooth_l1", "smooth_l1=", "=1", "smooth_l1=one", ""):
        with pytest.raises(ArgumentError, match="losses are written"):
            parse_losses(text)
    with pytest.raises(ArgumentError, match="named twice"):
        parse_losses("l1=1,l1=2")


def test_a_loss_of_ones_own_gives_one_number():
    class Unaveraged(Loss):
        def forward(self, prediction, target):
            return (prediction - target).abs()

    values = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ArgumentError, match=r"loss 'Unaveraged' gave a tensor \(2, 3, 4, 4\), not one number; average"):
        WeightedLosses({Unaveraged(): 1.0}, Channels("rgb"))(values, values, values, values)


def test_rgb_losses_get_signed_rgb_whatever_the_target(monkeypatch):
    seen = {}

    class Spy(Loss):
        def __init__(self):
            super().__init__("rgb")

        def forward(self, prediction, target):
            seen["prediction"], seen["target"] = prediction, target
            return (prediction - target).abs().mean()

    monkeypatch.setattr(LOSSES, "_factories", dict(LOSSES._factories))
    register_loss("spy")(Spy)
    images = torch.rand(2, 3, 16, 16)
    for name in ("lab:ab", "lab:L", "rgb", "rgb:RG"):
        channels = Channels.parse(name)
        values = channels.extract(images)
        terms = WeightedLosses({"spy": 2.0}, channels)(values, values, images, values)
        assert torch.allclose(seen["target"], 2 * images - 1)
        assert terms["spy"] < 1e-4
        assert seen["prediction"].abs().max() <= 1 + 1e-6


def test_gradients_are_alive_out_of_gamut():
    ab = torch.full((1, 2, 4, 4), 1.0)
    ab[:, 0] = -1.0
    ab.requires_grad_()
    rgb = as_signed_rgb(ab, Channels.parse("lab:ab"), torch.ones(1, 3, 4, 4))
    assert rgb.abs().max() <= 1 + 1e-6
    rgb[:, 0].sum().backward()
    assert ab.grad.isfinite().all()
    assert (ab.grad[:, 0] != 0).all()


def test_errors_say_what_is_wrong():
    assert list_losses() == (
        "adversarial channel_classification color_classification l1 l2 lab_classification lpips perceptual "
        "smooth_l1".split()
    )
    with pytest.raises(UnknownNameError, match="no loss named 'lpip'. Did you mean 'lpips'"):
        create_loss("lpip")
    with pytest.raises(ArgumentError, match="'l1' does not take these options"):
        create_loss("l1[beta=2]")
    with pytest.raises(ArgumentError, match="domain of a loss is one of channels, rgb, logits"):
        create_loss("l1[domain=lab]")
    with pytest.raises(ArgumentError, match="beta of the loss 'smooth_l1' is a number, such as 0.5, got '1/110'"):
        create_loss("smooth_l1[beta=1/110]")
    with pytest.raises(ArgumentError, match="needs beta > 0"):
        create_loss("smooth_l1[beta=0]")
    with pytest.raises(ArgumentError, match="at least one loss"):
        WeightedLosses({}, Channels("rgb"))
    for wrong in ("smooth_l1", ["smooth_l1"]):
        with pytest.raises(
            ArgumentError, match="a loss is given by name with its weight, such as {'smooth_l1': 1.0}, got .*smooth"
        ):
            WeightedLosses(wrong, Channels("rgb"))
    with pytest.raises(
        ArgumentError, match="a regularizer is given by name with its weight, such as {'l2': 1e-4}, got 'l2'"
    ):
        WeightedRegularizers("l2")
    for loss in (torch.nn.L1Loss(), Loss, lambda prediction, target: 0.0):
        with pytest.raises(ArgumentError, match="a name of list_losses.. or an instance of a subclass of Loss, got"):
            WeightedLosses({loss: 1.0}, Channels("rgb"))
    for weight in (0, -1, float("nan"), "1"):
        with pytest.raises(ArgumentError, match="must be a positive number"):
            WeightedLosses({"l1": weight}, Channels("rgb"))
    for same in ({"l1[domain=rgb]": 1.0, "l1[ domain=rgb]": 2.0}, {"l1": 1.0, create_loss("l1"): 2.0}):
        with pytest.raises(ArgumentError, match="two losses are called 'l1"):
            WeightedLosses(same, Channels("rgb"))
    with pytest.raises(ArgumentError, match="two losses are called 'Loss', of which one term would be lost"):
        WeightedLosses({Loss(): 1.0, Loss(): 2.0}, Channels("rgb"))
    with pytest.raises(ArgumentError, match=r"the regularizer 'l2\[on=features\]' is named twice"):
        WeightedRegularizers({"l2[on=features]": 1.0, "l2[ on=features]": 2.0})
    with pytest.raises(ArgumentError, match="made by hand cannot be saved"):
        _ = WeightedLosses({Loss(): 1.0}, Channels("rgb")).specs
    bands = Channels(ChannelSpace.bands("losses-test", ["x", "y"]))
    with pytest.raises(ArgumentError, match="no color space"):
        WeightedLosses({"l1[domain=rgb]": 1.0}, bands)


def test_missing_lpips_weights_are_an_error_that_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(MissingFileError, match=r"alexnet-owt-7be5be79\.pth.*could not be downloaded.*put it there"):
        create_loss("lpips")
    with pytest.raises(ArgumentError, match="alex, vgg, squeeze"):
        create_loss("lpips[net=resnet]")


@needs_squeeze
def test_lpips_equals_torchmetrics_and_stays_out_of_the_task():
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


@pytest.fixture
def resnet10t(tmp_path):
    """A file of weights."""
    import timm

    torch.manual_seed(0)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), file)
    return file


@pytest.mark.parametrize("name", [pytest.param("lpips[net=squeeze]", marks=needs_squeeze), "perceptual"])
def test_frozen_networks_keep_their_digits_in_a_cast_task_and_their_place_in_a_copy(name, resnet10t):
    options = {"backbone": "resnet10t", "weights": str(resnet10t)} if name == "perceptual" else {}
    loss = create_loss(name, **options)
    x, y = 2 * torch.rand(2, 2, 3, 64, 64) - 1
    exact = loss(x, y)
    assert loss.bfloat16()(x, y) == exact
    assert loss.double()(x, y) == exact
    twin = copy.deepcopy(loss)
    assert twin(x, y) == exact
    assert twin.spec == loss.spec
    resnet10t.unlink()  # what a copy needs is in memory
    elsewhere = copy.deepcopy(loss.to("meta"))
    assert {value.device.type for value in elsewhere._hidden[0].state_dict().values()} == {"meta"}


def test_perceptual_is_a_distance_of_unit_features(resnet10t):
    import timm

    file = resnet10t
    loss = create_loss("perceptual", backbone="resnet10t", stages="0+2", weights=str(file))
    x, y = 2 * torch.rand(2, 3, 64, 64) - 1, 2 * torch.rand(2, 3, 64, 64) - 1
    body = timm.create_model("resnet10t", features_only=True, out_indices=[0, 2]).eval()
    body.load_state_dict(torch.load(file), strict=False)
    mean, std = (torch.tensor(body.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = [body((image + 1) / 2 / std - mean / std) for image in (x, y)]
        units = [[m / m.norm(dim=1, keepdim=True).clamp(min=1e-12) for m in many] for many in maps]
        expected = torch.stack([(a - b).square().sum(1).mean() for a, b in zip(*units, strict=True)]).mean()
    assert loss(x, y).item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss(y, y) == 0
    assert not list(loss.parameters())
    assert not loss.state_dict()
    x.requires_grad_()
    loss(x, y).backward()
    assert x.grad.abs().sum() > 0
    loss._hidden = (torch.nn.MaxPool2d(32),)  # as the five poolings of the VGG networks, which are large
    with pytest.raises(ArgumentError, match=r"needs larger images than \(16, 16\): .*too small; choose a larger image"):
        loss(x[..., :16, :16], y[..., :16, :16])
    with pytest.raises(MissingFileError, match="there is no file nowhere.pth"):
        create_loss("perceptual", backbone="resnet10t", weights="nowhere.pth")
    with pytest.raises(UnknownNameError, match="timm has no model 'resnet1'"):
        create_loss("perceptual[backbone=resnet1]")
    with pytest.raises(ArgumentError, match="stages are written"):
        create_loss("perceptual[backbone=resnet10t;stages=first]")
