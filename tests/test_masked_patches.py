"""Masked patches: hidden patches do not reach the encoder, are the only ones in the loss, and are restored."""

import numpy as np
import pytest
import torch
from torch import Tensor

import ssl_pretext as sp
from ssl_pretext.errors import ArgumentError

VIT = "timm/vit_tiny_patch16_224[img_size=16;patch_size=4;embed_dim=48;depth=2]"


def task(encoder: str = VIT, **options: object) -> sp.PretextTask:
    torch.manual_seed(0)
    return sp.tasks.MaskedPatches(encoder, **{"width": 64, "depth": 1, **options})


def decoder_call(one: sp.PretextTask, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, sp.TaskOutput]:
    """Runs a task, and returns the tokens, indices and prediction of its decoder, and the output of the task."""
    seen: list[Tensor] = []
    with one.decoder.register_forward_hook(lambda _module, inputs, output: seen.extend([*inputs[:2], output])):
        torch.manual_seed(1)
        output = one(batch)
    return *seen, output


@pytest.mark.parametrize("encoder", [VIT, VIT.replace("]", ";class_token=false;global_pool=avg]")])
def test_the_encoder_gets_only_the_visible_patches(encoder):
    one, batch = task(encoder).eval(), torch.rand(3, 3, 16, 16)
    tokens, indices, found, _ = decoder_call(one, batch)
    assert tokens.shape == (3, 4, 48)
    assert found.shape == (3, 16, 48)
    hidden = (indices >= 4).unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    other = torch.where(hidden, torch.rand(3, 3, 16, 16), batch)
    again, same_indices, same_found, _ = decoder_call(one, other)
    assert torch.equal(indices, same_indices)
    assert torch.equal(tokens, again)
    assert torch.equal(found, same_found)
    # Negative control: changes of the visible patches change the tokens.
    assert not torch.allclose(decoder_call(one, torch.where(hidden, batch, 1 - batch))[0], tokens, atol=1e-3)


def test_tokens_of_all_patches_equal_the_features():
    one, batch = task().eval(), torch.rand(2, 3, 16, 16)
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    tokens = one._encode(one.inputs(batch), order)
    expected = one.features(batch).flatten(2).mT.take_along_dim(order[..., None], dim=1)
    torch.testing.assert_close(tokens, expected)


def test_the_loss_is_that_of_the_paper():
    one, batch = task().eval(), torch.rand(2, 3, 16, 16)
    _, indices, found, output = decoder_call(one, batch)
    errors, predicted = [], (2 * batch - 1).numpy().copy()
    for number, image in enumerate((2 * batch - 1).double().numpy()):
        for position in range(16):
            if indices[number, position] < 4:
                continue
            rows, columns = (slice(4 * k, 4 * k + 4) for k in divmod(position, 4))
            patch = image[:, rows, columns]
            guess = found[number, position].detach().double().numpy().reshape(3, 4, 4)
            errors.append((guess - (patch - patch.mean()) / patch.std(ddof=1)) ** 2)
            predicted[number][:, rows, columns] = guess * patch.std(ddof=1) + patch.mean()
    assert len(errors) == 24
    assert output.loss.item() == pytest.approx(np.mean(errors), rel=1e-3)
    np.testing.assert_allclose(output.prediction.detach(), predicted, atol=1e-3)
    assert torch.allclose(output.target, 2 * batch - 1)


def test_images_of_other_sizes_and_missing_values():
    space = sp.ChannelSpace.bands("masked-test", ["x", "y"], scale=1)
    one = task(channels=sp.Channels(space)).eval()
    batch = torch.rand(2, 2, 18, 21)  # padded by the encoder
    output = one(batch)
    assert output.prediction.shape == output.target.shape == batch.shape
    assert output.loss.isfinite()
    batch[:, 0] = float("nan")
    assert one(batch).loss.isfinite()
    batch[:] = float("nan")
    assert one(batch).loss == 0  # all values are missing


@pytest.mark.parametrize(("mask_ratio", "visible"), [(0.01, 15), (0.99, 1)])
def test_at_least_one_patch_is_visible_and_one_is_hidden(mask_ratio, visible):
    tokens, _, _, output = decoder_call(task(mask_ratio=mask_ratio), torch.rand(2, 3, 16, 16))
    assert tokens.shape[1] == visible
    assert output.loss > 0


def test_masked_patches_learns_on_textures():
    """The textures repeat in all patches. Predicting the mean of each patch would give a loss of about one."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    one = task()
    optimizer, course = torch.optim.AdamW(one.parameters(), lr=3e-3), []
    for _ in range(150):
        tone = torch.rand(16, 3, 1, 1, generator=draw)
        stripes = torch.rand(16, 1, 1, 4, generator=draw).repeat(1, 1, 16, 4)
        loss = one((tone + stripes) / 2).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(loss.item())
    assert np.mean(course[-10:]) < 0.6


def test_error_messages():
    for encoder, name in (("autoencoder", "AutoencoderEncoder"), ("timm/resnet10t", "timm/resnet10t")):
        with pytest.raises(
            ArgumentError, match=f"because other networks cannot leave out tokens; got {name}. The task inpainting"
        ):
            sp.tasks.MaskedPatches(encoder)
    with pytest.raises(ArgumentError, match="needs a plain vision transformer of timm"):
        task(VIT.replace("]", ";patch_drop_rate=0.5]"))
    with pytest.raises(ArgumentError, match="mask_ratio of masked_patches must be between 0 and 1, got 1.5"):
        task(mask_ratio=1.5)
    with pytest.raises(ArgumentError, match="width of masked_patches must be a multiple of 32, got 48"):
        task(width=48)
    with pytest.raises(ArgumentError, match="at least two patches of 4×4 pixels, got 4×4; choose larger images"):
        task()(torch.rand(2, 3, 4, 4))
    with pytest.raises(ArgumentError, match="depth of masked_patches must be a whole number of at least 1, got 0"):
        task(depth=0)
