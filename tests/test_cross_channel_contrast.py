"""Cross-channel contrast: InfoNCE in both directions, branches with separate weights, and learning."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError


def net(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())


def task(first: str = "rgb:R", second: str = "rgb:GB", **options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    nets = [net(sp.Channels.parse(group).num_channels) for group in (first, second)]
    return sp.tasks.CrossChannelContrast(first, second, nets, **options)


def train_accuracy(one: sp.PretextTask, batches, *, steps: int) -> float:
    """Trains a task, and returns the fraction of the pairs that are found, over the last ten steps."""
    optimizer, course = torch.optim.AdamW(one.parameters(), lr=3e-3), []
    for _ in range(steps):
        output = one(batches())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        course.append((output.prediction.argmax(dim=1) == output.target).float().mean().item())
    return float(np.mean(course[-10:]))


def test_the_loss_is_info_nce_in_both_directions():
    one, images = task(temperature=0.2), torch.rand(6, 3, 16, 16)
    output = one(images)
    vectors = [branch.head(branch.encoder(branch.inputs(images))).detach().double().numpy() for branch in one.branches]
    first, second = (value / np.linalg.norm(value, axis=1, keepdims=True) for value in vectors)
    exponentials = np.exp(first @ second.T / 0.2)
    forward, backward = (-np.log(np.diag(exponentials) / exponentials.sum(axis=axis)).mean() for axis in (1, 0))
    assert output.terms["rgb:GB info_nce"].item() == pytest.approx(forward, rel=1e-4)
    assert output.terms["rgb:R info_nce"].item() == pytest.approx(backward, rel=1e-4)
    assert output.loss.item() == pytest.approx(forward + backward, rel=1e-4)
    assert one(images[:1]).loss == 0  # there are no negatives


def test_the_branches_have_separate_weights_and_channels():
    one = task().eval()
    images = torch.rand(4, 3, 16, 16)
    other = torch.cat([images[:, :1], torch.rand(4, 2, 16, 16)], dim=1)
    seen, changed = one.features(images), one.features(other)
    assert torch.equal(seen[:, :16], changed[:, :16])
    assert not torch.allclose(seen[:, 16:], changed[:, 16:], atol=1e-3)
    red, rest = one.branches
    assert torch.equal(seen, torch.cat([red.features(images), rest.features(images)], dim=1))
    assert not {id(p) for p in red.parameters()} & {id(p) for p in rest.parameters()}


@pytest.mark.parametrize("related", [True, False])
def test_pairs_are_found_only_if_the_channels_are_related(related):
    draw = torch.Generator().manual_seed(0)

    def batch() -> Tensor:
        tone = torch.rand(16, 2, 1, 1, generator=draw)
        red, green = (tone[:, :1], tone[:, :1]) if related else (tone[:, :1], tone[:, 1:])
        noise = 0.2 * torch.rand(16, 3, 16, 16, generator=draw)
        return 0.8 * torch.cat([red, green, green], dim=1) + noise

    found = train_accuracy(task(), batch, steps=100)
    assert found > 0.4 if related else found < 0.15  # chance is 1/16


def test_pairs_are_found_on_photos():
    photos = sp.sample_photos("train", image_size=32)
    draw = torch.Generator().manual_seed(0)

    def batch() -> Tensor:
        return photos.images(torch.randperm(len(photos), generator=draw)[:32])

    assert train_accuracy(task("lab:L", "lab:ab"), batch, steps=60) > 3 / 32


def test_a_pair_of_names_is_saved(tmp_path):
    names = ["autoencoder[width=0.5]", "timm/resnet10t[layer=layer1]"]
    one = sp.tasks.CrossChannelContrast("lab:L", "lab:ab", names, temperature=0.1, embed_dim=32)
    one.save_pretrained(tmp_path)
    again = sp.PretextTask.from_pretrained(tmp_path)
    assert again.options() == one.options()
    assert again.options()["encoder"] == names
    assert torch.equal(one.eval()(torch.ones(2, 3, 32, 32)).prediction, again(torch.ones(2, 3, 32, 32)).prediction)


def test_error_messages():
    with pytest.raises(ArgumentError, match="encoders of cross_channel_contrast must see different channels"):
        sp.tasks.CrossChannelContrast("gray", "gray", "autoencoder")
    with pytest.raises(ArgumentError, match="read from different images"):
        sp.tasks.CrossChannelContrast("gray", sp.Channels(sp.ChannelSpace.bands("contrast", ["x"])), "autoencoder")
    with pytest.raises(
        ArgumentError,
        match="two encoders with separate weights; give encoder as a name or as a pair of modules, got one",
    ):
        sp.tasks.CrossChannelContrast("rgb:R", "rgb:G", net(1))
    with pytest.raises(ArgumentError, match="temperature of cross_channel_contrast must be positive and finite, got 0"):
        task(temperature=0)
    with pytest.raises(ArgumentError, match="embed_dim of cross_channel_contrast must be a whole number"):
        task(embed_dim=0)


def test_a_branch_alone_has_an_untrained_control():
    branch, images = task().branches[1], torch.rand(2, 3, 16, 16)
    first, again, other = (branch.untrained(seed).eval().features(images) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    control = branch.representation().untrained(1)
    torch.testing.assert_close(control.features(images), branch.untrained(1).features(images))


def test_each_encoder_sees_its_own_view():
    one = task(separate_views=True)
    images = torch.rand(6, 2, 3, 16, 16)
    scores = one(images).prediction
    with torch.no_grad():
        first, second = (branch.vectors(images[:, view]) for view, branch in enumerate(one.branches))
    torch.testing.assert_close(scores, first @ second.mT / one.temperature)
    same = task(separate_views=False)
    assert (one.num_views, same.num_views) == (2, 1)
    with pytest.raises(ArgumentError, match=r"takes image batches \(B, 1, C, H, W\)"):
        same(images)
    with pytest.raises(ArgumentError, match="separate_views of cross_channel_contrast must be True or False"):
        task(separate_views="both")
