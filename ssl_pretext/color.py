"""sRGB and CIE L*a*b*: pure, differentiable tensor functions.

White point D65 and the matrix of ITU-R BT.709, with the digits that scikit-image, OpenCV and kornia use, so that
values agree with theirs. `L` lies in `[0, 100]`; over the sRGB gamut `a` in about `[-86.2, 98.2]` and `b` in
`[-107.9, 94.5]`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["lab_to_rgb", "luma", "rgb_to_lab"]

# Linear sRGB -> XYZ and the D65 white of the 2 degree observer, as in skimage.color.colorconv.
XYZ_FROM_RGB = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
WHITE = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)

# XYZ relative to white (what Lab is defined on), and back; inverted in float64, never typed in rounded.
RELATIVE_XYZ_FROM_RGB = XYZ_FROM_RGB / WHITE[:, None]
RGB_FROM_RELATIVE_XYZ = torch.linalg.inv(RELATIVE_XYZ_FROM_RGB)

# CIE 1976: below KNEE the cube root gives way to a line. The rounded constants of the publication, as every library
# has them: the exact (6/29)**3 and (29/6)**2/3 would move `a` by up to 1.6e-4 away from scikit-image.
KNEE, SLOPE, OFFSET = 0.008856, 7.787, 16 / 116
F_KNEE = KNEE ** (1 / 3)
# Where the power and the line of IEC 61966-2-1 meet; its own 0.04045 and 0.0031308, rounded, leave a gap of 3e-8.
SRGB_KNEE, LINEAR_KNEE = 0.0404482362771082, 0.00313066844250063
LUMA_WEIGHTS = torch.tensor([[0.299, 0.587, 0.114]], dtype=torch.float64)  # ITU-R BT.601

# BT.601 in full range, as JPEG has it: Cb and Cr are the differences B - Y and R - Y, scaled to [-0.5, 0.5].
_RED, _, _BLUE = torch.eye(3, dtype=torch.float64)
YCBCR_FROM_RGB = torch.stack(
    [
        LUMA_WEIGHTS[0],
        (_BLUE - LUMA_WEIGHTS[0]) / (2 * (1 - LUMA_WEIGHTS[0, 2])),
        (_RED - LUMA_WEIGHTS[0]) / (2 * (1 - LUMA_WEIGHTS[0, 0])),
    ]
)
RGB_FROM_YCBCR = torch.linalg.inv(YCBCR_FROM_RGB)

PIECE = 3 << 16  # values that are converted at a time on a CPU: those between fit into its cache
RANGE_TOLERANCE = 1e-4  # rounding of a color conversion, far below one level of 8 bits


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Converts sRGB to CIE L*a*b* (D65).

    Args:
        rgb: sRGB in `[0, 1]`, `(..., 3, H, W)`, any floating dtype.

    Returns:
        Lab of the same shape, dtype and device: `L` in `[0, 100]`, `a` and `b` unscaled.

    Raises:
        ArgumentError: The shape or dtype is wrong, or (checked on the CPU only, where it costs no
            synchronization) a value lies outside `[0, 1]`.

    Examples:
        >>> white = torch.ones(1, 3, 1, 1)
        >>> [round(value, 1) for value in rgb_to_lab(white).flatten().tolist()]
        [100.0, -0.0, 0.0]
    """
    check_three_channels("rgb_to_lab", rgb)
    check_unit_range("rgb_to_lab", rgb)
    return _rgb_to_lab(rgb)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Converts CIE L*a*b* (D65) to sRGB, without clipping.

    Colors outside the sRGB gamut come out below 0 or above 1, with live gradients: clipping here would stop
    a loss from pulling a prediction back. Clamp the result before showing it.

    Args:
        lab: `L` in `[0, 100]`, `a` and `b` unscaled, `(..., 3, H, W)`, any floating dtype.

    Returns:
        sRGB of the same shape, dtype and device.

    Raises:
        ArgumentError: The shape or dtype is wrong.

    Examples:
        >>> lab_to_rgb(torch.tensor([53.24, 80.09, 67.20]).view(3, 1, 1)).flatten().round(decimals=2).tolist()
        [1.0, 0.0, 0.0]
    """
    check_three_channels("lab_to_rgb", lab)
    return _lab_to_rgb(lab)


def luma(rgb: Tensor) -> Tensor:
    """The luma of ITU-R BT.601, `0.299 R + 0.587 G + 0.114 B`: `(..., 3, H, W)` to `(..., 1, H, W)`.

    Examples:
        >>> luma(torch.ones(3, 1, 1)).item()
        1.0
    """
    check_three_channels("luma", rgb)
    return _mix(LUMA_WEIGHTS, rgb)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """SRGB in `[0, 1]` to luma `Y` in `[0, 1]` and the differences `Cb`, `Cr` in `[-0.5, 0.5]`."""
    return _mix(YCBCR_FROM_RGB, rgb)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of `rgb_to_ycbcr`."""
    return _mix(RGB_FROM_YCBCR, ycbcr)


def _rgb_to_lab(rgb: Tensor) -> Tensor:
    """`rgb_to_lab` for callers that have checked their input already."""
    return _in_pieces(_piece_to_lab, rgb)


def _lab_to_rgb(lab: Tensor) -> Tensor:
    """`lab_to_rgb` for callers that have checked their input already."""
    return _in_pieces(_piece_to_rgb, lab)


class _Curve:
    """A power above a knee, in a function that may work in place, and the line `slope x + offset` below it.

    As a sum, which takes half the time of `where` and has finite gradients everywhere: below the knee the power stands
    still, and what the line is lower is added.
    """

    def __init__(self, knee: float, power: Callable[[Tensor], Tensor], slope: float, offset: float = 0.0) -> None:
        self.knee, self.power, self.slope = knee, power, slope
        self.lift = offset - float(power(torch.tensor(knee, dtype=torch.float64)))

    def __call__(self, x: Tensor) -> Tensor:
        return self.power(x.clamp(min=self.knee)) + (self.slope * x).add_(self.lift).clamp_(max=0)


def _power(x: Tensor, exponent: float) -> Tensor:
    """`x ** exponent` of positive `x`, in its place and in half the time that `pow` takes."""
    return x.log2_().mul_(exponent).exp2_()


_LINEAR = _Curve(SRGB_KNEE, lambda x: _power(x.add_(0.055).div_(1.055), 2.4), 1 / 12.92)
_SRGB = _Curve(LINEAR_KNEE, lambda x: (1.055 * _power(x, 1 / 2.4)).sub_(0.055), 12.92)
_CUBE_ROOT = _Curve(KNEE, lambda x: _power(x, 1 / 3), SLOPE, OFFSET)
_CUBE = _Curve(F_KNEE, lambda x: x.pow_(3), 1 / SLOPE, -OFFSET / SLOPE)


def _piece_to_lab(rgb: Tensor) -> Tensor:
    x, y, z = _CUBE_ROOT(_mix(RELATIVE_XYZ_FROM_RGB, _LINEAR(rgb))).unbind(-3)
    # Differences before factors: 500 x - 500 y would round each product, ten times the error of 500 (x - y).
    return torch.stack([(116 * y).sub_(16), (x - y).mul_(500), (y - z).mul_(200)], dim=-3)


def _piece_to_rgb(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16).div_(116)
    f = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    return _SRGB(_mix(RGB_FROM_RELATIVE_XYZ, _CUBE(f)))


def _in_pieces(convert: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Converts, at least in float32; on the CPU in pieces, so that what lies between is cached."""
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    pieces = images.device.type == "cpu" and images.numel() > PIECE
    return cast(Tensor, _Piecewise.apply(exact, convert) if pieces else convert(exact)).to(images.dtype)


class _Piecewise(torch.autograd.Function):
    """A conversion in pieces. Its gradient converts each once more: that is faster than to keep what lies between."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, convert: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(images)
        ctx.convert = convert
        return _mapped(convert, images)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            return _gradient(ctx.convert, images, slopes, create_graph=True), None

        def gradient(piece: Tensor, slope: Tensor) -> Tensor:
            with torch.enable_grad():
                return _gradient(ctx.convert, piece.detach().requires_grad_(), slope)

        return _mapped(gradient, images, slopes), None


def _gradient(
    convert: Callable[[Tensor], Tensor], images: Tensor, slopes: Tensor, *, create_graph: bool = False
) -> Tensor:
    (gradient,) = torch.autograd.grad(convert(images), images, slopes, create_graph=create_graph)
    return gradient


def _mapped(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """A function of pixels, of images `(..., 3, H, W)` of one shape, piece by piece."""
    out = torch.empty_like(images[0], memory_format=torch.contiguous_format)
    *given, found = (x.reshape(-1, 3, x.shape[-2] * x.shape[-1], 1) for x in (*images, out))
    count, width = max(1, PIECE // (3 * found.shape[2])), PIECE // 3
    for image in range(0, len(found), count):
        for pixel in range(0, found.shape[2], width):
            piece = slice(image, image + count), slice(None), slice(pixel, pixel + width)
            found[piece] = function(*(x[piece] for x in given))
    return out


def check_three_channels(function: str, images: Tensor) -> None:
    """Raises unless `images` is a floating tensor `(..., 3, H, W)`."""
    if not torch.is_floating_point(images):
        raise ArgumentError(f"{function} takes a floating tensor, got {images.dtype}; divide uint8 by 255 first")
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ArgumentError(f"{function} takes images of shape (..., 3, H, W), got {tuple(images.shape)}")


def check_unit_range(function: str, rgb: Tensor) -> None:
    """Raises if RGB on the CPU lies outside `[0, 1]`; elsewhere the look would wait for the device."""
    if rgb.device.type != "cpu" or rgb.numel() == 0:
        return
    low, high = (float(bound) for bound in rgb.detach().aminmax())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # also true of NaN
        raise ArgumentError(
            f"{function} takes RGB in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "pass uint8, divide by 255, or clamp what an interpolation overshot"
        )


def _mix(matrix: Tensor, images: Tensor) -> Tensor:
    if images.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return torch.einsum("ij,...jhw->...ihw", matrix.to(images), images)
    # Written out, else it is a matrix product, which autocast and TF32 round: by up to 2 units of ab in bfloat16.
    channels = images.unbind(-3)
    return torch.stack([_weighted(row, channels) for row in matrix.tolist()], dim=-3)


def _weighted(weights: Sequence[float], channels: Sequence[Tensor]) -> Tensor:
    total = weights[0] * channels[0]
    for weight, channel in zip(weights[1:], channels[1:], strict=True):
        total = total + weight * channel
    return total
