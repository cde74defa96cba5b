"""Several tasks on one encoder: weighted terms, shared weights, and the notation of sums."""

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.tasks.base import parse_task


def net(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def test_losses_are_added_with_weights():
    torch.manual_seed(0)
    one = sp.create_task("colorization + 0.5*rotation", encoder=net(1)).eval()
    images = torch.rand(4, 3, 16, 16)
    output = one(images)
    color, rotation = (part(images).loss for part in one.parts)
    assert output.loss.item() == pytest.approx((color + 0.5 * rotation).item(), rel=1e-6)
    assert output.terms["rotation cross_entropy"].item() == pytest.approx(0.5 * rotation.item(), rel=1e-6)
    assert one.channels == sp.Channels("lab", "L")


def test_all_parts_train_one_encoder():
    one = sp.create_task("colorization + rotation + simsiam[embed_dim=8]", encoder=net(1))
    assert len({id(part.encoder) for part in one.parts}) == 1
    assert one.parts[0].encoder is one.encoder
    assert one.num_views == 2
    assert "color_jitter" in one.default_augmentation
    one(torch.rand(4, 2, 3, 16, 16)).loss.backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
    # The decoder and the heads of the parts are trained, too, and each parameter once.
    parameters = list(one.parameters())
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    assert len(one.networks()) == len({id(network) for network in one.networks()}) > 3


def test_the_encoder_sees_the_channels_that_a_part_determines():
    one = sp.create_task("rotation + colorization", encoder="autoencoder")
    assert one.channels == sp.Channels("lab", "L")
    assert sp.create_task("rotation + jigsaw", encoder="autoencoder").channels == sp.Channels("rgb")
    given = sp.create_task("rotation + jigsaw", encoder="autoencoder", channels="lab")
    assert given.channels == sp.Channels("lab")
    with pytest.raises(ArgumentError, match=r"rotation\[channels=rgb\] cannot share the encoder of colorization"):
        sp.create_task("colorization + rotation[channels=rgb]", encoder="autoencoder")
    with pytest.raises(ArgumentError, match="must see the same channels, but rotation.* sees"):
        sp.create_task("denoising[channels=lab] + rotation[channels=rgb]", encoder="autoencoder")


def test_it_is_saved_with_its_parts(tmp_path):
    one = sp.create_task("colorization[target=rgb] + 2*jigsaw", encoder="autoencoder").eval()
    one.save_pretrained(tmp_path)
    again = sp.PretextTask.from_pretrained(tmp_path)
    assert again.options() == one.options()
    assert again.tasks == {"colorization[target=rgb]": 1.0, "jigsaw": 2.0}
    images = torch.rand(2, 3, 48, 48)
    outputs = []
    for task in (one, again):
        torch.manual_seed(0)
        outputs.append(task(images).loss)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("colorization + colorization", "different tasks"),
        ("colorization + ", "different tasks"),
        ("colorization + x*rotation", "there is no task named|different tasks|expected a name"),
        ("colorization + 0*rotation", "must be a positive number"),
        ("colorization + split_brain", "more than one encoder|does not take"),
        ("colorization + nothing", "there is no task named 'nothing'"),
    ],
)
def test_bad_sums_are_refused(task, message):
    with pytest.raises((ArgumentError, UnknownNameError), match=message):
        sp.create_task(task, encoder="autoencoder")
    with pytest.raises(ArgumentError, match="at least two tasks"):
        sp.create_task("multi_task", tasks={"rotation": 1.0}, encoder="autoencoder")


def test_options_may_contain_a_plus():
    assert parse_task("cross_channel[source=a+b;target=c] + 1e-1*rotation") == (
        "multi_task",
        {"tasks": {"cross_channel[source=a+b;target=c]": 1.0, "rotation": 0.1}},
    )
