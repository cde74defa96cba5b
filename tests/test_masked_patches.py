"""Masked patches: hidden ones are left out of the encoder, alone judged, and restored."""

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


def watched(one: sp.PretextTask, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, sp.TaskOutput]:
    """Tokens and places that the decoder is given, what it finds, and the output of the task."""
    seen: list[Tensor] = []
    with one.decoder.register_forward_hook(lambda _module, inputs, output: seen.extend([*inputs[:2], output])):
        torch.manual_seed(1)
        output = one(batch)
    return *seen, output


@pytest.mark.parametrize("encoder", [VIT, VIT.replace("]", ";class_token=false;global_pool=avg]")])
def test_the_encoder_is_given_what_is_shown_and_nothing_else(encoder):
    one, batch = task(encoder).eval(), torch.rand(3, 3, 16, 16)
    tokens, places, found, _ = watched(one, batch)
    assert tokens.shape == (3, 4, 48)
    assert found.shape == (3, 16, 48)
    hidden = (places >= 4).unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    other = torch.where(hidden, torch.rand(3, 3, 16, 16), batch)
    again, same_places, same_found, _ = watched(one, other)
    assert torch.equal(places, same_places)
    assert torch.equal(tokens, again)
    assert torch.equal(found, same_found)
    # Negative control: what is shown is seen.
    assert not torch.allclose(watched(one, torch.where(hidden, batch, 1 - batch))[0], tokens, atol=1e-3)


def test_with_all_patches_the_tokens_are_the_features():
    one, batch = task().eval(), torch.rand(2, 3, 16, 16)
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    tokens = one._encoded(one.inputs(batch), order)
    expected = one.features(batch).flatten(2).mT.take_along_dim(order[..., None], dim=1)
    torch.testing.assert_close(tokens, expected)


def test_the_loss_is_the_papers():
    one, batch = task().eval(), torch.rand(2, 3, 16, 16)
    _, places, found, output = watched(one, batch)
    errors, predicted = [], (2 * batch - 1).numpy().copy()
    for number, image in enumerate((2 * batch - 1).double().numpy()):
        for place in range(16):
            if places[number, place] < 4:
                continue
            rows, columns = (slice(4 * k, 4 * k + 4) for k in divmod(place, 4))
            patch = image[:, rows, columns]
            guess = found[number, place].detach().double().numpy().reshape(3, 4, 4)
            errors.append((guess - (patch - patch.mean()) / patch.std(ddof=1)) ** 2)
            predicted[number][:, rows, columns] = guess * patch.std(ddof=1) + patch.mean()
    assert len(errors) == 24
    assert output.loss.item() == pytest.approx(np.mean(errors), rel=1e-3)
    np.testing.assert_allclose(output.prediction.detach(), predicted, atol=1e-3)
    assert torch.allclose(output.target, 2 * batch - 1)


def test_images_of_other_sizes_and_missing_values():
    space = sp.ChannelSpace.bands("masked-test", ["x", "y"])
    one = task(channels=sp.Channels(space)).eval()
    batch = torch.rand(2, 2, 18, 21)  # padded by the encoder
    output = one(batch)
    assert output.prediction.shape == output.target.shape == batch.shape
    assert output.loss.isfinite()
    batch[:, 0] = float("nan")
    half = one(batch)
    assert half.loss.isfinite()
    batch[:] = float("nan")
    assert one(batch).loss == 0  # nothing is known, so nothing can be learned


@pytest.mark.parametrize(("share", "shown"), [(0.01, 15), (0.99, 1)])
def test_some_patches_are_shown_and_some_hidden_whatever_the_share(share, shown):
    tokens, _, _, output = watched(task(mask_ratio=share), torch.rand(2, 3, 16, 16))
    assert tokens.shape[1] == shown
    assert output.loss > 0


def test_it_learns_to_restore():
    """Textures that repeat from patch to patch; a patch's own mean would leave a loss of about one."""
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


def test_errors_say_what_is_wrong():
    for encoder, name in (("autoencoder", "AutoencoderEncoder"), ("timm/resnet10t", "timm/resnet10t")):
        with pytest.raises(ArgumentError, match=f"leaves tokens out.* and {name} cannot; inpainting"):
            sp.tasks.MaskedPatches(encoder)
    with pytest.raises(ArgumentError, match="cannot; inpainting"):
        task(VIT.replace("]", ";patch_drop_rate=0.5]"))
    with pytest.raises(ArgumentError, match="share that masked_patches hides lies between 0 and 1, got 1.5"):
        task(mask_ratio=1.5)
    with pytest.raises(ArgumentError, match="width of masked_patches is a multiple of 32, got 48"):
        task(width=48)
    with pytest.raises(ArgumentError, match="several patches of 4×4 pixels, got 4×4; choose larger images"):
        task()(torch.rand(2, 3, 4, 4))
    with pytest.raises(ArgumentError, match="depth of masked_patches is a whole number of at least 1, got 0"):
        task(depth=0)
