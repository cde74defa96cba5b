"""Positions of bins: the published bins of ab, bins of equal width, and bins fitted to data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError

__all__ = ["check_centers", "color_bins", "describe", "fitted_bins", "uniform_bins"]

# The 313 published bins of ab: for each a, the b of the first and of the last bin, in steps of 10. They cannot be
# derived from sRGB, because they are the bins that soft-encoded ImageNet reaches (listed in
# opencv/samples/dnn/colorization.cpp).
COLOR_STEP = 10
COLOR_ROWS = {
    -90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100), -30: (-50, 100),
    -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90), 30: (-90, 90), 40: (-100, 90),
    50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70), 90: (-110, 70), 100: (-90, 0),
}  # fmt: skip


def color_bins() -> Tensor:
    """Returns the centers of the published bins in Lab units, `(313, 2)`, in the published order."""
    rows = [(a, b) for a, (low, high) in COLOR_ROWS.items() for b in range(low, high + 1, COLOR_STEP)]
    return torch.tensor(rows, dtype=torch.float32)


def uniform_bins(
    low: float | Sequence[float], high: float | Sequence[float], bins: int | Sequence[int]
) -> tuple[Tensor, float]:
    """Returns the centers `(Q, D)` of bins of equal width, a grid for two channels, and the mean width of a bin."""
    channels = len(low) if isinstance(low, Sequence) else 1
    if channels not in (1, 2):
        raise ArgumentError(f"bins must be for one or two channels, got low={low}")
    starts, stops = _per_channel("low", low, channels), _per_channel("high", high, channels)
    axes, widths = [], []
    for start, stop, count in zip(starts, stops, _counts(bins, channels), strict=True):
        if not float("-inf") < start < stop < float("inf"):
            raise ArgumentError(f"bins need two finite numbers as their range, low < high; got {low} and {high}")
        widths.append((stop - start) / count)
        axes.append(start + (torch.arange(count, dtype=torch.float64) + 0.5) * widths[-1])
    return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, -2), sum(widths) / channels


def fitted_bins(values: Tensor, bins: int | Sequence[int]) -> tuple[Tensor, float]:
    """Returns the centers `(Q, D)` of bins fitted to `values` `(B, D, H, W)`, and the mean distance of neighbors."""
    if values.dim() != 4 or values.shape[1] not in (1, 2) or not values.is_floating_point():
        raise ArgumentError(
            f"bins can only be fitted to floating-point values of shape (B, 1 or 2, H, W), got {describe(values)}"
        )
    points = values.detach().movedim(1, 0).flatten(1).double()
    if not points.numel() or not points.isfinite().all() or (points.amin(1) == points.amax(1)).any():
        raise ArgumentError("bins can only be fitted to finite values that are not all the same in a channel")
    counts = _counts(bins, len(points))
    if len(points) == 2:
        low, high = points.aminmax(dim=1)
        grid, width = uniform_bins(low.tolist(), high.tolist(), counts)
        per_axis = torch.tensor(counts, device=points.device)[:, None]
        cells = ((points - low[:, None]) / (high - low)[:, None] * per_axis).long()
        row, column = cells.minimum(per_axis - 1)  # the highest value would fall one past the last cell
        return grid[(row * counts[1] + column).unique().cpu()], width
    middles = (torch.arange(counts[0], dtype=torch.float64) + 0.5) / counts[0] * points.shape[1]
    centers = points[0].sort().values[middles.long().to(points.device)].unique()
    return centers[:, None].cpu(), float(centers.diff().mean()) if len(centers) > 1 else 1.0


def check_centers(centers: Tensor) -> None:
    """Raises an error unless `centers` are distinct points `(Q, 1)` in ascending order, or `(Q, 2)`."""
    if centers.dim() != 2 or centers.shape[1] not in (1, 2) or not len(centers) or not centers.isfinite().all():
        raise ArgumentError(f"centers must be finite numbers of shape (Q, 1) or (Q, 2), got {describe(centers)}")
    if centers.shape[1] == 1 and not (centers.diff(dim=0) > 0).all():
        raise ArgumentError("the centers of one channel must be in ascending order; sort them and remove duplicates")
    if (distinct := len(centers.unique(dim=0))) != len(centers):
        raise ArgumentError(f"centers must be distinct, but only {distinct} of {len(centers)} are")


def describe(tensor: Tensor) -> str:
    """Describes the dtype and shape of a tensor for error messages."""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _counts(bins: int | Sequence[int], channels: int) -> list[int]:
    counts = _per_channel("bins", bins, channels)
    if not all(isinstance(count, int) and count >= 1 for count in counts):
        raise ArgumentError(f"the number of bins must be a positive whole number, got {bins}")
    return counts


def _per_channel(name: str, numbers: Any, channels: int) -> list[Any]:
    per_channel = list(numbers) if isinstance(numbers, Sequence) else [numbers] * channels
    if len(per_channel) != channels:
        raise ArgumentError(f"{name} must be one number, or one number for each of {channels} channels; got {numbers}")
    return per_channel
