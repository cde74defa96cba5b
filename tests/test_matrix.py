"""Every loss with every task on every kind of channels: it trains, or says why it cannot."""

import math
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn

import ssl_pretext as sp
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import PretextError
from ssl_pretext.regularizers import list_regularizers

SPACES = {
    "rgb": ("rgb:R", "rgb:GB"),
    "lab": ("lab:L", "lab:ab"),
    "ycbcr": ("ycbcr:Y", "ycbcr:CbCr"),
    "4 bands": ("matrix4:b0,b1", "matrix4:b2,b3"),
    "13 bands": ("matrix13:b0,b1,b2,b3", ",".join(["matrix13:b4", *(f"b{i}" for i in range(5, 13))])),
}
for count in (4, 13):
    sp.ChannelSpace.bands(f"matrix{count}", [f"b{i}" for i in range(count)], center=0.5, scale=0.5)
SQUEEZE = Path(torch.hub.get_dir()) / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"


def refusal(loss: str, task: str, space: str) -> str | None:
    """The reason that must be given, if there is one."""
    if loss == "perceptual":
        return "needs pretrained weights"
    if loss == "lpips" and not SQUEEZE.exists():
        return "needs the ImageNet weights"
    if loss in ("lpips", "adversarial") and "bands" in space:
        return "compares RGB images"
    if loss == "color_classification" and (space != "lab" or task == "split_brain"):
        return "has bins for lab:ab and cannot judge"
    if loss == "lab_classification":
        return "has bins for all of lab and cannot judge"
    if loss == "channel_classification" and (space == "13 bands" or (task, space) == ("colorization", "rgb")):
        return "classifies one or two channels"
    return None


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


def net(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    )


def build(task: str, first: str, second: str, losses: dict) -> sp.PretextTask:
    torch.manual_seed(0)
    ahead, back = sp.Channels.parse(first).num_channels, sp.Channels.parse(second).num_channels
    if task == "cross_channel":
        return sp.CrossChannelPrediction(first, second, net(ahead), losses=losses)
    if task == "split_brain":
        return sp.SplitBrain(first, second, [net(ahead), net(back)], losses=losses)
    return sp.Colorization(net(1), target={"lab": "lab:ab", "rgb": "rgb"}[first[:3]], losses=losses)


def images(space: str) -> torch.Tensor:
    channels = {"4 bands": 4, "13 bands": 13}.get(space, 3)
    smooth = torch.rand(8, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(smooth, size=(20, 20), mode="bilinear")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("task", ["cross_channel", "split_brain", "colorization"])
@pytest.mark.parametrize("loss", sp.list_losses())
def test_every_loss_trains_or_says_why_not(loss, task, space):
    if task == "colorization" and space not in ("lab", "rgb"):
        pytest.skip("colorization predicts lab:ab or rgb")
    # Small ones of their kind.
    spec = {"lpips": "lpips[net=squeeze]", "perceptual": "perceptual[backbone=resnet10t]"}.get(loss, loss)
    batch, losses = images(space), {spec: 1.0}
    if loss == "adversarial":
        losses["l2"] = 10.0  # it follows no target by itself
    if reason := refusal(loss, task, space):
        with pytest.raises(PretextError, match=reason):
            build(task, *SPACES[space], losses)
        return
    one = build(task, *SPACES[space], losses)
    one.prepare(ImageStore.from_arrays(batch, [0] * len(batch)))
    optimizer = torch.optim.Adam([p for p in one.parameters() if p.requires_grad], lr=1e-3)
    course = []
    for _ in range(12):
        output = one(batch)
        assert output.prediction.shape == output.target.shape
        assert output.prediction.isfinite().all()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        # The critic's score is no distance: what must fall is the rest.
        course.append(sum(value.item() for name, value in output.terms.items() if "adversarial" not in name))
    assert all(math.isfinite(value) for value in course)
    assert min(course[1:]) < course[0]


@pytest.mark.parametrize(
    "regularizer", [f"{name}[on={on}]" for name in list_regularizers() for on in ("weights", "features")]
)
def test_regularizers_shrink_what_they_are_on(regularizer):
    batch = images("lab")
    task = sp.CrossChannelPrediction("lab:L", "lab:ab", net(1), regularizers={regularizer: 0.1})
    optimizer, course = torch.optim.SGD(task.parameters(), lr=1e-2), []
    for _ in range(5):
        output = task(batch)
        assert output.loss.item() == pytest.approx(sum(value.item() for value in output.terms.values()), rel=1e-5)
        course.append(output.terms[f"regularizer {regularizer}"].item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert min(course[1:]) < course[0]
