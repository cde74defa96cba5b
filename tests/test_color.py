import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab
from torch._subclasses import FakeTensorMode

from ssl_pretext import color
from ssl_pretext.channels import Channels
from ssl_pretext.color import lab_to_rgb, luma, rgb_to_lab
from ssl_pretext.color_metrics import color_quality, colorfulness
from ssl_pretext.errors import ArgumentError


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def grid():
    """All colors of a 64³ grid as one image, `(3, 64, 4096)` in float64."""
    steps = torch.linspace(0, 1, 64, dtype=torch.float64)
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, 64, -1)


def agrees(convert, grid) -> bool:
    """Whether a conversion agrees with scikit-image in float64 to 1e-4; its float32 result differs by 1.07e-4."""
    reference = rgb2lab(grid.permute(1, 2, 0).numpy())
    found = convert(grid.float()).permute(1, 2, 0).double().numpy()
    return bool(np.abs(found - reference).max() < 1e-4)


def without_linearization(rgb):
    """A wrong conversion that treats sRGB as linear: it applies the sRGB curve, which `rgb_to_lab` then undoes."""
    return rgb_to_lab(torch.where(rgb > 0.0031308, 1.055 * rgb ** (1 / 2.4) - 0.055, 12.92 * rgb).clamp(0, 1))


def test_lab_agrees_with_scikit_image(grid):
    assert agrees(rgb_to_lab, grid)
    assert not agrees(lambda rgb: rgb_to_lab(rgb**1.001), grid), "the comparison does not detect a small difference"
    assert not agrees(without_linearization, grid), "the comparison does not detect a missing linearization"


def test_round_trip(grid):
    assert (lab_to_rgb(rgb_to_lab(grid.float())) - grid.float()).abs().max() < 1e-5
    assert (lab_to_rgb(rgb_to_lab(grid)) - grid).abs().max() < 1e-12


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_round_trip_of_any_color(color):
    rgb = torch.tensor(color, dtype=torch.float64).view(3, 1, 1)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.floats(0.1, 8))
def test_round_trip_of_any_image(seed, batch, height, width, power):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(batch, 3, height, width, generator=generator) ** power  # high powers give colors close to black
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("output", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_corners_and_kinks(output, dtype):
    """Black, white, pure primaries and the sRGB knee in every combination, one output channel at a time."""
    levels = torch.tensor([0.0, 0.04045, 1.0], dtype=dtype)
    rgb = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 1, -1).requires_grad_()
    lab = rgb_to_lab(rgb)
    (slope,) = torch.autograd.grad(lab[output].sum(), rgb)
    assert slope.isfinite().all()
    assert (slope != 0).any(dim=0).all()
    lab = lab.detach().requires_grad_()
    (slope,) = torch.autograd.grad(lab_to_rgb(lab)[output].sum(), lab)
    assert slope.isfinite().all()
    assert (slope != 0).any(dim=0).all()


def test_gradients_match_finite_differences():
    rgb = (0.1 + 0.8 * torch.rand(2, 3, 2, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, rgb)
    assert torch.autograd.gradcheck(lab_to_rgb, rgb_to_lab(rgb).detach().requires_grad_())


def test_gradients_outside_the_gamut_are_nonzero():
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


@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb, luma])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_device_are_kept(convert, dtype):
    assert convert(torch.rand(3, 2, 2).to(dtype)).dtype == dtype
    elsewhere = convert(torch.empty(2, 3, 2, 2, dtype=dtype, device="meta"))
    assert (elsewhere.dtype, elsewhere.device.type) == (dtype, "meta")


def test_luma_is_the_published_formula():
    rgb = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    red, green, blue = rgb.numpy().transpose(1, 0, 2, 3)
    assert np.allclose(luma(rgb)[:, 0].numpy(), 0.299 * red + 0.587 * green + 0.114 * blue, rtol=0, atol=1e-15)


def test_the_range_check_allows_rounding_only():
    assert rgb_to_lab(torch.full((3, 1, 1), 1.00005)).isfinite().all()
    assert rgb_to_lab(torch.full((3, 1, 1), -0.00005)).isfinite().all()
    assert rgb_to_lab(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    for value in (1.001, -0.001, float("inf")):
        with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
            rgb_to_lab(torch.full((3, 1, 1), value))


class SlowCopy:
    """Stands in for a copy from a busy GPU, which is complete when `arrived` says so; waiting for it is counted."""

    arrived, waits = False, 0

    def __init__(self, values):
        self.values = values

    def is_complete(self):
        return SlowCopy.arrived

    def wait(self):
        SlowCopy.waits += not SlowCopy.arrived
        return self.values


@pytest.fixture
def busy_gpu(monkeypatch):
    monkeypatch.setattr(SlowCopy, "arrived", False)
    monkeypatch.setattr(SlowCopy, "waits", 0)
    monkeypatch.setattr(color, "CopyToHost", SlowCopy)
    monkeypatch.setattr(color, "is_idle", lambda device: False)
    yield
    color._PENDING.clear()


def test_a_busy_gpu_is_not_waited_for_and_wrong_images_are_refused_in_a_later_call(busy_gpu):
    right, wrong = torch.rand(3, 2, 2), torch.tensor([0.0, 128.0, 255.0]).view(3, 1, 1)
    rgb_to_lab(right)
    rgb_to_lab(wrong)
    rgb_to_lab(right)
    SlowCopy.arrived = True
    with pytest.raises(ArgumentError, match=r"rgb_to_lab, in an earlier call, takes RGB in .* from 0 to 255"):
        rgb_to_lab(right)
    rgb_to_lab(right)  # an error is raised once
    assert SlowCopy.waits == 0


def test_range_checks_that_are_left_are_finished_where_the_cpu_waits_anyway(busy_gpu):
    wrong = torch.full((1, 3, 16, 16), 255.0)
    color.rgb_to_lab(wrong)
    with pytest.raises(ArgumentError, match="from 255 to 255"):
        color.finish_range_checks()
    color.finish_range_checks()
    for metric in (colorfulness, lambda images: color_quality(images, images)):
        with pytest.raises(ArgumentError, match="from 255 to 255"):
            metric(wrong)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("value", [math.nan, -1.0, 255.0])
def test_values_that_no_graph_can_know_are_not_checked(value):
    images = torch.full((2, 3, 4, 4), value)
    for function in (rgb_to_lab, Channels.parse("ycbcr").inputs):
        assert torch.compile(function, fullgraph=True, backend="eager")(images).shape == images.shape
        assert torch.func.vmap(lambda image, function=function: function(image[None])[0])(images).shape == images.shape
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert function(mode.from_tensor(images)).shape == images.shape
        with pytest.raises(ArgumentError, match="RGB in"):
            function(images)


@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb, luma])
@pytest.mark.parametrize("shape", [(3, 4), (4, 4, 3), (2, 4, 5, 5)])
def test_wrong_shapes_and_dtypes_are_refused(convert, shape):
    with pytest.raises(ArgumentError, match=rf"{convert.__name__} takes images of shape \(\.\.\., 3, H, W\)"):
        convert(torch.zeros(shape))
    with pytest.raises(ArgumentError, match=rf"{convert.__name__} takes a floating tensor, got torch\.int64"):
        convert(torch.zeros(3, 4, 4, dtype=torch.int64))


def test_errors_say_what_is_wrong():
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\], got values from 0 to 255"):
        rgb_to_lab(torch.tensor([0.0, 128.0, 255.0]).view(3, 1, 1))
    with pytest.raises(ArgumentError, match="from nan to nan"):
        rgb_to_lab(torch.full((3, 1, 1), float("nan")))
    with pytest.raises(ArgumentError, match=r"shape \(\.\.\., 3, H, W\), got \(1, 4, 4\)"):
        lab_to_rgb(torch.zeros(1, 4, 4))
    with pytest.raises(ArgumentError, match=r"floating tensor, got torch\.uint8"):
        rgb_to_lab(torch.zeros(3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb])
@pytest.mark.parametrize("shape", [(7, 3, 64, 64), (2, 3, 300, 260), (3, 2, 3, 90, 200)])
def test_conversion_in_pieces_equals_conversion_at_once(convert, shape, monkeypatch):
    images = torch.rand(shape)
    in_pieces = convert(images)
    another_layout = convert(images.transpose(-1, -2).contiguous().transpose(-1, -2))
    monkeypatch.setattr(color, "PIECE", images.numel())
    for found in (in_pieces, another_layout):
        assert torch.allclose(
            found, convert(images), rtol=0, atol=2e-4
        )  # values up to 100, and the order of summation differs


@pytest.mark.parametrize("convert", [rgb_to_lab, lab_to_rgb])
def test_gradients_in_pieces_equal_gradients_at_once(convert, monkeypatch):
    images = torch.rand(3, 3, 8, 10, dtype=torch.float64, requires_grad=True)
    slopes, direction = torch.rand(2, *images.shape, dtype=torch.float64)

    def derivatives():
        (first,) = torch.autograd.grad(convert(images), images, slopes, create_graph=True)
        return first, *torch.autograd.grad(first, images, direction)

    at_once, without_graph = derivatives(), torch.autograd.grad(convert(images), images, slopes)[0]
    monkeypatch.setattr(color, "PIECE", 60)
    for found, expected in zip(derivatives(), at_once, strict=True):
        assert torch.allclose(found, expected, rtol=1e-9)
    assert torch.allclose(torch.autograd.grad(convert(images), images, slopes)[0], without_graph, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    rgb = torch.rand(2, 3, 16, 16).to(dtype)
    assert torch.equal(rgb_to_lab(rgb), rgb_to_lab(rgb.float()).to(dtype))


def test_autocast_does_not_change_colors():
    rgb = torch.rand(2, 3, 16, 16)
    exact, gray = rgb_to_lab(rgb), luma(rgb)
    with torch.autocast("cpu", torch.bfloat16):
        found = rgb_to_lab(rgb)
        assert torch.allclose(found, exact, atol=1e-4)
        assert torch.allclose(lab_to_rgb(found), rgb, atol=1e-5)
        assert torch.allclose(luma(rgb), gray, atol=1e-6)
