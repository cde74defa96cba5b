import copy

import numpy as np
import pytest
import torch
from helpers import color_quantizer, dense_targets, random_ab, reference_targets
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.quantize import ColorQuantizer, Quantizer, is_colorful
from ssl_pretext.quantize.bins import color_bins


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("ab", "k", "expected"),
    [
        ((0, 0), 5, [0.64879, 0.08780, 0.08780, 0.08780, 0.08780]),
        ((0, 0), 10, [0.61922, 0.08380, 0.08380, 0.08380, 0.08380, 0.01134]),
        ((3, -4), 5, [0.40624, 0.27231, 0.18253, 0.12236, 0.01656]),
    ],
)
def test_golden_weights(ab, k, expected):
    quantizer = ColorQuantizer(neighbors=k)
    indices, weights = quantizer.encode(torch.tensor(ab, dtype=torch.float64).view(1, 2, 1, 1))
    weights, order = weights.flatten().sort(descending=True)
    assert weights[: len(expected)].tolist() == pytest.approx(expected, abs=5.1e-6)
    if ab == (3, -4):
        assert (weights @ quantizer.centers[indices.flatten()[order]].double()).tolist() == pytest.approx(
            [2.883, -3.947], abs=5e-4
        )


def test_far_values_and_nan():
    for quantizer in (ColorQuantizer(), Quantizer.uniform(0, 100, bins=50)):
        shape = (1, quantizer.centers.shape[1], 1, 1)
        for far in (1e3, -1e6, 1e30, float("inf"), float("-inf")):
            _, weights = quantizer.encode(torch.full(shape, far))
            assert weights.sum().item() == pytest.approx(1)
        assert quantizer.centers[quantizer.nearest_bin(torch.full(shape, -1e30))].max() < 100
        indices, weights = quantizer.encode(torch.full(shape, float("nan")))
        assert weights.isnan().all()
        assert ((indices >= 0) & (indices < quantizer.bins)).all()


def test_an_empty_batch_and_other_dtypes_and_devices():
    quantizer = ColorQuantizer()
    indices, weights = quantizer.encode(torch.zeros(0, 2, 4, 4))
    assert indices.shape == weights.shape == (0, 10, 4, 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        _, weights = quantizer.encode(torch.zeros(1, 2, 1, 1, dtype=dtype))
        assert weights.dtype == dtype
        decoded = quantizer.decode(torch.zeros(1, 313, 2, 2, dtype=dtype))
        assert (decoded.dtype, decoded.shape) == (dtype, (1, 2, 2, 2))
    twice = copy.deepcopy(quantizer).double()
    assert twice.encode(torch.ones(1, 2, 1, 1))[1].sum().item() == pytest.approx(1)


class Largest(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that an operation creates."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_encoding_creates_no_dense_target():
    quantizer, ab = ColorQuantizer(), torch.rand(16, 2, 112, 112) * 400 - 200  # inside and far outside of the table
    dense_target = 313 * 16 * 112 * 112
    quantizer.encode(ab[:1])  # creates the table
    with Largest() as largest:
        quantizer.encode(ab)
    assert largest.bytes < dense_target  # even one byte per bin would be more
    with Largest() as largest:  # a negative control
        torch.cdist(ab.movedim(1, -1).reshape(-1, 2), quantizer.centers)
    assert largest.bytes >= 4 * dense_target


def test_nearest_bin():
    ab = random_ab(-130, 130, torch.float64, 3)
    nearest = torch.cdist(ab.movedim(1, -1), color_bins().double()).argmin(-1)
    assert torch.equal(ColorQuantizer().nearest_bin(ab), nearest)
    assert torch.equal(ColorQuantizer(neighbors=1).nearest_bin(ab), nearest)
    light = Quantizer.uniform(0, 100, bins=50)
    assert light.nearest_bin(torch.tensor([0.0, 1.9, 2.1, 57.0, 100.0]).view(1, 1, 1, 5)).flatten().tolist() == [
        0,
        0,
        1,
        28,
        49,
    ]


def test_decoding_is_close_to_the_encoded_values():
    ab = random_ab(-40, 40, torch.float64, 4)
    quantizer = ColorQuantizer()
    target = torch.from_numpy(dense_targets(*quantizer.encode(ab), 313)).reshape(2, 1, 200, 313).movedim(-1, 1)
    assert (quantizer.decode(target.log(), "mean") - ab).abs().max() < 1.5
    assert (quantizer.decode(target.log(), "mode") - ab).abs().max() <= 5


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.1, 3))
def test_decoding_follows_the_formula_of_the_paper(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 313, 3, 3, dtype=torch.float64, generator=generator)
    quantizer = ColorQuantizer()
    centers = color_bins().double().numpy()
    probabilities = np.exp(logits.numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    annealed = np.exp(np.log(probabilities) / temperature)
    annealed /= annealed.sum(1, keepdims=True)
    for decoded, weights in [
        (quantizer.decode(logits, "mean"), probabilities),
        (quantizer.decode(logits, "annealed_mean", temperature), annealed),
        (quantizer.decode(logits, temperature=1), probabilities),
    ]:
        assert np.allclose(decoded.numpy(), np.moveaxis(np.tensordot(weights, centers, (1, 0)), -1, 1), atol=1e-9)
    mode = centers[logits.numpy().argmax(1)]
    assert np.array_equal(quantizer.decode(logits, "mode").numpy(), np.moveaxis(mode, -1, 1))
    assert np.allclose(quantizer.decode(logits, temperature=1e-300).numpy(), np.moveaxis(mode, -1, 1))


def test_autocast_does_not_change_decoded_values():
    quantizer, logits = ColorQuantizer(), torch.randn(2, 313, 4, 4)
    for method in ("mean", "annealed_mean", "mode"):
        with torch.autocast("cpu", torch.bfloat16):
            inside = quantizer.decode(logits, method)
        assert torch.equal(inside, quantizer.decode(logits, method))


def test_decoding_has_gradients():
    quantizer = Quantizer.uniform((0, 0), (4, 2), bins=(3, 2), neighbors=2)
    logits = torch.randn(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    for method in ("mean", "annealed_mean"):
        assert torch.autograd.gradcheck(lambda x, how=method: quantizer.decode(x, how), (logits,))


def images_and_prior(dtype=torch.uint8):
    images = torch.randint(0, 256, (70, 3, 4, 4), dtype=torch.uint8)  # more than one batch
    lab = rgb2lab(images.numpy() / 255.0, channel_axis=1)
    prior = reference_targets(torch.from_numpy(lab[:, 1:]), color_bins(), 5.0, 10).mean(0)
    return images, prior


def test_the_prior_is_the_mean_of_soft_targets_for_every_kind_of_input():
    images, prior = images_and_prior()
    sources = [
        images,
        images.double() / 255,
        images.split(9),
        ([batch, torch.zeros(len(batch))] for batch in images.split(33)),
        ImageStore.from_arrays(images, [0] * 70),
    ]
    for source in sources:
        quantizer = copy.deepcopy(color_quantizer(10))
        assert quantizer.fit_prior_to_images(source) is quantizer
        assert quantizer.prior.sum().item() == pytest.approx(1)
        assert np.abs(quantizer.prior.numpy() - prior).max() < 1e-6
    light = Quantizer.uniform(0, 100, bins=50, neighbors=1).fit_prior(torch.tensor([3.0, 3.5, 9.0]).view(3, 1, 1, 1))
    assert light.prior[[1, 4]].tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_rebalancing_follows_equation_4_of_the_paper(lam):
    quantizer = ColorQuantizer().fit_prior_to_images(images_and_prior()[0])
    prior = quantizer.prior.double().numpy()
    occurs = prior > 0
    mixed = (1 - lam) * prior + lam * occurs / occurs.sum()
    expected = 1 / mixed[occurs]
    expected /= (prior[occurs] * expected).sum()
    weights = quantizer.rebalancing(lam)
    assert np.allclose(weights.numpy()[occurs], expected, rtol=1e-4)
    assert (quantizer.prior * weights).sum().item() == pytest.approx(1, abs=1e-5)
    assert weights.isfinite().all()
    assert (weights > 0).all()


def test_an_empty_bin_has_the_weight_of_the_rarest():
    light = Quantizer.uniform(0, 4, bins=4, neighbors=1)
    light.fit_prior(torch.tensor([0.5, 0.5, 0.5, 1.5]).view(1, 1, 1, 4))
    assert light.prior.tolist() == [0.75, 0.25, 0, 0]
    assert light.rebalancing(lam=0).tolist() == pytest.approx([2 / 3, 2, 2, 2])
    assert light.rebalancing(lam=1).tolist() == pytest.approx([1, 1, 1, 1])
    assert light.rebalancing().tolist() == pytest.approx([6 / 7, 10 / 7, 10 / 7, 10 / 7])


def test_weights_are_finite_for_a_tiny_prior():
    quantizer = ColorQuantizer(sigma=1.0).fit_prior_to_images(images_and_prior()[0])
    assert 0 < quantizer.prior[quantizer.prior > 0].min() < torch.finfo(torch.float32).tiny
    assert quantizer.rebalancing(0.0).isfinite().all()


def test_the_state_dict_restores_prior_and_bins():
    fitted = Quantizer.fit(torch.randn(4, 2, 8, 8), bins=(6, 5)).fit_prior(torch.randn(4, 2, 8, 8))
    other = Quantizer(torch.randn(fitted.bins, 2), sigma=fitted.sigma)
    values = torch.randn(1, 2, 8, 8)
    before = other.nearest_bin(values)  # the search must be created again for the loaded bins
    other.load_state_dict(fitted.state_dict())
    assert set(fitted.state_dict()) == {"centers", "prior"}
    assert torch.equal(other.rebalancing(), fitted.rebalancing())
    assert torch.equal(other.nearest_bin(values), fitted.nearest_bin(values))
    assert not torch.equal(before, other.nearest_bin(values))


def test_is_colorful():
    ab = torch.zeros(4, 2, 3, 3)
    ab[1, 0, 2, 1], ab[2, 1, 0, 0], ab[3, 1, 0, 0] = 5.1, -5.1, 5.0
    assert is_colorful(ab).tolist() == [False, True, True, False]
    assert is_colorful(ab, threshold=4).tolist() == [False, True, True, True]
    with pytest.raises(ArgumentError, match=r"is_colorful needs ab of shape \(B, 2, H, W\), got .* \(1, 3, 2, 2\)"):
        is_colorful(torch.zeros(1, 3, 2, 2))


def test_errors_say_what_is_wrong():
    quantizer = ColorQuantizer()
    with pytest.raises(
        ArgumentError, match=r"encode needs a floating-point tensor of shape \(B, 2, H, W\), got torch.float32 of shape"
    ):
        quantizer.encode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ArgumentError, match=r"\(B, 2, H, W\), got torch.int64 of shape \(1, 2, 2, 2\)"):
        quantizer.nearest_bin(torch.zeros(1, 2, 2, 2, dtype=torch.int64))
    logits = torch.zeros(1, 313, 2, 2)
    with pytest.raises(ArgumentError, match=r"decode needs a floating-point tensor of shape \(B, 313, H, W\)"):
        quantizer.decode(logits[:, :312])
    with pytest.raises(ArgumentError, match="needs one of the methods annealed_mean, mean, mode, got 'median'"):
        quantizer.decode(logits, "median")
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="positive temperature, got .*; the method 'mode' is the limit at 0"):
            quantizer.decode(logits, temperature=temperature)
    with pytest.raises(ArgumentError, match=r"needs a prior; call fit_prior\(\)"):
        quantizer.rebalancing()
    for lam in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"rebalancing needs lam in \[0, 1\], got"):
            quantizer.rebalancing(lam)
    for empty in ([], torch.zeros(0, 2, 2, 2)):
        with pytest.raises(ArgumentError, match="at least one value"):
            quantizer.fit_prior(empty)
    with pytest.raises(ArgumentError, match="none of the values may be NaN"):
        Quantizer.uniform(0, 1, bins=8).fit_prior(torch.full((1, 1, 2, 2), float("nan")))
    for sigma in (0, -1, float("nan")):
        with pytest.raises(ArgumentError, match="needs a positive sigma, got .*; use neighbors=1 for a hard encoding"):
            ColorQuantizer(sigma=sigma)
    for neighbors in (0, 314):
        with pytest.raises(ArgumentError, match=f"between 1 and the number of bins, 313; got {neighbors}"):
            ColorQuantizer(neighbors=neighbors)
