"""Rotation: exact copies with correct labels, the loss of the paper, and learning from the content of images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())


def encoder_input(task: sp.PretextTask, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Runs a task, and returns the input that its encoder got, and the labels."""
    seen: list[Tensor] = []
    with task.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])):
        output = task(batch)
    return seen[0], output.target


def accuracy(task: sp.PretextTask, batch: Tensor) -> float:
    with torch.no_grad():
        output = task.eval()(batch)
    task.train()
    return (output.prediction.argmax(dim=1) == output.target).float().mean().item()


def train(task: sp.PretextTask, batches, *, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.AdamW(task.parameters(), lr=rate)
    for _ in range(steps):
        loss = task(batches()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("all_rotations", [True, False])
def test_copies_equal_those_of_numpy(all_rotations):
    torch.manual_seed(0)
    batch = torch.rand(12, 3, 8, 8)
    seen, labels = encoder_input(sp.tasks.Rotation(net(), all_rotations=all_rotations), batch)
    normalized = (2 * batch - 1).repeat(4, 1, 1, 1).numpy()
    expected = [np.rot90(image, label, (1, 2)) for label, image in zip(labels, normalized, strict=False)]
    np.testing.assert_allclose(seen, np.stack(expected), atol=1e-6)
    assert len(labels) == (48 if all_rotations else 12)
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_the_loss_is_that_of_the_paper():
    torch.manual_seed(0)
    output = sp.tasks.Rotation(net())(torch.rand(5, 3, 8, 8))
    scores = output.prediction.detach().double().numpy().reshape(4, 5, 4)
    log = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    assert output.loss.item() == pytest.approx(-np.mean([log[label, :, label].mean() for label in range(4)]), rel=1e-5)


def test_rotation_learns_on_gradients():
    """Images that are brighter at the top are classified, also unseen ones; noise is not."""
    draw = torch.Generator().manual_seed(0)

    def sky() -> Tensor:
        light = torch.linspace(0.7, 0.3, 16).view(1, 1, 16, 1)
        return (light + 0.1 * torch.randn(8, 3, 16, 16, generator=draw)).clamp(0, 1)

    torch.manual_seed(0)
    task = sp.tasks.Rotation(net())
    train(task, sky, steps=40)
    assert accuracy(task, sky()) > 0.9
    assert accuracy(task, torch.rand(64, 3, 16, 16, generator=draw)) < 0.4


def test_rotation_learns_on_photos():
    photos = sp.sample_photos("train", image_size=32)
    batch = photos.images(range(0, len(photos), 150))
    torch.manual_seed(0)
    task = sp.tasks.Rotation(net())
    before = accuracy(task, batch)
    train(task, lambda: batch, steps=100)
    assert before < 0.4
    assert accuracy(task, batch) > 0.5


def test_error_messages():
    with pytest.raises(ArgumentError, match="rotation needs square images, .*; got 16×12"):
        sp.tasks.Rotation(net())(torch.rand(2, 3, 16, 12))
    with pytest.raises(ArgumentError, match="all_rotations of rotation must be True or False, got 4"):
        sp.tasks.Rotation(net(), all_rotations=4)
