import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab

from ssl_pretext.color import lab_to_rgb, luma, rgb_to_lab
from ssl_pretext.errors import ArgumentError


@pytest.fixture(scope="module")
def grid():
    """All colours of a 64³ grid as one image, `(3, 64, 4096)` in float64."""
    steps = torch.linspace(0, 1, 64, dtype=torch.float64)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, 64, -1)


def agrees(convert, grid) -> bool:
    """Within 1e-4 of scikit-image in float64; in float32 scikit-image itself is 1.07e-4 off."""
    reference = rgb2lab(grid.permute(1, 2, 0).numpy())
    found = convert(grid.float()).permute(1, 2, 0).double().numpy()
    return bool(np.abs(found - reference).max() < 1e-4)


def test_lab_agrees_with_scikit_image(grid):
    assert agrees(rgb_to_lab, grid)
    assert not agrees(lambda rgb: rgb_to_lab(rgb**1.001), grid), "the comparison sees no difference"


def test_round_trip(grid):
    assert (lab_to_rgb(rgb_to_lab(grid.float())) - grid.float()).abs().max() < 1e-5
    assert (lab_to_rgb(rgb_to_lab(grid)) - grid).abs().max() < 1e-12


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_any_colour_comes_back(color):
    rgb = torch.tensor(color, dtype=torch.float64).view(3, 1, 1)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere(grid, dtype):
    rgb = grid.to(dtype).requires_grad_()
    lab = rgb_to_lab(rgb)
    lab.sum().backward()
    assert rgb.grad.isfinite().all()
    assert (rgb.grad[:, 0, 0] != 0).any(), "no gradient at black"
    lab = lab.detach().requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert lab.grad.isfinite().all()


def test_gradients_are_right():
    rgb = (0.1 + 0.8 * torch.rand(2, 3, 2, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, rgb)
    assert torch.autograd.gradcheck(lab_to_rgb, rgb_to_lab(rgb).detach().requires_grad_())


def test_gradients_live_out_of_gamut():
    lab = torch.tensor([100.0, -110.0, 100.0]).view(3, 1, 1).requires_grad_()
    rgb = lab_to_rgb(lab)
    assert rgb.min() < 0
    assert rgb.max() > 1
    rgb.sum().backward()
    assert lab.grad.isfinite().all()
    assert (lab.grad != 0).all()


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 2, 3, 4, 5)])
def test_any_batch_shape(shape):
    rgb = torch.rand(shape)
    lab = rgb_to_lab(rgb)
    assert lab.shape == rgb.shape
    assert lab.dtype == rgb.dtype
    assert torch.allclose(lab.reshape(-1, 3, 4, 5)[-1], rgb_to_lab(rgb.reshape(-1, 3, 4, 5)[-1]), atol=1e-4)
    assert luma(rgb).shape == (*shape[:-3], 1, 4, 5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\], got values from 0 to 255"):
        rgb_to_lab(torch.tensor([0.0, 128.0, 255.0]).view(3, 1, 1))
    with pytest.raises(ArgumentError, match="from nan to nan"):
        rgb_to_lab(torch.full((3, 1, 1), float("nan")))
    with pytest.raises(ArgumentError, match=r"shape \(\.\.\., 3, H, W\), got \(1, 4, 4\)"):
        lab_to_rgb(torch.zeros(1, 4, 4))
    with pytest.raises(ArgumentError, match=r"floating tensor, got torch\.uint8"):
        rgb_to_lab(torch.zeros(3, 4, 4, dtype=torch.uint8))
