"""Inpainting and denoising: masks, leaks of masked pixels, pixels that the losses use, and learning."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import WeightedLosses
from ssl_pretext.tasks.masks import add_noise, central_mask, random_blocks


def net(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())


def encoder_input(task: sp.PretextTask, batch: Tensor) -> tuple[Tensor, sp.TaskOutput]:
    """Runs a task, and returns the input that its encoder got, and the output of the task."""
    seen: list[Tensor] = []
    with task.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])):
        output = task(batch)
    return seen[0], output


def test_central_mask():
    mask = central_mask(torch.zeros(2, 3, 32, 24), 0.25)
    assert mask.shape == (2, 1, 32, 24)
    rows, columns = (mask[0, 0].any(dim=dim).nonzero().flatten() for dim in (1, 0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 6, 17)
    assert mask.float().mean() == 0.25


def test_blocks_mask_at_most_their_fraction_at_any_position():
    torch.manual_seed(0)
    mask = random_blocks(torch.zeros(300, 1, 16, 16), 0.25)
    fractions = mask.float().mean(dim=(1, 2, 3))
    assert 1 / 16 <= fractions.min() < fractions.max() <= 0.25
    frequencies = mask.float().mean(dim=0)
    assert frequencies.min() > 0  # including the corners
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("noise", ["gaussian", "masking", "salt_and_pepper"])
def test_noise_is_as_in_the_paper(noise):
    torch.manual_seed(0)
    values = torch.rand(4, 3, 64, 64) - 0.5
    found = add_noise(values, noise, 0.2)
    changed = (found != values).float().mean().item()
    if noise == "gaussian":
        difference = (found - values).double().numpy()
        assert abs(difference.mean()) < 0.005
        assert difference.std() == pytest.approx(0.2, rel=0.02)
        assert changed == pytest.approx(1, abs=1e-3)
        return
    assert changed == pytest.approx(0.2, abs=0.01)
    kinds = found[found != values].unique().tolist()
    assert kinds == ([0.0] if noise == "masking" else [-1.0, 1.0])
    if noise == "salt_and_pepper":
        assert found[found != values].mean().abs() < 0.05
    # Channels are corrupted independently.
    assert (found != values).float().mean(dim=1).unique().numel() > 2


@pytest.mark.parametrize("mask", ["blocks", "center"])
def test_masked_pixels_do_not_reach_the_encoder_and_are_the_only_ones_in_the_loss(mask):
    batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    task = sp.tasks.Inpainting(net(), mask=mask).eval()
    torch.manual_seed(1)
    seen, output = encoder_input(task, batch)
    hidden = (seen == 0).all(dim=1, keepdim=True)
    assert 0.05 < hidden.float().mean() <= 0.25
    assert torch.equal(torch.where(hidden, 0.0, 2 * batch - 1), seen)
    other = torch.where(hidden, torch.rand(4, 3, 16, 16), batch)
    torch.manual_seed(1)
    again, changed = encoder_input(task, other)
    assert torch.equal(seen, again)
    assert not torch.equal(output.loss, changed.loss)
    error = (output.prediction - output.target).square().detach().numpy()
    where = np.broadcast_to(hidden.numpy(), error.shape)
    assert output.loss.item() == pytest.approx(error[where].mean(), rel=1e-5)
    # Negative control: pixels that are not masked reach the encoder.
    torch.manual_seed(1)
    visible_changed = torch.where(hidden, batch, other.flip(0))
    assert not torch.equal(encoder_input(task, visible_changed)[0], seen)


def test_the_loss_of_denoising_uses_all_pixels_of_the_clean_image():
    batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    task = sp.tasks.Denoising(net(), noise="gaussian", amount=0.3).eval()
    seen, output = encoder_input(task, batch)
    assert (seen - (2 * batch - 1)).std().item() == pytest.approx(0.3, rel=0.1)
    assert torch.allclose(output.target, 2 * batch - 1)
    assert output.loss.item() == pytest.approx((output.prediction - output.target).square().mean().item(), rel=1e-5)
    assert torch.equal(task.features(batch), task.encoder(2 * batch - 1))  # features are computed from clean images


@pytest.mark.parametrize("loss", ["l1", "adversarial[width=8]", "lab_classification"])
def test_losses_of_all_domains_use_only_the_given_pixels(loss):
    torch.manual_seed(0)
    channels = sp.Channels.parse("lab" if "lab" in loss else "rgb")
    losses = WeightedLosses({loss: 1.0}, channels).eval()
    images, where = torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    where[..., 4:12, 4:12] = True
    target = channels.extract(images)
    outputs = losses.logits.num_outputs if losses.logits else 3
    output = torch.randn(2, outputs, 16, 16, requires_grad=True)
    prediction = losses.logits.decode(output) if losses.logits else output.tanh()
    (term,) = losses(prediction, target, images, output, where=where).values()
    (gradient,) = torch.autograd.grad(term, output)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert (gradient * ~where).abs().sum() == 0
    (all_pixels,) = losses(prediction, target, images, output).values()
    assert not torch.equal(term, all_pixels)


def stripes(draw: torch.Generator) -> Tensor:
    """Images of two vertical stripes, so that masked pixels continue those above and below."""
    return torch.rand(8, 3, 1, 2, generator=draw).repeat_interleave(8, dim=3).expand(-1, -1, 16, -1)


@pytest.mark.parametrize(
    ("task", "options", "fraction"),
    [("inpainting", {"mask": "blocks"}, 0.6), ("inpainting", {"mask": "center", "mask_ratio": 0.06}, 0.6)]
    + [("denoising", {"noise": noise, "amount": 0.25}, 0.5) for noise in ("gaussian", "masking", "salt_and_pepper")],
)
def test_inpainting_and_denoising_learn(task, options, fraction):
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    one = sp.create_task(task, encoder=net(), **options)
    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        output = one(stripes(draw))
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    mean_color = 4 / 12  # loss of predicting the mean: the variance of the uniform distribution on [-1, 1]
    assert np.mean(losses[-10:]) < fraction * mean_color


def test_missing_values_are_not_in_the_loss():
    channels = sp.Channels(sp.ChannelSpace.bands("masks-test", ["x", "y"], scale=1))
    task = sp.tasks.Inpainting(net(2), channels=channels, mask="center").eval()
    images = torch.rand(2, 2, 16, 16)
    images[:, 0, :9] = float("nan")
    seen, output = encoder_input(task, images)
    assert seen.isfinite().all()
    hidden = torch.zeros(16, 16, dtype=torch.bool)
    hidden[4:12, 4:12] = True
    where = hidden & images.isfinite()
    error = (output.prediction - output.target).square()[where].mean()
    assert output.loss.item() == pytest.approx(error.item(), rel=1e-5)


def test_error_messages():
    with pytest.raises(ArgumentError, match="mask of inpainting must be one of blocks, center, got 'round'"):
        sp.tasks.Inpainting(net(), mask="round")
    with pytest.raises(ArgumentError, match="mask_ratio of inpainting must be between 0 and 1, got 1"):
        sp.tasks.Inpainting(net(), mask_ratio=1)
    with pytest.raises(ArgumentError, match="noise must be one of gaussian, masking, salt_and_pepper, got 'pink'"):
        sp.tasks.Denoising(net(), noise="pink")
    with pytest.raises(ArgumentError, match="amount of masking noise must be between 0 and 1, got 1.5"):
        sp.tasks.Denoising(net(), noise="masking", amount=1.5)
    with pytest.raises(ArgumentError, match="amount of gaussian noise must be positive and finite, got -1"):
        sp.tasks.Denoising(net(), amount=-1)
