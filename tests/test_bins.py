import hashlib

import pytest
import torch

from ssl_pretext.errors import ArgumentError
from ssl_pretext.quantize import ColorQuantizer, Quantizer
from ssl_pretext.quantize.bins import color_bins


def test_color_bins_are_the_published_ones():
    bins = color_bins()
    assert bins.shape == (313, 2)
    assert bins[[0, 120, 312]].tolist() == [[-90, 50], [0, 0], [100, 0]]
    assert bins.sum(0).tolist() == [4910, 2090]
    digest = hashlib.sha256(bins.numpy().astype("<i2").tobytes()).hexdigest()
    assert digest.startswith("e74b520cf1929e90")
    assert torch.equal(ColorQuantizer().centers, bins)


def test_uniform_and_fitted_bins():
    torch.manual_seed(0)
    assert Quantizer.uniform(0, 100, bins=50).centers.flatten().tolist() == list(range(1, 100, 2))
    assert Quantizer.uniform(0, 100, bins=50).sigma == 1
    grid = Quantizer.uniform((0, 10), (2, 16), bins=(2, 3))
    assert grid.centers.tolist() == [[a, b] for a in (0.5, 1.5) for b in (11, 13, 15)]
    skewed = torch.rand(4, 1, 50, 50) ** 3
    fitted = Quantizer.fit(skewed, bins=10, neighbors=1)
    assert fitted.fit_prior(skewed).prior.max() < 3 * fitted.prior.min()  # 14 times with bins of equal width
    assert Quantizer.fit(torch.tensor([1.0, 1, 1, 2]).view(1, 1, 2, 2), bins=4).centers.tolist() == [[1], [2]]
    diagonal = torch.linspace(0, 1, 100).expand(1, 2, 1, 100)
    fitted = Quantizer.fit(diagonal, bins=5)
    assert torch.allclose(fitted.centers, torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9]]).expand(5, 2))
    assert repr(fitted) == "Quantizer(5 bins of 2 channels, sigma=0.1, neighbors=5)"


def test_errors_say_what_is_wrong():
    for centers in (torch.zeros(3), torch.zeros(3, 3), torch.zeros(0, 2), torch.full((1, 1), float("nan"))):
        with pytest.raises(ArgumentError, match=r"finite numbers of shape \(Q, 1\) or \(Q, 2\), got"):
            Quantizer(centers, sigma=1)
    with pytest.raises(ArgumentError, match="the centers of one channel must be in ascending order; sort them"):
        Quantizer(torch.tensor([[1.0], [0.0]]), sigma=1)
    with pytest.raises(ArgumentError, match="must be distinct, but only 1 of 2 are"):
        Quantizer(torch.ones(2, 2), sigma=1)
    with pytest.raises(ArgumentError, match="bins must be for one or two channels, got low"):
        Quantizer.uniform((0, 0, 0), 1, bins=2)
    with pytest.raises(ArgumentError, match="high must be one number, or one number for each of 2 channels; got"):
        Quantizer.uniform((0, 0), (1, 1, 1), bins=2)
    for low, high in ((1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ArgumentError, match="bins need two finite numbers as their range, low < high; got"):
            Quantizer.uniform(low, high, bins=2)
    for bins in (0, 2.5):
        with pytest.raises(ArgumentError, match="positive whole number, got"):
            Quantizer.uniform(0, 1, bins=bins)
    with pytest.raises(
        ArgumentError, match=r"floating-point values of shape \(B, 1 or 2, H, W\), got .* \(1, 3, 2, 2\)"
    ):
        Quantizer.fit(torch.rand(1, 3, 2, 2), bins=2)
    for values in (torch.zeros(0, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.full((1, 1, 1, 1), float("inf"))):
        with pytest.raises(ArgumentError, match="finite values that are not all the same"):
            Quantizer.fit(values, bins=2)
