import numpy as np
import pytest
import torch
from helpers import color_quantizer, dense_targets, random_ab, reference_targets
from hypothesis import given
from hypothesis import strategies as st

from ssl_pretext.quantize import ColorQuantizer, Quantizer
from ssl_pretext.quantize.bins import color_bins


@given(
    k=st.sampled_from([1, 5, 10, 16]),
    span=st.sampled_from([(-5, 5), (-110, 110), (-90, 100), (-300, 300), (101, 125)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_encoding_of_colors_equals_sorting_all_distances(k, span, dtype, seed):
    quantizer = color_quantizer(k)
    ab = random_ab(*span, dtype, seed)
    indices, weights = quantizer.encode(ab)
    assert (indices.dtype, weights.dtype) == (torch.int64, dtype)
    assert indices.shape == weights.shape == (2, k, 1, 200)
    found, expected = dense_targets(indices, weights, 313), reference_targets(ab, quantizer.centers, 5.0, k)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("k", [5, 10])
def test_the_table_contains_every_candidate(k):
    torch.manual_seed(0)
    quantizer = color_quantizer(k)
    # The order of bins changes near the corners, edges and middles of the grid's cells.
    steps = torch.arange(-110, 111, 5, dtype=torch.float64)
    nodes = torch.cartesian_prod(steps, steps)
    ab = (nodes + 0.02 * torch.randn(len(nodes), 2, dtype=torch.float64)).T.reshape(1, 2, 45, 45)
    found, expected = dense_targets(*quantizer.encode(ab), 313), reference_targets(ab, quantizer.centers, 5.0, k)
    assert quantizer._search._table is not None
    assert np.abs(found - expected).max() < 1e-6


def test_the_comparison_detects_a_missing_neighbor():
    # A negative control of the two tests above.
    ab = random_ab(-80, 80, torch.float64, 0)
    nine = dense_targets(*color_quantizer(9).encode(ab), 313)
    assert np.abs(nine - reference_targets(ab, color_bins(), 5.0, 10)).max() > 1e-3


@st.composite
def quantizers(draw):
    """Bins of one and two channels: of equal width, fitted to data, and scattered at random."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bins, channels = draw(st.integers(2, 40)), draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["uniform", "fit", "scattered"]))
    if kind == "uniform":
        return Quantizer.uniform([-1.0] * channels, [3.0] * channels, bins=bins)
    if kind == "fit":
        return Quantizer.fit(torch.randn(2, channels, 9, 9, generator=generator), bins=min(bins, 12))
    scattered = torch.randn(bins, channels, generator=generator)
    centers = scattered.sort(0).values if channels == 1 else scattered
    return Quantizer(centers, sigma=0.3, neighbors=draw(st.integers(1, 2)))


@given(quantizers(), st.integers(0, 2**31))
def test_encoding_of_any_bins_equals_sorting_all_distances(quantizer, seed):
    channels = quantizer.centers.shape[1]
    values = 3 * torch.randn(1, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = dense_targets(*quantizer.encode(values), quantizer.bins)
    expected = reference_targets(values, quantizer.centers, quantizer.sigma, quantizer.neighbors)
    assert np.abs(found - expected).max() < 1e-6


def test_bins_with_too_many_candidates_for_a_table():
    # 16 points that are equally far from (0, 0).
    circle = [(a, b) for a in range(-8, 9) for b in range(-8, 9) if a * a + b * b == 65]
    quantizer = Quantizer(torch.tensor(circle), sigma=1, neighbors=2)
    values = random_ab(-1, 1, torch.float64, 0)
    expected = reference_targets(values, quantizer.centers, 1, 2)
    assert np.abs(dense_targets(*quantizer.encode(values), 16) - expected).max() < 1e-6
    assert quantizer._search._table is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree():
    ab = random_ab(-120, 120, torch.float32, 0, count=20000)
    encoded = ColorQuantizer().cuda().encode(ab.cuda())
    assert encoded[0].is_cuda
    expected = dense_targets(*ColorQuantizer().encode(ab), 313)
    assert np.abs(dense_targets(*(x.cpu() for x in encoded), 313) - expected).max() < 1e-6
