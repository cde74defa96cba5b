"""Metrics of predicted colors: PSNR, SSIM, LPIPS, AuC, colorfulness, mean color and hues."""

from typing import cast

import torch
from torch import Tensor

from ssl_pretext.color import _rgb_to_lab, check_three_channels, check_unit_range
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import create_loss
from ssl_pretext.quantize import ColorQuantizer

__all__ = ["HUES", "auc_raw", "auc_rebalanced", "color_quality", "colorfulness", "hue_shares"]

AUC_THRESHOLDS = 151  # Zhang 2016, section 3.1: distances in ab of 0, 1, ..., 150
MIN_SIZE = 6  # pixels; smaller images cannot be padded by reflection for the 11-pixel window of SSIM
BATCH = 256  # images per batch of LPIPS
COLORED = 5.0  # chroma above which a pixel is colored: twice the just noticeable difference of 2.3 (Mahy et al. 1994)
# Where each sector of the Lab hue angle begins, in degrees; it ends where the next one begins. The pure colors of sRGB
# have the angles 40 (red), 60 (orange), 103 (yellow), 136 (green), 196 (cyan), 306 (blue) and 328 (magenta). So yellow
# runs from orange to yellow, green as far as cyan, and blue from cyan to magenta.
HUES = {"yellow": 60.0, "green": 105.0, "blue": 180.0, "red": 330.0}


def color_quality(
    prediction: Tensor, truth: Tensor, *, quantizer: ColorQuantizer | None = None, lpips: str | None = None
) -> dict[str, float]:
    """Compares colorized images with the true images.

    Args:
        prediction: Predicted images, sRGB in `[0, 1]`, `(B, 3, H, W)`.
        truth: The same images with their true colors.
        quantizer: Color bins with a fitted prior, for `auc_rebalanced`. By default the prior is fitted to `truth`.
        lpips: Backbone of LPIPS, `"alex"`, `"vgg"` or `"squeeze"`, which adds the key `lpips`. It should differ from
            the backbone of an LPIPS loss in training, to which the network is fitted.

    Returns:
        `psnr` (dB) and `ssim`, both averaged over the images, `auc_raw` and `auc_rebalanced` (see the functions),
        `colorfulness` and `colorfulness_truth` (see `colorfulness`), and the mean Lab `a` and `b` of both as `mean_a`,
        `mean_a_truth`, `mean_b` and `mean_b_truth`, which show a color cast: `a` from green to red, `b` from blue to
        yellow. A mean does not show which hue is the most frequent; `colored`, `hue_yellow`, `hue_green`, `hue_blue`
        and `hue_red` (see `hue_shares`) do, again with the true values under the same names and `_truth`.

    Raises:
        ArgumentError: The shapes differ, the tensors are not batches of RGB images in `[0, 1]`, or the images are too
            small.
        MissingFileError: The weights of the LPIPS backbone are missing.

    Examples:
        >>> images = torch.rand(4, 3, 32, 32)
        >>> round(color_quality(images, images)["ssim"], 3)
        1.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    for images in (prediction, truth):
        check_three_channels("color_quality", images)
        check_unit_range("color_quality", images, wait=True)
    if prediction.shape != truth.shape or truth.dim() != 4:
        raise ArgumentError(
            f"color_quality takes two batches of the same shape (B, 3, H, W), got {tuple(prediction.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if not len(truth) or min(truth.shape[-2:]) < MIN_SIZE:
        raise ArgumentError(
            f"color_quality needs at least one image of at least {MIN_SIZE}×{MIN_SIZE} pixels, got shape "
            f"{tuple(truth.shape)}"
        )
    ab, ab_truth = _rgb_to_lab(prediction)[:, 1:], _rgb_to_lab(truth)[:, 1:]
    metrics = {
        # The PSNR of a perfect prediction would be infinite; the limit corresponds to the precision of float32.
        "psnr": float(
            peak_signal_noise_ratio(prediction, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
            .clamp(max=140.0)
            .mean()
        ),
        "ssim": float(structural_similarity_index_measure(prediction, truth, data_range=1.0)),
        "auc_raw": auc_raw(ab, ab_truth),
        "auc_rebalanced": auc_rebalanced(ab, ab_truth, quantizer or ColorQuantizer().fit_prior_to_images(truth)),
        "colorfulness": colorfulness(prediction),
        "colorfulness_truth": colorfulness(truth),
        "mean_a": float(ab[:, 0].mean()),
        "mean_a_truth": float(ab_truth[:, 0].mean()),
        "mean_b": float(ab[:, 1].mean()),
        "mean_b_truth": float(ab_truth[:, 1].mean()),
        **hue_shares(ab),
        **{f"{name}_truth": share for name, share in hue_shares(ab_truth).items()},
    }
    if lpips is not None:
        metrics["lpips"] = _lpips(prediction, truth, lpips)
    return metrics


def auc_raw(ab: Tensor, ab_truth: Tensor) -> float:
    """Computes the fraction of pixels within a distance `t` in ab, averaged over `t = 0..150`.

    This is the raw accuracy (AuC) of Zhang et al. 2016, section 3.1.

    Args:
        ab: Predicted colors in Lab units, `(B, 2, H, W)`.
        ab_truth: True colors in Lab units, `(B, 2, H, W)`.

    Examples:
        >>> auc_raw(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
        1.0
    """
    return float(_fraction_of_thresholds(ab, ab_truth).mean())


def auc_rebalanced(ab: Tensor, ab_truth: Tensor, quantizer: ColorQuantizer) -> float:
    """Computes `auc_raw` with pixels weighted by the inverse frequency of their true color.

    This is the rebalanced accuracy of Zhang et al. 2016, with the weights of equation 4 for lambda 0.

    Args:
        ab: Predicted colors in Lab units, `(B, 2, H, W)`.
        ab_truth: True colors in Lab units, `(B, 2, H, W)`.
        quantizer: Color bins with a fitted prior.

    Examples:
        >>> quantizer = ColorQuantizer().fit_prior_to_images(torch.rand(4, 3, 8, 8))
        >>> round(auc_rebalanced(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), quantizer), 6)
        1.0
    """
    weights = quantizer.rebalancing(0.0)[quantizer.nearest_bin(ab_truth)]
    return float((weights * _fraction_of_thresholds(ab, ab_truth)).sum() / weights.sum())


def colorfulness(rgb: Tensor) -> float:
    """Computes the mean colorfulness of images (Hasler & Süsstrunk 2003, M3 with signed opponents, RGB in 0..255).

    Gray images have about 0, slightly colorful ones 15, moderately colorful 33, quite colorful 59, and extremely
    colorful 109.

    Args:
        rgb: sRGB in `[0, 1]`, `(B, 3, H, W)`.

    Raises:
        ArgumentError: The shape, dtype or range is wrong.

    Examples:
        >>> round(colorfulness(torch.full((1, 3, 8, 8), 0.5)), 3)
        0.0
    """
    check_three_channels("colorfulness", rgb)
    check_unit_range("colorfulness", rgb, wait=True)
    red, green, blue = (255 * rgb).flatten(-2).unbind(-2)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=-2)
    spread, mean = opponents.std(dim=-1, correction=0).norm(dim=-1), opponents.mean(dim=-1).norm(dim=-1)
    return float((spread + 0.3 * mean).mean())


def hue_shares(ab: Tensor) -> dict[str, float]:
    """Computes the fraction of pixels that are colored, and the fraction of these with each hue.

    A pixel is colored if its chroma in Lab, the distance of `(a, b)` from gray, is above 5. Its hue is the angle of
    `(a, b)`: yellow from 60° (orange) to 105°, green to 180°, blue to 330° (with cyan and magenta), and red from there
    to 60°. All pixels of a batch have the same weight.

    Args:
        ab: Colors in Lab units, `(B, 2, H, W)`.

    Returns:
        `colored`, a fraction of all pixels, and `hue_yellow`, `hue_green`, `hue_blue` and `hue_red`, fractions of the
        colored pixels. These add up to 1, or are all 0 if no pixel is colored.

    Examples:
        >>> ab = torch.tensor([[0.0, 30.0], [0.0, 80.0]]).view(1, 2, 1, 2)  # a gray and a yellow pixel
        >>> found = hue_shares(ab)
        >>> found["colored"], found["hue_yellow"], found["hue_red"]
        (0.5, 1.0, 0.0)
    """
    colored = ab.norm(dim=1) > COLORED
    angle = torch.rad2deg(torch.atan2(ab[:, 1], ab[:, 0]))[colored] % 360
    # Angles before the first sector belong to the last one, which includes 0°.
    sector = (torch.bucketize(angle, angle.new_tensor([*HUES.values()]), right=True) - 1) % len(HUES)
    counts, total = torch.bincount(sector, minlength=len(HUES)).tolist(), len(angle)
    shares = {f"hue_{name}": count / max(total, 1) for name, count in zip(HUES, counts, strict=True)}
    return {"colored": total / max(colored.numel(), 1), **shares}


def _fraction_of_thresholds(ab: Tensor, ab_truth: Tensor) -> Tensor:
    """Computes the fraction of the thresholds `0..150` that the distance of each pixel does not exceed, `(B, H, W)`."""
    # A distance d is within all thresholds from ceil(d) on, so one pass over the pixels suffices.
    within = AUC_THRESHOLDS - (ab - ab_truth).norm(dim=1).ceil()
    return cast(Tensor, within.clamp(min=0) / AUC_THRESHOLDS)


@torch.no_grad()
def _lpips(prediction: Tensor, truth: Tensor, net: str) -> float:
    """Computes the mean LPIPS distance in batches."""
    distance = create_loss("lpips", net=net).to(prediction.device)
    pairs = zip(prediction.split(BATCH), truth.split(BATCH), strict=True)
    total = sum(float(distance(2 * predicted - 1, 2 * true - 1)) * len(true) for predicted, true in pairs)
    return total / len(prediction)
