import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from ssl_pretext.color_metrics import auc_raw, auc_rebalanced, color_quality, colorfulness
from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.losses import create_loss
from ssl_pretext.quantize import ColorQuantizer


def test_psnr_and_colorfulness_match_their_formulas():
    generator = torch.Generator().manual_seed(0)
    truth, other = torch.rand(2, 4, 3, 16, 16, generator=generator)
    found = color_quality(other, truth)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(truth.numpy(), other.numpy(), data_range=1), abs=1e-3)
    red, green, blue = 255 * truth[0].double()
    rg, yb = red - green, (red + green) / 2 - blue
    m3 = (rg.var(correction=0) + yb.var(correction=0)).sqrt() + 0.3 * (rg.mean() ** 2 + yb.mean() ** 2).sqrt()
    assert colorfulness(truth[:1]) == pytest.approx(float(m3), rel=1e-4)


def test_auc_matches_a_count_over_all_thresholds():
    ab, truth = 60 * torch.randn(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    distance = (ab - truth).norm(dim=1)
    expected = torch.stack([(distance <= t).double().mean() for t in range(151)]).mean()
    assert auc_raw(ab, truth) == pytest.approx(float(expected), abs=1e-6)


def test_mean_b_shows_a_yellow_cast():
    gray, yellow = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.5)
    yellow[:, 2] = 0.3
    found = color_quality(yellow, gray)
    assert found["mean_b"] > 10 > abs(found["mean_b_truth"])


def test_errors_say_what_is_wrong():
    with pytest.raises(ArgumentError, match=r"two batches of the same shape"):
        color_quality(torch.rand(1, 3, 16, 16), torch.rand(2, 3, 16, 16))
    with pytest.raises(ArgumentError, match=r"RGB in \[0, 1\]"):
        color_quality(torch.full((1, 3, 16, 16), 2.0), torch.rand(1, 3, 16, 16))
    for shape in ((2, 3, 5, 16), (0, 3, 16, 16)):
        with pytest.raises(ArgumentError, match="at least one image of at least 6×6 pixels"):
            color_quality(torch.rand(shape), torch.rand(shape))
    assert color_quality(torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6))["ssim"] < 1
    with pytest.raises(ArgumentError, match="colorfulness takes a floating tensor, got torch.uint8"):
        colorfulness(torch.full((1, 3, 8, 8), 200, dtype=torch.uint8))
    with pytest.raises(ArgumentError, match=r"colorfulness takes RGB in \[0, 1\]"):
        colorfulness(torch.full((1, 3, 8, 8), 200.0))


def test_rebalanced_auc_weights_all_occurring_bins_equally():
    # Nine gray pixels that are predicted correctly, and a blue one with a large error.
    truth = torch.zeros(1, 2, 1, 10)
    truth[..., 9] = torch.tensor([40.0, -80.0]).view(1, 2, 1)
    ab = torch.zeros_like(truth)
    quantizer = ColorQuantizer(neighbors=1)
    quantizer.prior.copy_(torch.bincount(quantizer.nearest_bin(truth).flatten(), minlength=313) / 10)
    within = (151 - (truth[0, :, 0, 9].norm()).ceil().item()) / 151
    assert auc_raw(ab, truth) == pytest.approx((9 + within) / 10, rel=1e-5)
    assert auc_rebalanced(ab, truth, quantizer) == pytest.approx((1 + within) / 2, rel=1e-5)


def test_lpips_is_computed_on_request():
    try:
        create_loss("lpips[net=squeeze]")
    except MissingFileError as error:
        pytest.skip(str(error))
    images = torch.rand(3, 3, 32, 32)
    assert color_quality(images, images, lpips="squeeze")["lpips"] == pytest.approx(0, abs=1e-6)
    assert "lpips" not in color_quality(images, images)
