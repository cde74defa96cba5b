import copy
import functools
import hashlib

import numpy as np
import pytest
import torch
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


def dense(indices, weights, bins):
    """Soft targets `(N, Q)` of an encoding `(B, k, H, W)`, in float64."""
    indices, weights = (x.movedim(1, -1).flatten(0, -2) for x in (indices, weights))
    assert (indices.sort(1).values.diff(dim=1) > 0).all(), "a bin is there twice"
    return torch.zeros(len(indices), bins, dtype=torch.float64).scatter_(1, indices, weights.double()).numpy()


def reference(values, centers, sigma, k):
    """The same by sorting all distances in NumPy."""
    points = np.moveaxis(values.double().numpy(), 1, -1).reshape(-1, values.shape[1])
    centers = centers.double().numpy()
    squares = ((points[:, None] - centers) ** 2).sum(-1)
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :k]
    weights = np.exp(-(np.take_along_axis(squares, nearest, 1) - squares.min(1, keepdims=True)) / (2 * sigma**2))
    found = np.zeros_like(squares)
    np.put_along_axis(found, nearest, weights / weights.sum(1, keepdims=True), 1)
    return found


@functools.cache
def color_quantizer(k):
    """One of each for all examples, as each makes its table once."""
    return ColorQuantizer(neighbors=k)


def random_ab(low, high, dtype, seed, count=400):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, 1, count // 2, dtype=dtype, generator=generator) * (high - low) + low


def test_the_table_of_colors_is_the_published_one():
    bins = color_bins()
    assert bins.shape == (313, 2)
    assert bins[[0, 120, 312]].tolist() == [[-90, 50], [0, 0], [100, 0]]
    assert bins.sum(0).tolist() == [4910, 2090]
    digest = hashlib.sha256(bins.numpy().astype("<i2").tobytes()).hexdigest()
    assert digest.startswith("e74b520cf1929e90")
    assert torch.equal(ColorQuantizer().centers, bins)


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


@given(
    k=st.sampled_from([1, 5, 10, 16]),
    span=st.sampled_from([(-5, 5), (-110, 110), (-90, 100), (-300, 300), (101, 125)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_colors_are_encoded_as_by_sorting_all_distances(k, span, dtype, seed):
    quantizer = color_quantizer(k)
    ab = random_ab(*span, dtype, seed)
    indices, weights = quantizer.encode(ab)
    assert (indices.dtype, weights.dtype) == (torch.int64, dtype)
    assert indices.shape == weights.shape == (2, k, 1, 200)
    found, expected = dense(indices, weights, 313), reference(ab, quantizer.centers, 5.0, k)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("k", [5, 10])
def test_the_table_has_every_bin_it_should(k):
    quantizer = color_quantizer(k)
    # Close to where the order of bins changes: around the corners, edges and middles of the grid's cells.
    steps = torch.arange(-110, 111, 5, dtype=torch.float64)
    nodes = torch.cartesian_prod(steps, steps)
    ab = (nodes + 0.02 * torch.randn(len(nodes), 2, dtype=torch.float64)).T.reshape(1, 2, 45, 45)
    found, expected = dense(*quantizer.encode(ab), 313), reference(ab, quantizer.centers, 5.0, k)
    assert quantizer._search._table is not None
    assert np.abs(found - expected).max() < 1e-6


def test_the_comparison_sees_one_missing_neighbor():
    # The negative control of the two tests above.
    ab = random_ab(-80, 80, torch.float64, 0)
    nine = dense(*color_quantizer(9).encode(ab), 313)
    assert np.abs(nine - reference(ab, color_bins(), 5.0, 10)).max() > 1e-3


@st.composite
def quantizers(draw):
    """Bins of one and two channels: equal, fitted to data, and strewn at random."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bins, channels = draw(st.integers(2, 40)), draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["uniform", "fit", "strewn"]))
    if kind == "uniform":
        return Quantizer.uniform([-1.0] * channels, [3.0] * channels, bins=bins)
    if kind == "fit":
        return Quantizer.fit(torch.randn(2, channels, 9, 9, generator=generator), bins=min(bins, 12))
    strewn = torch.randn(bins, channels, generator=generator)
    return Quantizer(strewn.sort(0).values if channels == 1 else strewn, sigma=0.3, neighbors=draw(st.integers(1, 2)))


@given(quantizers(), st.integers(0, 2**31))
def test_any_bins_are_encoded_as_by_sorting_all_distances(quantizer, seed):
    channels = quantizer.centers.shape[1]
    values = 3 * torch.randn(1, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = dense(*quantizer.encode(values), quantizer.bins)
    assert np.abs(found - reference(values, quantizer.centers, quantizer.sigma, quantizer.neighbors)).max() < 1e-6


def test_bins_with_too_many_near_ones_for_a_table():
    circle = [(a, b) for a in range(-8, 9) for b in range(-8, 9) if a * a + b * b == 65]  # 16, all as near to (0, 0)
    quantizer = Quantizer(torch.tensor(circle), sigma=1, neighbors=2)
    values = random_ab(-1, 1, torch.float64, 0)
    assert np.abs(dense(*quantizer.encode(values), 16) - reference(values, quantizer.centers, 1, 2)).max() < 1e-6
    assert quantizer._search._table is None


def test_far_values_and_values_that_are_no_numbers():
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same():
    ab = random_ab(-120, 120, torch.float32, 0, count=20000)
    there = ColorQuantizer().cuda().encode(ab.cuda())
    assert there[0].is_cuda
    here = dense(*ColorQuantizer().encode(ab), 313)
    assert np.abs(dense(*(x.cpu() for x in there), 313) - here).max() < 1e-6


class Largest(TorchDispatchMode):
    """Remembers the size in bytes of the largest tensor that any operation made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_no_dense_target_is_made():
    quantizer, ab = ColorQuantizer(), torch.rand(16, 2, 112, 112) * 400 - 200  # in the table and far outside
    dense_target = 313 * 16 * 112 * 112
    quantizer.encode(ab[:1])  # makes the table
    with Largest() as seen:
        quantizer.encode(ab)
    assert seen.bytes < dense_target  # one byte a bin would be more
    with Largest() as seen:  # the negative control
        torch.cdist(ab.movedim(1, -1).reshape(-1, 2), quantizer.centers)
    assert seen.bytes >= 4 * dense_target


def test_hard_is_the_nearest_bin():
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


def test_decoding_what_was_encoded_comes_back_near():
    ab = random_ab(-40, 40, torch.float64, 4)
    quantizer = ColorQuantizer()
    target = torch.from_numpy(dense(*quantizer.encode(ab), 313)).reshape(2, 1, 200, 313).movedim(-1, 1)
    assert (quantizer.decode(target.log(), "mean") - ab).abs().max() < 1.5
    assert (quantizer.decode(target.log(), "mode") - ab).abs().max() <= 5


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.1, 3))
def test_decoding_is_the_formula_of_the_paper(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 313, 3, 3, dtype=torch.float64, generator=generator)
    quantizer = ColorQuantizer()
    centers = color_bins().double().numpy()
    probabilities = np.exp(logits.numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    annealed = np.exp(np.log(probabilities) / temperature)
    annealed /= annealed.sum(1, keepdims=True)
    for found, weights in [
        (quantizer.decode(logits, "mean"), probabilities),
        (quantizer.decode(logits, "annealed_mean", temperature), annealed),
        (quantizer.decode(logits, temperature=1), probabilities),
    ]:
        assert np.allclose(found.numpy(), np.moveaxis(np.tensordot(weights, centers, (1, 0)), -1, 1), atol=1e-9)
    mode = centers[logits.numpy().argmax(1)]
    assert np.array_equal(quantizer.decode(logits, "mode").numpy(), np.moveaxis(mode, -1, 1))
    assert np.allclose(quantizer.decode(logits, temperature=1e-300).numpy(), np.moveaxis(mode, -1, 1))


def test_autocast_leaves_decoded_values_exact():
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
    prior = reference(torch.from_numpy(lab[:, 1:]), color_bins(), 5.0, 10).mean(0)
    return images, prior


def test_the_prior_is_the_mean_of_soft_targets_however_it_is_given():
    images, prior = images_and_prior()
    ways = [
        images,
        images.double() / 255,
        images.split(9),
        ([batch, torch.zeros(len(batch))] for batch in images.split(33)),
        ImageStore.from_arrays(images, [0] * 70),
    ]
    for way in ways:
        quantizer = copy.deepcopy(color_quantizer(10))
        assert quantizer.fit_prior_to_images(way) is quantizer
        assert quantizer.prior.sum().item() == pytest.approx(1)
        assert np.abs(quantizer.prior.numpy() - prior).max() < 1e-6
    light = Quantizer.uniform(0, 100, bins=50, neighbors=1).fit_prior(torch.tensor([3.0, 3.5, 9.0]).view(3, 1, 1, 1))
    assert light.prior[[1, 4]].tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 1.0])
def test_rebalancing_is_equation_4_of_the_paper(mix):
    quantizer = ColorQuantizer().fit_prior_to_images(images_and_prior()[0])
    prior = quantizer.prior.double().numpy()
    occurs = prior > 0
    mixed = (1 - mix) * prior + mix * occurs / occurs.sum()
    expected = 1 / mixed[occurs]
    expected /= (prior[occurs] * expected).sum()
    found = quantizer.rebalancing(mix)
    assert np.allclose(found.numpy()[occurs], expected, rtol=1e-4)
    assert (quantizer.prior * found).sum().item() == pytest.approx(1, abs=1e-5)
    assert found.isfinite().all()
    assert (found > 0).all()


def test_an_empty_bin_weighs_as_much_as_the_rarest():
    light = Quantizer.uniform(0, 4, bins=4, neighbors=1)
    light.fit_prior(torch.tensor([0.5, 0.5, 0.5, 1.5]).view(1, 1, 1, 4))
    assert light.prior.tolist() == [0.75, 0.25, 0, 0]
    assert light.rebalancing(lam=0).tolist() == pytest.approx([2 / 3, 2, 2, 2])
    assert light.rebalancing(lam=1).tolist() == pytest.approx([1, 1, 1, 1])
    assert light.rebalancing().tolist() == pytest.approx([6 / 7, 10 / 7, 10 / 7, 10 / 7])


def test_weights_are_finite_where_a_narrow_kernel_leaves_next_to_nothing():
    quantizer = ColorQuantizer(sigma=1.0).fit_prior_to_images(images_and_prior()[0])
    assert 0 < quantizer.prior[quantizer.prior > 0].min() < torch.finfo(torch.float32).tiny
    assert quantizer.rebalancing(0.0).isfinite().all()


def test_prior_and_bins_come_back_from_the_state_dict():
    fitted = Quantizer.fit(torch.randn(4, 2, 8, 8), bins=(6, 5)).fit_prior(torch.randn(4, 2, 8, 8))
    other = Quantizer(torch.randn(fitted.bins, 2), sigma=fitted.sigma)
    values = torch.randn(1, 2, 8, 8)
    before = other.nearest_bin(values)  # its search must not outlive its bins
    other.load_state_dict(fitted.state_dict())
    assert set(fitted.state_dict()) == {"centers", "prior"}
    assert torch.equal(other.rebalancing(), fitted.rebalancing())
    assert torch.equal(other.nearest_bin(values), fitted.nearest_bin(values))
    assert not torch.equal(before, other.nearest_bin(values))


def test_uniform_and_fitted_bins():
    assert Quantizer.uniform(0, 100, bins=50).centers.flatten().tolist() == list(range(1, 100, 2))
    assert Quantizer.uniform(0, 100, bins=50).sigma == 1
    grid = Quantizer.uniform((0, 10), (2, 16), bins=(2, 3))
    assert grid.centers.tolist() == [[a, b] for a in (0.5, 1.5) for b in (11, 13, 15)]
    skewed = torch.rand(4, 1, 50, 50) ** 3
    fitted = Quantizer.fit(skewed, bins=10, neighbors=1)
    assert fitted.fit_prior(skewed).prior.max() < 3 * fitted.prior.min()  # equal bins: 14 times
    assert Quantizer.fit(torch.tensor([1.0, 1, 1, 2]).view(1, 1, 2, 2), bins=4).centers.tolist() == [[1], [2]]
    diagonal = torch.linspace(0, 1, 100).expand(1, 2, 1, 100)
    fitted = Quantizer.fit(diagonal, bins=5)
    assert torch.allclose(fitted.centers, torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9]]).expand(5, 2))
    assert repr(fitted) == "Quantizer(5 bins of 2 channels, sigma=0.1, neighbors=5)"


def test_gray_images_are_told_apart():
    ab = torch.zeros(4, 2, 3, 3)
    ab[1, 0, 2, 1], ab[2, 1, 0, 0], ab[3, 1, 0, 0] = 5.1, -5.1, 5.0
    assert is_colorful(ab).tolist() == [False, True, True, False]
    assert is_colorful(ab, threshold=4).tolist() == [False, True, True, True]
    with pytest.raises(ArgumentError, match=r"is_colorful takes ab of shape \(B, 2, H, W\), got .* \(1, 3, 2, 2\)"):
        is_colorful(torch.zeros(1, 3, 2, 2))


def test_errors_say_what_is_wrong():
    quantizer = ColorQuantizer()
    with pytest.raises(
        ArgumentError, match=r"encode takes a floating tensor \(B, 2, H, W\), got torch.float32 of shape"
    ):
        quantizer.encode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ArgumentError, match=r"\(B, 2, H, W\), got torch.int64 of shape \(1, 2, 2, 2\)"):
        quantizer.nearest_bin(torch.zeros(1, 2, 2, 2, dtype=torch.int64))
    logits = torch.zeros(1, 313, 2, 2)
    with pytest.raises(ArgumentError, match=r"decode takes a floating tensor \(B, 313, H, W\)"):
        quantizer.decode(logits[:, :312])
    with pytest.raises(ArgumentError, match="has the methods annealed_mean, mean, mode, got 'median'"):
        quantizer.decode(logits, "median")
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="positive temperature, got .*; its limit at 0 is 'mode'"):
            quantizer.decode(logits, temperature=temperature)
    with pytest.raises(ArgumentError, match=r"needs a prior; call fit_prior\(\)"):
        quantizer.rebalancing()
    for mix in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"lam in \[0, 1\], got"):
            quantizer.rebalancing(mix)
    for none in ([], torch.zeros(0, 2, 2, 2)):
        with pytest.raises(ArgumentError, match="at least one value"):
            quantizer.fit_prior(none)
    with pytest.raises(ArgumentError, match="all of them numbers"):
        Quantizer.uniform(0, 1, bins=8).fit_prior(torch.full((1, 1, 2, 2), float("nan")))
    for sigma in (0, -1, float("nan")):
        with pytest.raises(ArgumentError, match="needs a positive sigma, got"):
            ColorQuantizer(sigma=sigma)
    for neighbors in (0, 314):
        with pytest.raises(ArgumentError, match=f"between 1 and the number of bins, 313; got {neighbors}"):
            ColorQuantizer(neighbors=neighbors)
    for centers in (torch.zeros(3), torch.zeros(3, 3), torch.zeros(0, 2), torch.full((1, 1), float("nan"))):
        with pytest.raises(ArgumentError, match=r"finite numbers of shape \(Q, 1\) or \(Q, 2\), got"):
            Quantizer(centers, sigma=1)
    with pytest.raises(ArgumentError, match="one channel must ascend"):
        Quantizer(torch.tensor([[1.0], [0.0]]), sigma=1)
    with pytest.raises(ArgumentError, match="must be distinct, but only 1 of 2 are"):
        Quantizer(torch.ones(2, 2), sigma=1)


def test_errors_of_bins_say_what_is_wrong():
    with pytest.raises(ArgumentError, match="one or two channels, got low"):
        Quantizer.uniform((0, 0, 0), 1, bins=2)
    with pytest.raises(ArgumentError, match="high must be one number, or one for each of 2 channels; got"):
        Quantizer.uniform((0, 0), (1, 1, 1), bins=2)
    for low, high in ((1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ArgumentError, match="two finite numbers, low < high; got"):
            Quantizer.uniform(low, high, bins=2)
    for bins in (0, 2.5):
        with pytest.raises(ArgumentError, match="positive whole number, got"):
            Quantizer.uniform(0, 1, bins=bins)
    with pytest.raises(ArgumentError, match=r"fitted to floating values \(B, 1 or 2, H, W\), got .* \(1, 3, 2, 2\)"):
        Quantizer.fit(torch.rand(1, 3, 2, 2), bins=2)
    for values in (torch.zeros(0, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.full((1, 1, 1, 1), float("inf"))):
        with pytest.raises(ArgumentError, match="finite values that are not all the same"):
            Quantizer.fit(values, bins=2)
