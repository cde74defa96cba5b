import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ssl_pretext.color_metrics import HUES, auc_raw, auc_rebalanced, color_quality, colorfulness, hue_shares
from ssl_pretext.errors import ArgumentError, MissingFileError
from ssl_pretext.losses import create_loss
from ssl_pretext.quantize import ColorQuantizer


def test_the_metrics_of_a_batch_are_means_over_its_images():
    """One bad image among good ones tells an average over images from a metric of all pixels together."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 3, 24, 24, generator=generator, dtype=torch.float64)
    errors = torch.tensor([0.9, 0.05, 0.02, 0.01], dtype=torch.float64).view(4, 1, 1, 1)
    other = (truth + errors * (torch.rand(truth.shape, generator=generator, dtype=torch.float64) - 0.5)).clamp(0, 1)
    found = color_quality(other, truth)
    pairs = list(zip(truth.numpy(), other.numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(one, two, data_range=1) for one, two in pairs]
    pooled = peak_signal_noise_ratio(truth.numpy(), other.numpy(), data_range=1)
    assert np.mean(psnr) > pooled + 10
    assert found["psnr"] == pytest.approx(np.mean(psnr), abs=1e-4)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = [structural_similarity(one, two, data_range=1, channel_axis=0, **gaussian) for one, two in pairs]
    assert found["ssim"] == pytest.approx(np.mean(ssim), abs=0.01)  # scikit-image leaves out a border of 5 pixels
    each = [color_quality(one[None], two[None]) for one, two in zip(other[:3], truth, strict=False)]
    each.append(color_quality(truth[3:], truth[3:]))  # a perfect prediction counts as 140 dB
    found = color_quality(torch.cat([other[:3], truth[3:]]), truth)
    for name in ("psnr", "ssim", "auc_raw", "colorfulness", "colorfulness_truth", "colored", "mean_a"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-4), name
    assert each[-1]["psnr"] == 140


def test_colorfulness_matches_its_formula():
    truth = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
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


def test_hue_shares_match_angles_in_the_lab_of_scikit_image():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0] = 0.5 + (images[0] - 0.5) / 20  # an image that is almost gray
    lab = rgb2lab(images.permute(0, 2, 3, 1).numpy())
    a, b = lab[..., 1], lab[..., 2]
    colored = np.hypot(a, b) > 5
    angle = np.rad2deg(np.arctan2(b, a))[colored]
    angle[angle < 0] += 360
    expected = {
        "colored": colored.mean(),
        "hue_yellow": ((angle >= 60) & (angle < 105)).mean(),
        "hue_green": ((angle >= 105) & (angle < 180)).mean(),
        "hue_blue": ((angle >= 180) & (angle < 330)).mean(),
        "hue_red": ((angle >= 330) | (angle < 60)).mean(),
    }
    found = color_quality(images, images.flip(0))
    assert 0.6 < found["colored"] < 1
    for name, share in expected.items():
        assert found[name] == pytest.approx(share, abs=1e-9), name
        assert found[f"{name}_truth"] == found[name], "the order of the images must not matter"


@pytest.mark.parametrize(
    ("angle", "hue"),
    [
        (59.9, "red"), (60.1, "yellow"), (104.9, "yellow"), (105.1, "green"), (179.9, "green"), (180.1, "blue"),
        (329.9, "blue"), (330.1, "red"), (359.9, "red"), (0, "red"),
    ],
)  # fmt: skip
def test_each_hue_ends_where_the_next_one_begins(angle, hue):
    turned = np.deg2rad(angle)
    ab = torch.tensor([20 * np.cos(turned), 20 * np.sin(turned)]).view(1, 2, 1, 1)
    assert hue_shares(ab) == {"colored": 1.0} | {f"hue_{name}": float(name == hue) for name in HUES}


def test_pure_colors_have_the_hues_of_their_names():
    colors = {"red": (1, 0, 0), "yellow": (1, 1, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
    for name, rgb in colors.items():
        image = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        assert color_quality(image, image)[f"hue_{name}"] == 1


def test_grays_and_pixels_up_to_the_threshold_have_no_hue():
    gray = color_quality(torch.rand(2, 1, 8, 8).expand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    assert [gray["colored"], *(gray[f"hue_{name}"] for name in HUES)] == [0] * 5
    ab = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 5.01]]).view(1, 2, 1, 3)
    assert hue_shares(ab)["colored"] == pytest.approx(1 / 3)
    assert hue_shares(ab)["hue_yellow"] == 1


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
