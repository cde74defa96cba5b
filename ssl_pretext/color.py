"""Differentiable conversions between sRGB, CIE L*a*b*, YCbCr, gray and stains, as pure tensor functions.

The white point is D65 and the matrix that of ITU-R BT.709, with the digits that scikit-image, OpenCV and kornia use, so
that values agree with theirs. `L` is in `[0, 100]`; over the sRGB gamut, `a` is in about `[-86.2, 98.2]` and `b` in
`[-107.9, 94.5]`.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.devices import CopyToHost, is_capturing, is_idle

__all__ = ["lab_to_rgb", "luma", "rgb_to_lab"]

Matrix = Sequence[Sequence[float]]  # numbers and not tensors, because an exported graph may not refer to global tensors

# Linear sRGB -> XYZ and the D65 white of the 2 degree observer, as in skimage.color.colorconv.
XYZ_FROM_RGB = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
WHITE = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)

# Lab is defined on XYZ relative to white. The inverse is computed in float64 rather than typed in with few digits.
RELATIVE_XYZ_FROM_RGB: Matrix = (XYZ_FROM_RGB / WHITE[:, None]).tolist()
RGB_FROM_RELATIVE_XYZ: Matrix = torch.linalg.inv(XYZ_FROM_RGB / WHITE[:, None]).tolist()

# CIE 1976: a line replaces the cube root below KNEE. These are the rounded constants of the publication, which all
# libraries use. With the exact (6/29)**3 and (29/6)**2/3, `a` would differ from scikit-image by up to 1.6e-4.
KNEE, SLOPE, OFFSET = 0.008856, 7.787, 16 / 116
F_KNEE = KNEE ** (1 / 3)
# The point where the power and the line of IEC 61966-2-1 meet; its rounded 0.04045 and 0.0031308 leave a gap of 3e-8.
SRGB_KNEE, LINEAR_KNEE = 0.0404482362771082, 0.00313066844250063
LUMA_WEIGHTS = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # ITU-R BT.601
LUMA_FROM_RGB: Matrix = [LUMA_WEIGHTS.tolist()]

# BT.601 in full range, as in JPEG: Cb and Cr are the differences B - Y and R - Y, scaled to [-0.5, 0.5].
_RED, _, _BLUE = torch.eye(3, dtype=torch.float64)
_YCBCR = torch.stack(
    [
        LUMA_WEIGHTS,
        (_BLUE - LUMA_WEIGHTS) / (2 * (1 - LUMA_WEIGHTS[2])),
        (_RED - LUMA_WEIGHTS) / (2 * (1 - LUMA_WEIGHTS[0])),
    ]
)
YCBCR_FROM_RGB: Matrix = _YCBCR.tolist()
RGB_FROM_YCBCR: Matrix = torch.linalg.inv(_YCBCR).tolist()

# Optical densities of hematoxylin, eosin and DAB in R, G and B (Ruifrok and Johnston 2001), as in skimage.color.
_RGB_FROM_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64)
DENSITY_FROM_HED: Matrix = _RGB_FROM_HED.T.tolist()
HED_FROM_DENSITY: Matrix = torch.linalg.inv(_RGB_FROM_HED).T.tolist()
DARKEST = 1e-6  # smallest intensity, whose optical density is 1

PIECE = 3 << 16  # values that a CPU converts at a time, so that intermediate results fit into its cache
RANGE_TOLERANCE = 1e-4  # allows for rounding in color conversions; far below one 8-bit level

# Names of functions, and the smallest and largest values of the images that they got, which are on their way from a
# GPU.
_PENDING: deque[tuple[str, CopyToHost]] = deque()


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Converts sRGB to CIE L*a*b* (D65).

    Args:
        rgb: sRGB in `[0, 1]`, `(..., 3, H, W)`, any floating dtype.

    Returns:
        Lab with the same shape, dtype and device: `L` in `[0, 100]`, `a` and `b` unscaled.

    Raises:
        ArgumentError: The shape or dtype is wrong, or a value is outside `[0, 1]`. If a GPU is still busy, the range is
            checked in a later call, so that the CPU does not wait. It is not checked in a traced or compiled graph.

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

    Colors outside the sRGB gamut become values below 0 or above 1 with nonzero gradients; clipping would remove the
    gradients by which a loss can correct a prediction. Clamp the result before displaying it.

    Args:
        lab: `L` in `[0, 100]`, `a` and `b` unscaled, `(..., 3, H, W)`, any floating dtype.

    Returns:
        sRGB with the same shape, dtype and device.

    Raises:
        ArgumentError: The shape or dtype is wrong.

    Examples:
        >>> lab_to_rgb(torch.tensor([53.24, 80.09, 67.20]).view(3, 1, 1)).flatten().round(decimals=2).tolist()
        [1.0, 0.0, 0.0]
    """
    check_three_channels("lab_to_rgb", lab)
    return _lab_to_rgb(lab)


def luma(rgb: Tensor) -> Tensor:
    """Computes the luma of ITU-R BT.601, `0.299 R + 0.587 G + 0.114 B`.

    Args:
        rgb: sRGB `(..., 3, H, W)`, any floating dtype.

    Returns:
        Luma `(..., 1, H, W)` with the same dtype and device.

    Raises:
        ArgumentError: The shape or dtype is wrong.

    Examples:
        >>> luma(torch.ones(3, 1, 1)).item()
        1.0
    """
    check_three_channels("luma", rgb)
    return _apply_matrix(LUMA_FROM_RGB, rgb)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Converts sRGB in `[0, 1]` to luma `Y` in `[0, 1]` and the differences `Cb`, `Cr` in `[-0.5, 0.5]`."""
    return _apply_matrix(YCBCR_FROM_RGB, rgb)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Converts `Y`, `Cb` and `Cr` to sRGB, as the inverse of `rgb_to_ycbcr`."""
    return _apply_matrix(RGB_FROM_YCBCR, ycbcr)


def rgb_to_hed(rgb: Tensor) -> Tensor:
    """Separates sRGB in `[0, 1]` into the stains hematoxylin, eosin and DAB (Ruifrok and Johnston 2001).

    As in scikit-image, negative amounts become 0; a color that is no mixture of the stains cannot be restored.
    """
    exact = rgb.to(torch.promote_types(rgb.dtype, torch.float32))
    density = exact.clamp(min=DARKEST).log() / math.log(DARKEST)
    return _apply_matrix(HED_FROM_DENSITY, density).clamp(min=0).to(rgb.dtype)


def hed_to_rgb(hed: Tensor) -> Tensor:
    """Converts amounts of hematoxylin, eosin and DAB to sRGB, as the inverse of `rgb_to_hed`, without clipping."""
    exact = hed.to(torch.promote_types(hed.dtype, torch.float32))
    return (_apply_matrix(DENSITY_FROM_HED, exact) * math.log(DARKEST)).exp().to(hed.dtype)


def _rgb_to_lab(rgb: Tensor) -> Tensor:
    """Computes `rgb_to_lab` without checking the input."""
    return _convert_in_pieces(_piece_to_lab, rgb)


def _lab_to_rgb(lab: Tensor) -> Tensor:
    """Computes `lab_to_rgb` without checking the input."""
    return _convert_in_pieces(_piece_to_rgb, lab)


def _is_traced() -> bool:
    """Whether the code is run once to record a graph: by `torch.compile`, `torch.export` or an ONNX exporter."""
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return traced or torch.compiler.is_compiling()


class _Curve:
    """A function that is a power above a knee and the line `slope x + offset` below it.

    The two parts are added, which takes half the time of `where` and has finite gradients everywhere: below the knee,
    the power keeps its value at the knee, and the difference between the line and that value is added.

    Args:
        knee: Value of `x` at which the two parts meet.
        power: The power; it may modify its argument in place.
        slope: Slope of the line.
        offset: Value of the line at 0.
    """

    def __init__(self, knee: float, power: Callable[[Tensor], Tensor], slope: float, offset: float = 0.0) -> None:
        self.knee, self.power, self.slope = knee, power, slope
        self.lift = offset - float(power(torch.tensor(knee, dtype=torch.float64)))

    def __call__(self, x: Tensor) -> Tensor:
        return self.power(x.clamp(min=self.knee)) + (self.slope * x).add_(self.lift).clamp_(max=0)


def _power(x: Tensor, exponent: float) -> Tensor:
    """Computes `x ** exponent` of positive `x`; outside of a graph in place, in half the time of `pow`."""
    return x.pow(exponent) if _is_traced() else x.log2_().mul_(exponent).exp2_()  # ONNX may lack exp2


_LINEAR = _Curve(SRGB_KNEE, lambda x: _power(x.add_(0.055).div_(1.055), 2.4), 1 / 12.92)
_SRGB = _Curve(LINEAR_KNEE, lambda x: (1.055 * _power(x, 1 / 2.4)).sub_(0.055), 12.92)
_CUBE_ROOT = _Curve(KNEE, lambda x: _power(x, 1 / 3), SLOPE, OFFSET)
_CUBE = _Curve(F_KNEE, lambda x: x.pow_(3), 1 / SLOPE, -OFFSET / SLOPE)


def _piece_to_lab(rgb: Tensor) -> Tensor:
    x, y, z = _CUBE_ROOT(_apply_matrix(RELATIVE_XYZ_FROM_RGB, _LINEAR(rgb))).unbind(-3)
    # Not 500 x - 500 y, which would round both products and have ten times the error of 500 (x - y).
    return torch.stack([(116 * y).sub_(16), (x - y).mul_(500), (y - z).mul_(200)], dim=-3)


def _piece_to_rgb(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16).div_(116)
    f = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    return _SRGB(_apply_matrix(RGB_FROM_RELATIVE_XYZ, _CUBE(f)))


def _convert_in_pieces(convert: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Converts images in float32 or better; on the CPU in pieces, so that intermediate results stay in its cache."""
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    # A graph has no pieces: their number would fix the size of its images.
    pieces = not _is_traced() and images.device.type == "cpu" and images.numel() > PIECE
    return cast(Tensor, _Piecewise.apply(exact, convert) if pieces else convert(exact)).to(images.dtype)


class _Piecewise(torch.autograd.Function):
    """A conversion in pieces; converting again in the backward pass is faster than storing intermediate results."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, convert: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(images)
        ctx.convert = convert
        return _map_pieces(convert, images)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is requested
            return _gradient(ctx.convert, images, slopes, create_graph=True), None

        def gradient(piece: Tensor, slope: Tensor) -> Tensor:
            with torch.enable_grad():
                return _gradient(ctx.convert, piece.detach().requires_grad_(), slope)

        return _map_pieces(gradient, images, slopes), None


def _gradient(
    convert: Callable[[Tensor], Tensor], images: Tensor, slopes: Tensor, *, create_graph: bool = False
) -> Tensor:
    (gradient,) = torch.autograd.grad(convert(images), images, slopes, create_graph=create_graph)
    return gradient


def _map_pieces(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """Applies a pixelwise function to images `(..., 3, H, W)` of the same shape, piece by piece."""
    out = torch.empty_like(images[0], memory_format=torch.contiguous_format)
    *inputs, outputs = (x.reshape(-1, 3, x.shape[-2] * x.shape[-1], 1) for x in (*images, out))
    count, width = max(1, PIECE // (3 * outputs.shape[2])), PIECE // 3
    for image in range(0, len(outputs), count):
        for pixel in range(0, outputs.shape[2], width):
            piece = slice(image, image + count), slice(None), slice(pixel, pixel + width)
            outputs[piece] = function(*(x[piece] for x in inputs))
    return out


def check_three_channels(function: str, images: Tensor) -> None:
    """Raises unless `images` is a floating tensor `(..., 3, H, W)`.

    Args:
        function: Name of the public function, for error messages.
        images: The tensor to check.

    Raises:
        ArgumentError: The dtype is not floating, or the shape is wrong.
    """
    if not torch.is_floating_point(images):
        raise ArgumentError(f"{function} takes a floating tensor, got {images.dtype}; divide uint8 images by 255 first")
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ArgumentError(f"{function} takes images of shape (..., 3, H, W), got {tuple(images.shape)}")


def check_unit_range(function: str, rgb: Tensor, *, wait: bool = False) -> None:
    """Raises if RGB is outside `[0, 1]`, without making the CPU wait for a GPU that is busy.

    The smallest and the largest value are copied from a GPU asynchronously. If nothing else is queued on the GPU, they
    are checked at once, which takes microseconds. Otherwise they are checked in the first later call that finds them
    complete, or by `finish_range_checks`. Nothing is checked where code cannot depend on the values of images: in a
    graph that `torch.compile`, `torch.export` or an ONNX exporter traces, under the transforms of `torch.func`, and
    for tensors without values. The same holds for CUDA graphs.

    Args:
        function: Name of the public function, for error messages.
        rgb: The tensor to check.
        wait: Whether to wait for a busy GPU, as functions do that return numbers on the CPU.

    Raises:
        ArgumentError: A value is outside `[0, 1]` or NaN, in these images or in those of an earlier call.
    """
    if _is_traced() or rgb.numel() == 0 or not _has_values(rgb) or is_capturing(rgb.device):
        return
    _check_pending(wait=False)
    at_once = wait or is_idle(rgb.device)  # asked before the reduction is queued
    bounds = CopyToHost(torch.stack(rgb.detach().aminmax()))
    if at_once:
        _check_bounds(function, bounds)
    else:
        _PENDING.append((function, bounds))


def finish_range_checks() -> None:
    """Waits for the range checks of images on a GPU that have not been completed; called where the CPU waits anyway.

    Raises:
        ArgumentError: Images of an earlier call were outside `[0, 1]`.
    """
    _check_pending(wait=True)


def _has_values(images: Tensor) -> bool:
    """Whether the values of a tensor can be read; tensors on `meta`, fake tensors and those of `vmap` have none."""
    try:
        return images.untyped_storage().device.type == images.device.type != "meta"
    except NotImplementedError:  # raised for the tensors of `torch.func`
        return False


def _check_pending(*, wait: bool) -> None:
    while _PENDING and (wait or _PENDING[0][1].is_complete()):
        function, bounds = _PENDING.popleft()
        try:
            _check_bounds(f"{function}, in an earlier call,", bounds)
        except ArgumentError:
            _PENDING.clear()  # the calls after a wrong one most likely had the same images
            raise


def _check_bounds(function: str, bounds: CopyToHost) -> None:
    low, high = bounds.wait().tolist()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # also true of NaN
        raise ArgumentError(
            f"{function} takes RGB in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "divide by 255, or clamp values that interpolation moved out of the range"
        )


def _apply_matrix(matrix: Matrix, images: Tensor) -> Tensor:
    """Multiplies the channels of images by a matrix."""
    if images.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return torch.einsum("ij,...jhw->...ihw", torch.tensor(matrix, dtype=images.dtype), images)
    # Autocast and TF32 would round a matrix product, in bfloat16 by up to 2 units of ab; sums of products stay exact.
    channels = images.unbind(-3)
    return torch.stack([_weighted_sum(row, channels) for row in matrix], dim=-3)


def _weighted_sum(weights: Sequence[float], channels: Sequence[Tensor]) -> Tensor:
    total = weights[0] * channels[0]
    for weight, channel in zip(weights[1:], channels[1:], strict=True):
        total = total + weight * channel
    return total
