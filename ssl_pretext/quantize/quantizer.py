"""Channel values as classes: soft encoding into bins, priors and rebalancing, and the way back to values.

What Zhang et al. 2016 (section 2) call `Z`, `p̃`, `w` and the annealed mean. A soft target has `k` bins per pixel and
is kept that way, as indices and weights: a dense one of 313 bins would be 63 MB for 16 images of 56×56 pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.quantize.bins import check_centers, color_bins, describe, fitted_bins, uniform_bins
from ssl_pretext.quantize.nearest import NearestCenters

__all__ = ["ColorQuantizer", "DecodeMethod", "Quantizer", "is_colorful"]

DecodeMethod = Literal["annealed_mean", "mean", "mode"]

NEIGHBORS = {1: 5, 2: 10}  # by the number of channels; 10 is the released code's (the paper's 5 is a misprint)
BATCH = 64  # images of a store or tensor that are read at a time


@runtime_checkable
class ImageSource(Protocol):
    """What this module needs of an image store."""

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int]) -> Tensor: ...


class Quantizer(nn.Module):
    """Bins for the values of one or two channels.

    Attributes:
        centers: Centers of the bins, `(Q, D)`, in the units of the values.
        prior: How often each bin occurs, `(Q,)`; zeros until `fit_prior`. Both are saved with the state dict.
        sigma: Standard deviation of the Gaussian that spreads a value over its nearest bins.
        neighbors: How many bins that is; 1 makes the encoding hard.

    Args:
        centers: `(Q, D)` with `D` of 1 or 2; those of one channel in ascending order.
        sigma: See above, in the units of the values.
        neighbors: See above; by default 5 for one channel and 10 for two.

    Raises:
        ArgumentError: The centers are no such tensor or not distinct, or an option is out of range.

    Examples:
        >>> quantizer = Quantizer(torch.tensor([[0.0], [1.0], [2.0]]), sigma=0.5, neighbors=2)
        >>> indices, weights = quantizer.encode(torch.full((1, 1, 1, 1), 0.5))
        >>> indices.flatten().tolist(), weights.flatten().tolist()
        ([0, 1], [0.5, 0.5])
    """

    centers: Tensor
    prior: Tensor

    def __init__(self, centers: Tensor, *, sigma: float, neighbors: int | None = None) -> None:
        super().__init__()
        centers = centers.detach().to(torch.float32, copy=True)
        check_centers(centers)
        bins, channels = centers.shape
        neighbors = min(NEIGHBORS[channels], bins) if neighbors is None else neighbors
        if not 0 < sigma < float("inf"):
            raise ArgumentError(f"a quantizer needs a positive sigma, got {sigma}; neighbors=1 makes it a hard one")
        if not 1 <= neighbors <= bins:
            raise ArgumentError(f"neighbors must lie between 1 and the number of bins, {bins}; got {neighbors}")
        self.sigma, self.neighbors = float(sigma), neighbors
        self.register_buffer("centers", centers)
        self.register_buffer("prior", torch.zeros(bins, device=centers.device))
        self._search: NearestCenters | None = None  # made when first needed, where the centers then are
        self.register_load_state_dict_post_hook(_forget_search)  # type: ignore[no-untyped-call]

    @staticmethod
    def uniform(
        low: float | Sequence[float],
        high: float | Sequence[float],
        *,
        bins: int | Sequence[int],
        sigma: float | None = None,
        neighbors: int | None = None,
    ) -> "Quantizer":
        """Bins of equal width: for one channel, or as a grid for two.

        Args:
            low: Where the first bin begins; for two channels, two numbers.
            high: Where the last bin ends.
            bins: Number of bins; for two channels, of each, or one number for both.
            sigma: By default half the mean width of a bin, as the published color bins have it.
            neighbors: See `Quantizer`.

        Raises:
            ArgumentError: The numbers do not describe bins of one or two channels.

        Examples:
            >>> Quantizer.uniform(0, 100, bins=50).centers[:3, 0].tolist()  # L as in Zhang et al. 2017, section 4.1
            [1.0, 3.0, 5.0]
            >>> Quantizer.uniform((-110, -110), (110, 110), bins=22)
            Quantizer(484 bins of 2 channels, sigma=5, neighbors=10)
        """
        centers, width = uniform_bins(low, high, bins)
        return Quantizer(centers, sigma=width / 2 if sigma is None else sigma, neighbors=neighbors)

    @staticmethod
    def fit(
        values: Tensor, *, bins: int | Sequence[int], sigma: float | None = None, neighbors: int | None = None
    ) -> "Quantizer":
        """Bins that suit some data.

        One channel gets its bins at quantiles, so that each holds about as many values. Two channels get a grid
        over their range, less the cells that hold no value. Both can be fewer than asked for.

        Args:
            values: `(B, D, H, W)`, `D` of 1 or 2.
            bins: Number of bins; for two channels, of each, or one number for both.
            sigma: By default half the mean distance of neighboring bins.
            neighbors: See `Quantizer`.

        Raises:
            ArgumentError: The shape or dtype is wrong, or values are not finite, none or all the same.

        Examples:
            >>> Quantizer.fit(torch.rand(8, 1, 16, 16) ** 2, bins=32)
            Quantizer(32 bins of 1 channel, sigma=..., neighbors=5)
        """
        centers, width = fitted_bins(values, bins)
        return Quantizer(centers, sigma=width / 2 if sigma is None else sigma, neighbors=neighbors)

    @property
    def bins(self) -> int:
        """How many bins there are, `Q`."""
        return len(self.centers)

    @torch.no_grad()
    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Spreads each value over its nearest bins, with weights `∝ exp(-d² / (2 sigma²))` that add up to 1.

        Args:
            values: `(B, D, H, W)` in the units of the centers. However far from the bins, they get finite weights;
                what is not a number gets weights that are not.

        Returns:
            Indices (int64) and weights (the dtype of the values), `(B, neighbors, H, W)` each; the bins of a pixel
            are in no particular order.

        Raises:
            ArgumentError: The shape or dtype is wrong.
        """
        self._check("encode", values, self.centers.shape[1])
        if self._search is None:
            self._search = NearestCenters(self.centers, self.neighbors)
        points = values.movedim(1, 0).flatten(1)  # (D, B * H * W)
        indices = points.new_empty(self.neighbors, points.shape[1], dtype=torch.int64)
        weights = points.new_empty(self.neighbors, points.shape[1])
        for start in range(0, points.shape[1], self._search.piece):
            piece = slice(start, start + self._search.piece)
            indices[:, piece], squares = self._search(points[:, piece])
            # Relative to the nearest bin, or all weights of a far value would round to 0.
            excess = (squares - squares.amin(0)).to(torch.promote_types(values.dtype, torch.float32))
            weight = excess.div_(-2 * self.sigma**2).exp_()
            weights[:, piece] = weight.div_(weight.sum(0))
        shape = (values.shape[0], *values.shape[2:])
        indices, weights = (x.unflatten(1, shape).movedim(0, 1) for x in (indices, weights))
        return indices, weights

    def nearest_bin(self, values: Tensor) -> Tensor:
        """The nearest bin of each value: `(B, D, H, W)` to int64 `(B, H, W)`."""
        indices, weights = self.encode(values)
        return indices.gather(1, weights.argmax(1, keepdim=True)).squeeze(1)

    def decode(self, logits: Tensor, method: DecodeMethod = "annealed_mean", temperature: float = 0.38) -> Tensor:
        """Turns predicted logits into values.

        Args:
            logits: `(B, Q, H, W)`.
            method: The `"mean"` of the predicted distribution, its `"mode"`, or between them the `"annealed_mean"`,
                which is the mean of `softmax(logits / temperature)` (Zhang et al. 2016, section 2.3).
            temperature: Of the annealed mean: at 1 it is the mean, toward 0 it goes to the mode.

        Returns:
            `(B, D, H, W)` in the units of the centers; only the mode has no gradient.

        Raises:
            ArgumentError: The shape, dtype, method or temperature is wrong.

        Examples:
            >>> quantizer = Quantizer.uniform(0, 4, bins=2)  # centers 1 and 3
            >>> logits = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
            >>> [round(quantizer.decode(logits, how).item(), 2) for how in ("mean", "annealed_mean", "mode")]
            [2.46, 2.87, 3.0]
        """
        self._check("decode", logits, self.bins)
        if method not in get_args(DecodeMethod):
            raise ArgumentError(f"decode has the methods {', '.join(get_args(DecodeMethod))}, got {method!r}")
        if not 0 < temperature < float("inf"):
            raise ArgumentError(f"decode needs a positive temperature, got {temperature}; its limit at 0 is 'mode'")
        centers = self.centers.to(logits)
        if method == "mode":
            return centers[logits.argmax(1)].movedim(-1, 1)
        if method == "annealed_mean":
            # The largest logit goes to 0 first, or a small temperature would divide it to infinity.
            logits = (logits - logits.detach().amax(1, keepdim=True)) / temperature
        with torch.autocast(logits.device.type, enabled=False):  # which would round values by up to half a unit of ab
            return torch.einsum("bqhw,qd->bdhw", logits.softmax(1), centers)

    def fit_prior(self, values: Tensor | ImageSource | Iterable[Any]) -> Self:
        """Measures how often each bin occurs, as the mean of the soft targets; that is how the paper smooths it.

        Args:
            values: `(N, D, H, W)`; an iterable of such batches (of a tuple or list, as a `DataLoader` gives them,
                the first part); or an image store whose images are the values. Read a batch at a time.

        Returns:
            The quantizer itself.

        Raises:
            ArgumentError: There are no values, or some are not numbers.
        """
        total = torch.zeros(self.bins, dtype=torch.float64)
        for batch in _batches(values):
            indices, weights = self.encode(batch.to(self.centers.device))
            total += torch.bincount(indices.flatten().cpu(), weights.flatten().cpu().double(), self.bins)
        if not (total.sum() > 0 and total.isfinite().all()):
            raise ArgumentError("fit_prior needs at least one value, and all of them numbers")
        self.prior.copy_(total / total.sum())
        return self

    def rebalancing(self, lam: float = 0.5) -> Tensor:
        """Weights by which rare bins count more: `w ∝ 1 / ((1 - lam) p + lam u)`, with `Σ p w = 1`.

        Equation 4 of Zhang et al. 2016, where `lam` is λ; `u` is uniform over the bins that occur. A bin that does
        not occur weighs as much as the rarest that does.

        Args:
            lam: From 0, where all bins count alike in total, to 1, where all weights are 1.

        Returns:
            `(Q,)`, positive and finite.

        Raises:
            ArgumentError: No prior has been fitted, or `lam` lies outside `[0, 1]`.
        """
        if not 0 <= lam <= 1:
            raise ArgumentError(f"rebalancing takes lam in [0, 1], got {lam}")
        occurs = self.prior >= torch.finfo(self.prior.dtype).tiny  # the inverse of less is infinite
        if not occurs.any():
            raise ArgumentError("rebalancing needs a prior; call fit_prior() on the training data first")
        rarest = self.prior[occurs].amin()
        mixed = (1 - lam) * self.prior.clamp(min=rarest) + lam / occurs.sum()
        return 1 / (mixed * (self.prior / mixed).sum())

    @override
    def extra_repr(self) -> str:
        bins, channels = self.centers.shape
        plural = "s" if channels > 1 else ""
        return f"{bins} bins of {channels} channel{plural}, sigma={self.sigma:.4g}, neighbors={self.neighbors}"

    def _check(self, method: str, tensor: Tensor, channels: int) -> None:
        if tensor.dim() != 4 or tensor.shape[1] != channels or not tensor.is_floating_point():
            raise ArgumentError(f"{method} takes a floating tensor (B, {channels}, H, W), got {describe(tensor)}")

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._search = None
        return cast(Self, super()._apply(function, recurse))  # type: ignore[no-untyped-call]


class ColorQuantizer(Quantizer):
    """The 313 bins of ab, in Lab units, with which Zhang et al. 2016 made colorization a classification.

    Args:
        sigma: See `Quantizer`.
        neighbors: See `Quantizer`.

    Examples:
        >>> quantizer = ColorQuantizer()
        >>> quantizer.centers[quantizer.nearest_bin(torch.tensor([23.0, -4.0]).view(1, 2, 1, 1))].flatten().tolist()
        [20.0, 0.0]
        >>> quantizer.fit_prior_to_images(torch.rand(4, 3, 8, 8)).rebalancing().shape
        torch.Size([313])
    """

    def __init__(self, *, sigma: float = 5.0, neighbors: int = 10) -> None:
        super().__init__(color_bins(), sigma=sigma, neighbors=neighbors)

    def fit_prior_to_images(self, images: Tensor | ImageSource | Iterable[Any]) -> Self:
        """Measures how often each bin occurs among the colors of images; see `fit_prior`.

        Args:
            images: sRGB `(N, 3, H, W)`, uint8 or in `[0, 1]`; an iterable of such batches; or an image store.

        Returns:
            The quantizer itself.
        """
        ab, device = Channels("lab", "ab"), self.centers.device
        return self.fit_prior(ab.denormalize(ab.extract(batch.to(device))) for batch in _batches(images))


def is_colorful(ab: Tensor, threshold: float = 5.0) -> Tensor:
    """Which images are not gray: `(B, 2, H, W)` in Lab units to bool `(B,)`.

    Zhang et al. 2016 give an image no weight if nowhere in it `|a|` or `|b|` exceeds 5.

    Examples:
        >>> is_colorful(torch.tensor([[4.0, -6.0], [4.0, -4.0]]).view(2, 2, 1, 1)).tolist()
        [True, False]
    """
    if ab.dim() != 4 or ab.shape[1] != 2:
        raise ArgumentError(f"is_colorful takes ab of shape (B, 2, H, W), got {describe(ab)}")
    return (ab.abs() > threshold).flatten(1).any(1)


def _batches(source: Tensor | ImageSource | Iterable[Any]) -> Iterator[Tensor]:
    if isinstance(source, Tensor):
        yield from source.split(BATCH)
    elif isinstance(source, ImageSource):
        for start in range(0, len(source), BATCH):
            yield source.images(range(start, min(start + BATCH, len(source))))
    else:
        for batch in source:
            yield batch[0] if isinstance(batch, tuple | list) else batch


def _forget_search(module: Quantizer, _: Any) -> None:
    module._search = None  # other centers may have been loaded
