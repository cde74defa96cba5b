"""Relative patches and jigsaw puzzles: positions of the patches, cues that they must not contain, and learning."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.patches import (
    crop_patches,
    distant_permutations,
    keep_one_channel,
    resize_patches,
    standardize_patches,
)
from ssl_pretext.tasks.relative_patch import NEIGHBORS

POSITION = sp.Channels(sp.ChannelSpace.bands("place", ["row", "column"], scale=1))


def net(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())


def positions(count: int, height: int, width: int) -> Tensor:
    """Images whose pixels contain their own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).float().expand(count, -1, -1, -1)


def encoder_input(task: sp.PretextTask, batch: Tensor) -> tuple[Tensor, sp.TaskOutput]:
    """Runs a task, and returns the input that its encoder got, and the output of the task."""
    seen: list[Tensor] = []
    with task.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])):
        output = task(batch)
    return seen[0], output


def accuracy(output: sp.TaskOutput) -> float:
    return (output.prediction.argmax(dim=1) == output.target).float().mean().item()


def train_accuracy(task: sp.PretextTask, batches, *, steps: int, rate: float = 3e-3) -> float:
    """Trains a task, and returns the accuracy over the last tenth of the steps."""
    optimizer = torch.optim.AdamW(task.parameters(), lr=rate)
    course = []
    for _ in range(steps):
        output = task(batches())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        course.append(accuracy(output))
    return float(np.mean(course[-steps // 10 :]))


# Operations on patches


def test_crop_patches_returns_slices():
    values = torch.rand(2, 3, 9, 7)
    corners = torch.tensor([[[0, 0], [5, 3], [2, 1]], [[1, 2], [4, 0], [5, 3]]])
    for image, image_corners, patches in zip(values, corners.tolist(), crop_patches(values, corners, 4), strict=True):
        for (row, column), patch in zip(image_corners, patches, strict=True):
            assert torch.equal(patch, image[:, row : row + 4, column : column + 4])


def test_keep_one_channel_replaces_the_others_by_weak_noise():
    torch.manual_seed(0)
    patches = torch.rand(50, 2, 4, 8, 8)
    found = keep_one_channel(patches)
    kept = (found == patches).all(dim=(3, 4))
    assert torch.equal(kept.sum(dim=2), torch.ones(50, 2, dtype=torch.int64))
    assert kept.float().mean(dim=(0, 1)).min() > 0.1  # each channel is chosen sometimes
    assert not torch.equal(kept[:, 0], kept[:, 1])  # independently for each patch
    ratio = found[~kept].std() / patches.std()
    assert ratio.item() == pytest.approx(0.01, rel=0.1)
    assert keep_one_channel(patches[:, :, :1]) is not patches
    assert torch.equal(keep_one_channel(patches[:, :, :1]), patches[:, :, :1])


def test_standardize_patches_removes_mean_and_contrast():
    torch.manual_seed(0)
    patches = torch.rand(3, 9, 3, 8, 8)
    found = standardize_patches(patches)
    expected = patches.double().numpy()
    expected = (expected - expected.mean(axis=(3, 4), keepdims=True)) / expected.std(axis=(3, 4), keepdims=True)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    tone, contrast = torch.rand(3, 9, 3, 1, 1), 0.5 + torch.rand(3, 9, 3, 1, 1)
    assert torch.allclose(standardize_patches(contrast * patches + tone), found, atol=1e-2)
    assert standardize_patches(torch.full((1, 1, 1, 4, 4), 0.3)).abs().max() < 1e-3  # not 0 / 0


def test_resize_patches():
    patches = torch.arange(8.0).expand(2, 3, 1, 8, 8)
    small = resize_patches(patches, 4)
    assert small.shape == (2, 3, 1, 4, 4)
    np.testing.assert_allclose(small[0, 0, 0, 0, 1:3], [2.5, 4.5], atol=1e-4)
    assert resize_patches(patches, 8) is patches


@pytest.mark.parametrize(("parts", "count"), [(4, 24), (5, 40)])
def test_permutations_follow_the_algorithm_of_the_paper(parts, count):
    found = distant_permutations(parts, count).numpy()
    assert len({tuple(one) for one in found}) == count
    assert all(sorted(one) == list(range(parts)) for one in found)
    # The paper's algorithm 1: each has the largest sum of distances to those before it.
    known = np.array(list(itertools.permutations(range(parts))))
    for number in (1, 2, parts // 2, count // 2):
        sums = sum((known != one).sum(axis=1) for one in found[:number])
        remaining = [tuple(one) not in {tuple(chosen) for chosen in found[:number]} for one in known]
        assert sum((found[number] != one).sum() for one in found[:number]) == sums[remaining].max()


def test_permutations_of_nine_tiles_are_farther_apart_than_random_ones():
    found = distant_permutations(9, 100).numpy()
    draws = np.random.default_rng(0).permuted(np.tile(range(9), (100, 1)), axis=1)
    chosen, random = ((one[:, None] != one).sum(axis=2)[np.triu_indices(100, 1)] for one in (found, draws))
    assert chosen[:8].min() == 9
    assert chosen.min() >= random.min()
    assert chosen.mean() > random.mean() + 0.05


# Relative patches


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64)])
def test_pairs_have_the_offset_of_their_class_and_a_gap(height, width):
    torch.manual_seed(0)
    task = sp.tasks.RelativePatch(net(2), channels=POSITION, drop_channels=False)
    patches, output = encoder_input(task, positions(400, height, width))
    side = round(0.2 * min(height, width))
    gap, jitter = round(0.5 * side), round(7 / 96 * side)
    pairs = patches.unflatten(0, (-1, 2))
    assert pairs.shape[-2:] == (side, side)
    assert torch.equal(pairs[..., 0, 1:, :] - pairs[..., 0, :-1, :], torch.ones(400, 2, side - 1, side))
    corners = pairs[..., 0, 0].long()  # (400, 2 patches, row and column)
    assert corners.min() == 0
    assert set((corners.amax(dim=(0, 1)) + side).tolist()) == {height, width}
    apart = corners[:, 1] - corners[:, 0]
    expected = torch.tensor(NEIGHBORS)[output.target] * (side + gap)
    shifts = apart - expected
    assert shifts.abs().max() == 2 * jitter
    assert len(shifts.unique()) == 4 * jitter + 1
    # The two patches never touch: in one direction they are at least this far apart.
    assert (apart.abs().amax(dim=1) - side).min() == gap - 2 * jitter > 0
    assert set(output.target.tolist()) == set(range(8))


def test_relative_patch_learns_on_a_ramp():
    """The image is a ramp in both directions, which is steeper downward, so that the answer is easy to see."""
    ramp = torch.linspace(0, 0.25, 32)
    image = (ramp + 3 * ramp[:, None]).expand(64, 3, 32, 32)
    torch.manual_seed(0)
    task = sp.tasks.RelativePatch(net(1), channels="gray", patch=0.25)
    assert train_accuracy(task, lambda: image, steps=80, rate=1e-2) > 0.4


def noise_with_related_channels(draw: torch.Generator) -> Tensor:
    """Noise in which only the relation between channels reveals the position, similar to chromatic aberration.

    Green equals red in the left half and minus red in the right half; blue does so in the upper and lower half.
    """
    red = torch.rand(32, 1, 32, 32, generator=draw) - 0.5
    sign = torch.cat([torch.ones(16), -torch.ones(16)])
    return 0.5 + torch.cat([red, red * sign, red * sign[:, None]], dim=1)


def test_relations_between_channels_are_no_shortcut():
    draw, found = torch.Generator().manual_seed(0), {}
    for drop in (False, True):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
        task = sp.tasks.RelativePatch(encoder, patch=0.25, drop_channels=drop)
        found[drop] = train_accuracy(task, lambda: noise_with_related_channels(draw), steps=100, rate=1e-2)
    assert found[False] > 0.4  # with all channels the shortcut works
    assert found[True] < 0.2  # with one channel it does not; chance is 1/8


def photos(copies: int) -> Tensor:
    """Some sample photos, repeated, because different patches are cropped from each copy."""
    store = sp.sample_photos("train", image_size=32)
    return store.images(range(0, len(store), len(store) // 3)).repeat(copies, 1, 1, 1)


def deeper() -> nn.Module:
    return nn.Sequential(*net(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())


def test_relative_patch_learns_on_photos():
    torch.manual_seed(0)
    batch = photos(24)
    assert train_accuracy(sp.tasks.RelativePatch(deeper(), patch=0.25), lambda: batch, steps=150) > 0.3


# Jigsaw puzzles


@pytest.mark.parametrize(("grid", "height", "width"), [(3, 32, 32), (3, 45, 54), (2, 33, 32)])
def test_tiles_are_cropped_in_the_order_of_their_permutation(grid, height, width, monkeypatch):
    monkeypatch.setattr("ssl_pretext.tasks.jigsaw.standardize_patches", lambda tiles: tiles)
    torch.manual_seed(0)
    task = sp.tasks.Jigsaw(net(2), channels=POSITION, grid=grid, num_permutations=10)
    tiles, output = encoder_input(task, positions(300, height, width))
    cell = min(height, width) // grid
    tile = round(cell * 64 / 75)
    assert tiles.shape[-2:] == (tile, tile)
    corners = tiles[:, :, 0, 0].long().unflatten(0, (300, -1))
    remainder = torch.tensor([height - grid * cell, width - grid * cell])
    slack = cell - tile
    order = task.permutations[output.target]
    cells = torch.stack([order // grid, order % grid], dim=-1) * cell
    shifts = corners - cells
    assert shifts.min() == 0
    assert torch.equal(shifts.amax(dim=(0, 1)), remainder + slack)
    assert len(shifts[:, 0].unique(dim=0)) > 1  # tiles are cropped at random positions
    assert set(output.target.tolist()) == set(range(10))


def test_tiles_do_not_reveal_their_mean_color(monkeypatch):
    """A change of brightness that is constant within each tile does not change the encoder's input."""
    torch.manual_seed(0)
    task, batch = sp.tasks.Jigsaw(net(), num_permutations=8).eval(), 0.25 + 0.5 * torch.rand(2, 3, 30, 30)
    light = torch.rand(2, 3, 3, 3).repeat_interleave(10, 2).repeat_interleave(10, 3)

    def seen() -> list[Tensor]:
        found = []
        for images in (batch, (0.8 + 0.2 * light) * batch + 0.2 * light):
            torch.manual_seed(1)
            found.append(encoder_input(task, images.clamp(0, 1))[0])
        return found

    assert torch.allclose(*seen(), atol=0.02)
    # Negative control: without standardization the input changes.
    monkeypatch.setattr("ssl_pretext.tasks.jigsaw.standardize_patches", lambda tiles: tiles)
    assert not torch.allclose(*seen(), atol=0.1)


def test_jigsaw_learns_on_textures():
    """The cells of the images differ in texture, since their mean colors are removed."""
    torch.manual_seed(0)
    kinds = F.interpolate(torch.rand(4, 3, 2, 2), size=16, mode="nearest"), torch.rand(4, 3, 16, 16)
    coarse = F.interpolate(torch.rand(4, 3, 8, 8), size=16, mode="nearest")
    stripes = torch.rand(4, 3, 1, 16).expand(-1, -1, 16, -1)
    top, bottom = torch.cat([kinds[0], kinds[1]], dim=3), torch.cat([coarse, stripes], dim=3)
    batch = torch.cat([top, bottom], dim=2).repeat(4, 1, 1, 1)
    task = sp.tasks.Jigsaw(net(), grid=2, num_permutations=24)
    assert train_accuracy(task, lambda: batch, steps=60) > 0.3


def test_jigsaw_learns_on_photos():
    torch.manual_seed(0)
    batch = photos(8)
    assert train_accuracy(sp.tasks.Jigsaw(deeper(), grid=2, num_permutations=4), lambda: batch, steps=80) > 0.5


def test_permutations_are_saved_with_the_task(tmp_path):
    task = sp.tasks.Jigsaw("autoencoder", num_permutations=12)
    task.permutations.copy_(
        torch.stack([torch.randperm(9) for _ in range(12)])
    )  # as if another version of the library had chosen them
    task.save_pretrained(tmp_path)
    assert torch.equal(sp.tasks.Jigsaw.from_pretrained(tmp_path).permutations, task.permutations)
    assert torch.equal(
        sp.tasks.Jigsaw(net(), num_permutations=12).permutations,
        sp.tasks.Jigsaw(net(), num_permutations=30).permutations[:12],
    )


@pytest.mark.parametrize("task", ["relative_patch", "jigsaw"])
def test_patches_are_enlarged_to_the_minimum_size_of_the_encoder(task):
    coarse = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8))
    batch = torch.rand(2, 3, 24, 24)
    assert encoder_input(sp.create_task(task, encoder=coarse), batch)[0].shape[-2:] == (8, 8)
    assert encoder_input(sp.create_task(task, encoder=coarse, size=16), batch)[0].shape[-2:] == (16, 16)


def test_error_messages():
    with pytest.raises(ArgumentError, match="relative_patch needs 0 < patch < 0.5, .* got patch=0.7, gap=0.5"):
        sp.tasks.RelativePatch(net(), patch=0.7)
    with pytest.raises(
        ArgumentError,
        match="cannot crop two patches of 13 pixels, with a gap of 6 and shifts of up to 1, from images of 32×32",
    ):
        sp.tasks.RelativePatch(net(), patch=0.4)(torch.rand(2, 3, 32, 32))
    with pytest.raises(ArgumentError, match="size of relative_patch must be a whole number"):
        sp.tasks.RelativePatch(net(), size=0)
    with pytest.raises(ArgumentError, match="grid of jigsaw must be 2 or 3, got 4"):
        sp.tasks.Jigsaw(net(), grid=4)
    with pytest.raises(
        ArgumentError, match="must be at most 24, since there are no more permutations of 4 tiles; got 25"
    ):
        sp.tasks.Jigsaw(net(), grid=2, num_permutations=25)
    with pytest.raises(ArgumentError, match="num_permutations of jigsaw must be at most 2000, got 2001"):
        sp.tasks.Jigsaw(net(), num_permutations=2001)
    with pytest.raises(ArgumentError, match="num_permutations of jigsaw must be a whole number of at least 2, got 1"):
        sp.tasks.Jigsaw(net(), num_permutations=1)
    with pytest.raises(ArgumentError, match="grid of 3×3 cells needs images of at least 6×6 pixels, got 5×9"):
        sp.tasks.Jigsaw(net())(torch.rand(2, 3, 5, 9))
