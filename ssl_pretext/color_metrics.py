"""How good predicted colors are: fidelity, colorfulness, and which way they lean."""

from typing import cast

import torch
from torch import Tensor

from ssl_pretext.color import _rgb_to_lab, check_three_channels, check_unit_range
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import create_loss
from ssl_pretext.quantize import ColorQuantizer

__all__ = ["auc_raw", "auc_rebalanced", "color_quality", "colorfulness"]

AUC_THRESHOLDS = 151  # Zhang 2016, section 3.1: distances in ab of 0, 1, ..., 150
SMALLEST_SIDE = 6  # that the window of SSIM, of 11 pixels, can be mirrored into
BATCH = 256  # images that LPIPS looks at together


def color_quality(
    prediction: Tensor, truth: Tensor, *, quantizer: ColorQuantizer | None = None, lpips: str | None = None
) -> dict[str, float]:
    """Compares colorized images with the true ones.

    Args:
        prediction: sRGB in `[0, 1]`, `(B, 3, H, W)`.
        truth: The same images in their true colors.
        quantizer: Color bins with a fitted prior, for `auc_rebalanced`; fitted to `truth` if left out.
        lpips: A trunk, `"alex"`, `"vgg"` or `"squeeze"`, for the key `lpips`. As a measure it should be another than
            the loss's, which the network has learned to please.

    Returns:
        `psnr` (dB), `ssim`, `auc_raw` and `auc_rebalanced` (see there), `colorfulness` and `colorfulness_truth` (see
        `colorfulness`), and the mean Lab `a` and `b` of both, which show where colors lean: `a` from green to
        red, `b` from blue to yellow.

    Raises:
        ArgumentError: The shapes differ or are no batches of RGB images in `[0, 1]`, or the images are too small.
        MissingFileError: The weights of the trunk are missing.

    Examples:
        >>> images = torch.rand(4, 3, 32, 32)
        >>> round(color_quality(images, images)["ssim"], 3)
        1.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    for images in (prediction, truth):
        check_three_channels("color_quality", images)
        check_unit_range("color_quality", images)
    if prediction.shape != truth.shape or truth.dim() != 4:
        raise ArgumentError(
            f"color_quality takes two batches of one shape (B, 3, H, W), got {tuple(prediction.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if not len(truth) or min(truth.shape[-2:]) < SMALLEST_SIDE:
        raise ArgumentError(
            f"color_quality takes at least one image, of at least {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels, got "
            f"{tuple(truth.shape)}"
        )
    ab, ab_truth = _rgb_to_lab(prediction)[:, 1:], _rgb_to_lab(truth)[:, 1:]
    measures = {
        # A perfect prediction has no noise; its PSNR is capped by the float's own precision.
        "psnr": float(peak_signal_noise_ratio(prediction, truth, data_range=1.0).clamp(max=140.0)),
        "ssim": float(structural_similarity_index_measure(prediction, truth, data_range=1.0)),
        "auc_raw": auc_raw(ab, ab_truth),
        "auc_rebalanced": auc_rebalanced(ab, ab_truth, quantizer or ColorQuantizer().fit_prior_to_images(truth)),
        "colorfulness": colorfulness(prediction),
        "colorfulness_truth": colorfulness(truth),
        "mean_a": float(ab[:, 0].mean()),
        "mean_a_truth": float(ab_truth[:, 0].mean()),
        "mean_b": float(ab[:, 1].mean()),
        "mean_b_truth": float(ab_truth[:, 1].mean()),
    }
    if lpips is not None:
        measures["lpips"] = _lpips(prediction, truth, lpips)
    return measures


def auc_raw(ab: Tensor, ab_truth: Tensor) -> float:
    """Zhang 2016, section 3.1: the share of pixels within a distance `t` in ab, averaged over `t = 0..150`.

    Examples:
        >>> auc_raw(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
        1.0
    """
    return float(_areas(ab, ab_truth).mean())


def auc_rebalanced(ab: Tensor, ab_truth: Tensor, quantizer: ColorQuantizer) -> float:
    """`auc_raw` with pixels weighted inversely to how common their true color is (equation 4 with lambda 0).

    Args:
        ab: Predicted colors in Lab units, `(B, 2, H, W)`.
        ab_truth: True ones.
        quantizer: Color bins with a fitted prior.

    Examples:
        >>> quantizer = ColorQuantizer().fit_prior_to_images(torch.rand(4, 3, 8, 8))
        >>> round(auc_rebalanced(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), quantizer), 6)
        1.0
    """
    weights = quantizer.rebalancing(0.0)[quantizer.nearest_bin(ab_truth)]
    return float((weights * _areas(ab, ab_truth)).sum() / weights.sum())


def colorfulness(rgb: Tensor) -> float:
    """The mean colorfulness of images (Hasler & Süsstrunk 2003, M3, signed opponents, RGB in 0..255).

    About 0 for gray, 15 slightly, 33 moderately, 59 quite, 109 extremely colorful.

    Args:
        rgb: sRGB in `[0, 1]`, `(B, 3, H, W)`.

    Raises:
        ArgumentError: The shape, the dtype or the range is wrong.

    Examples:
        >>> round(colorfulness(torch.full((1, 3, 8, 8), 0.5)), 3)
        0.0
    """
    check_three_channels("colorfulness", rgb)
    check_unit_range("colorfulness", rgb)
    red, green, blue = (255 * rgb).flatten(-2).unbind(-2)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=-2)
    spread, mean = opponents.std(dim=-1, correction=0).norm(dim=-1), opponents.mean(dim=-1).norm(dim=-1)
    return float((spread + 0.3 * mean).mean())


def _areas(ab: Tensor, ab_truth: Tensor) -> Tensor:
    """The share of the thresholds `0..150` that each pixel lies within, `(B, H, W)`."""
    # A distance d lies within every threshold from ceil(d) on, so no threshold needs a pass of its own.
    within = AUC_THRESHOLDS - (ab - ab_truth).norm(dim=1).ceil()
    return cast(Tensor, within.clamp(min=0) / AUC_THRESHOLDS)


@torch.no_grad()
def _lpips(prediction: Tensor, truth: Tensor, net: str) -> float:
    distance = create_loss("lpips", net=net).to(prediction.device)
    pairs = zip(prediction.split(BATCH), truth.split(BATCH), strict=True)
    total = sum(float(distance(2 * mine - 1, 2 * true - 1)) * len(mine) for mine, true in pairs)
    return total / len(prediction)
