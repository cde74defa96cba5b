"""Every loss with every task on every kind of channels either trains or raises an error that says why it cannot."""

import math
import urllib.error

import pytest
import torch
from helpers import SQUEEZE, small_encoder, smooth_images

import ssl_pretext as sp
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import PretextError


def halves(count: int, first: int) -> tuple[sp.Channels, sp.Channels]:
    """The first channels of a space of bands, and the others."""
    names = [f"b{i}" for i in range(count)]
    group = sp.ChannelSpace.bands("matrix", names, center=0.5, scale=0.5)[tuple(names[:first])]
    return group, group.complement()


SPACES = {
    "rgb": ("rgb:R", "rgb:GB"),
    "lab": ("lab:L", "lab:ab"),
    "ycbcr": ("ycbcr:Y", "ycbcr:CbCr"),
    "4 bands": halves(4, 2),
    "13 bands": halves(13, 4),
}


def expected_error(loss: str, task: str, space: str) -> str | None:
    """The text of the error that the combination must raise, or None if it must train."""
    if loss == "perceptual":
        return "needs pretrained weights"
    if loss == "lpips" and not SQUEEZE.exists():
        return "needs the ImageNet weights"
    if loss in ("lpips", "adversarial") and "bands" in space:
        return "compares RGB images"
    if loss == "color_classification" and (space != "lab" or task == "split_brain"):
        return "has bins for lab:ab and cannot be computed on"
    if loss == "lab_classification":
        return "has bins for all three channels of lab and cannot be computed on"
    if loss == "channel_classification" and (space == "13 bands" or (task, space) == ("colorization", "rgb")):
        return "classifies one or two channels"
    return None


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


def build(task: str, first: str | sp.Channels, second: str | sp.Channels, losses: dict) -> sp.PretextTask:
    torch.manual_seed(0)
    encoders = [small_encoder(sp.Channels.parse(channels).num_channels) for channels in (first, second)]
    if task == "cross_channel":
        return sp.CrossChannelPrediction(first, second, encoders[0], losses=losses)
    if task == "split_brain":
        return sp.SplitBrain(first, second, encoders, losses=losses)
    return sp.Colorization(small_encoder(1), target={"lab": "lab:ab", "rgb": "rgb"}[first[:3]], losses=losses)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("task", ["cross_channel", "split_brain", "colorization"])
@pytest.mark.parametrize("loss", sp.list_losses())
def test_every_loss_trains_or_raises_an_error(loss, task, space):
    if task == "colorization" and space not in ("lab", "rgb"):
        pytest.skip("colorization predicts lab:ab or rgb")
    # The smallest networks of these losses.
    spec = {"lpips": "lpips[net=squeeze]", "perceptual": "perceptual[backbone=resnet10t]"}.get(loss, loss)
    batch, losses = smooth_images({"4 bands": 4, "13 bands": 13}.get(space, 3)), {spec: 1.0}
    if loss == "adversarial":
        losses["l2"] = 10.0  # the adversarial loss alone has no target
    if message := expected_error(loss, task, space):
        with pytest.raises(PretextError, match=message):
            build(task, *SPACES[space], losses)
        return
    built = build(task, *SPACES[space], losses)
    built.prepare(ImageStore.from_arrays(batch, [0] * len(batch)))
    optimizer = torch.optim.Adam([p for p in built.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for _ in range(12):
        output = built(batch)
        assert output.prediction.shape == output.target.shape
        assert output.prediction.isfinite().all()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        # The critic's score is not a distance, so only the other terms must fall.
        totals.append(sum(value.item() for name, value in output.terms.items() if "adversarial" not in name))
    assert all(math.isfinite(value) for value in totals)
    assert min(totals[1:]) < totals[0]
