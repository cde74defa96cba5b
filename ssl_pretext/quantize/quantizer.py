"""Quantizers of channel values: soft encoding into bins, priors, rebalancing weights, and decoding to values.

Zhang et al. 2016 (section 2) call these `Z`, `p̃`, `w` and the annealed mean. A soft target has `k` bins per pixel and
is stored as their indices and weights: a dense target of 313 bins would take 63 MB for 16 images of 56×56 pixels.
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

# Default number of neighbors by the number of channels. The released code uses 10; the 5 in the paper is a misprint.
NEIGHBORS = {1: 5, 2: 10}
BATCH = 64  # number of images that are read from a store or tensor at a time


@runtime_checkable
class ImageSource(Protocol):
    """The part of the interface of an image store that this module uses."""

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int]) -> Tensor: ...


class Quantizer(nn.Module):
    """Bins for the values of one or two channels.

    Values and bins have the same units. `fit_prior` measures from such values how often each bin occurs. It takes
    images only if their channels are these values; `ColorQuantizer.fit_prior_to_images` takes RGB images.

    Attributes:
        centers: Centers of the bins, `(Q, D)`, in the units of the values.
        prior: Frequency of each bin, `(Q,)`; zeros until `fit_prior` is called. The state dict contains `centers` and
            `prior`.
        sigma: Standard deviation of the Gaussian that weights the nearest bins of a value.
        neighbors: Number of nearest bins that a value is encoded into.

    Args:
        centers: Centers `(Q, D)` with `D` of 1 or 2; those of one channel in ascending order.
        sigma: Standard deviation, in the units of the values, of the Gaussian that weights the nearest bins of a value.
        neighbors: Number of nearest bins that a value is encoded into; 1 gives a hard (one-hot) encoding. By default 5
            for one channel and 10 for two.

    Raises:
        ArgumentError: The centers have another shape or are not distinct, or an option is out of range.

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
            raise ArgumentError(f"a quantizer needs a positive sigma, got {sigma}; use neighbors=1 for a hard encoding")
        if not 1 <= neighbors <= bins:
            raise ArgumentError(f"neighbors must lie between 1 and the number of bins, {bins}; got {neighbors}")
        self.sigma, self.neighbors = float(sigma), neighbors
        self.register_buffer("centers", centers)
        self.register_buffer("prior", torch.zeros(bins, device=centers.device))
        self._search: NearestCenters | None = None  # created on first use, on the device of the centers
        self.register_load_state_dict_post_hook(_reset_search)  # type: ignore[no-untyped-call]

    @staticmethod
    def uniform(
        low: float | Sequence[float],
        high: float | Sequence[float],
        *,
        bins: int | Sequence[int],
        sigma: float | None = None,
        neighbors: int | None = None,
    ) -> "Quantizer":
        """Creates a quantizer with bins of equal width; those of two channels form a grid.

        Args:
            low: Lower edge of the first bin; two numbers for two channels.
            high: Upper edge of the last bin; for two channels, one number for each or one for both.
            bins: Number of bins; for two channels, one number for each or one for both.
            sigma: Standard deviation of the Gaussian; by default half the mean width of a bin, as for the published
                color bins.
            neighbors: Number of nearest bins that a value is encoded into; by default 5 for one channel and 10 for two.

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
        """Creates a quantizer with bins fitted to data.

        The bins of one channel are placed at quantiles, so that each contains about the same number of values. The bins
        of two channels are the cells of a grid over the range of the values, without the cells that contain no value.
        There can be fewer bins than requested.

        Args:
            values: Values to fit the bins to, `(B, D, H, W)` with `D` of 1 or 2.
            bins: Number of bins; for two channels, one number for each or one for both.
            sigma: Standard deviation of the Gaussian; by default half the mean distance of neighboring bins.
            neighbors: Number of nearest bins that a value is encoded into; by default 5 for one channel and 10 for two.

        Raises:
            ArgumentError: The shape or dtype of the values is wrong, or the values are not finite, empty, or all the
                same in a channel.

        Examples:
            >>> Quantizer.fit(torch.rand(8, 1, 16, 16) ** 2, bins=32)
            Quantizer(32 bins of 1 channel, sigma=..., neighbors=5)
        """
        centers, width = fitted_bins(values, bins)
        return Quantizer(centers, sigma=width / 2 if sigma is None else sigma, neighbors=neighbors)

    @property
    def bins(self) -> int:
        """Number of bins, `Q`."""
        return len(self.centers)

    @torch.no_grad()
    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes each value as its nearest bins, with weights `∝ exp(-d² / (2 sigma²))` that sum to 1.

        Args:
            values: Values `(B, D, H, W)` in the units of the centers. Values at any distance from the bins get finite
                weights; NaN gets NaN.

        Returns:
            Indices (int64) and weights (in the dtype of the values), `(B, neighbors, H, W)` each. The bins of a pixel
            are in no particular order.

        Raises:
            ArgumentError: The shape or dtype of the values is wrong.
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
            # Distances are relative to the nearest bin; otherwise all weights of a far value would underflow to 0.
            excess = (squares - squares.amin(0)).to(torch.promote_types(values.dtype, torch.float32))
            weight = excess.div_(-2 * self.sigma**2).exp_()
            weights[:, piece] = weight.div_(weight.sum(0))
        shape = (values.shape[0], *values.shape[2:])
        indices, weights = (x.unflatten(1, shape).movedim(0, 1) for x in (indices, weights))
        return indices, weights

    def nearest_bin(self, values: Tensor) -> Tensor:
        """Returns the index of the nearest bin of each value: `(B, D, H, W)` to int64 `(B, H, W)`."""
        indices, weights = self.encode(values)
        return indices.gather(1, weights.argmax(1, keepdim=True)).squeeze(1)

    def decode(self, logits: Tensor, method: DecodeMethod = "annealed_mean", temperature: float = 0.38) -> Tensor:
        """Decodes logits to values.

        Args:
            logits: Predicted logits `(B, Q, H, W)`.
            method: `"mean"` is the mean of the predicted distribution, `"mode"` its most likely bin, and
                `"annealed_mean"` the mean of `softmax(logits / temperature)`, which lies between the two (Zhang et al.
                2016, section 2.3).
            temperature: Temperature of the annealed mean: 1 gives the mean, and the limit at 0 is the mode.

        Returns:
            Values `(B, D, H, W)` in the units of the centers. They are differentiable unless the method is `"mode"`.

        Raises:
            ArgumentError: The shape or dtype of the logits is wrong, or the method or temperature is invalid.

        Examples:
            >>> quantizer = Quantizer.uniform(0, 4, bins=2)  # centers 1 and 3
            >>> logits = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
            >>> [round(quantizer.decode(logits, how).item(), 2) for how in ("mean", "annealed_mean", "mode")]
            [2.46, 2.87, 3.0]
        """
        self._check("decode", logits, self.bins)
        if method not in get_args(DecodeMethod):
            raise ArgumentError(f"decode needs one of the methods {', '.join(get_args(DecodeMethod))}, got {method!r}")
        if not 0 < temperature < float("inf"):
            raise ArgumentError(
                f"decode needs a positive temperature, got {temperature}; the method 'mode' is the limit at 0"
            )
        centers = self.centers.to(logits)
        if method == "mode":
            return centers[logits.argmax(1)].movedim(-1, 1)
        if method == "annealed_mean":
            # The largest logit is subtracted first, so that a small temperature does not divide it to infinity.
            logits = (logits - logits.detach().amax(1, keepdim=True)) / temperature
        with torch.autocast(logits.device.type, enabled=False):  # autocast would round by up to half a unit of ab
            return torch.einsum("bqhw,qd->bdhw", logits.softmax(1), centers)

    def fit_prior(self, values: Tensor | ImageSource | Iterable[Any]) -> Self:
        """Measures how often each bin occurs, as the mean of the soft targets, which is the smoothing of the paper.

        Args:
            values: Values `(N, D, H, W)` in the units of the centers; or an iterable of such batches, of which a tuple
                or list (as from a `DataLoader`) has them as its first item; or an image store whose images are the
                values. They are read one batch at a time.

        Returns:
            The quantizer itself.

        Raises:
            ArgumentError: There are no values, some of them are NaN, or their shape or dtype is wrong.
        """
        total = torch.zeros(self.bins, dtype=torch.float64)
        for batch in _batches(values):
            indices, weights = self.encode(batch.to(self.centers.device))
            total += torch.bincount(indices.flatten().cpu(), weights.flatten().cpu().double(), self.bins)
        if not (total.sum() > 0 and total.isfinite().all()):
            raise ArgumentError("fit_prior needs at least one value, and none of the values may be NaN")
        self.prior.copy_(total / total.sum())
        return self

    def rebalancing(self, lam: float = 0.5) -> Tensor:
        """Returns the weights of the bins that rebalance a loss, larger for rare bins.

        They follow equation 4 of Zhang et al. 2016, `w ∝ 1 / ((1 - λ) p + λ u)`, scaled so that `Σ p w = 1`. Here `p`
        is the prior, `u` is the uniform distribution over the bins that occur, and λ mixes the two. At λ = 0 all bins
        that occur have the same total weight `p w`; at λ = 1 every weight is 1. A bin that does not occur gets the
        weight of the rarest bin that does.

        Args:
            lam: λ of the paper, which uses 0.5; a number in `[0, 1]`.

        Returns:
            Weights `(Q,)`, positive and finite.

        Raises:
            ArgumentError: No prior has been fitted, or `lam` lies outside of `[0, 1]`.
        """
        if not 0 <= lam <= 1:
            raise ArgumentError(f"rebalancing needs lam in [0, 1], got {lam}")
        occurs = self.prior >= torch.finfo(self.prior.dtype).tiny  # the inverse of a smaller number is infinite
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
            raise ArgumentError(
                f"{method} needs a floating-point tensor of shape (B, {channels}, H, W), got {describe(tensor)}"
            )

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._search = None
        return cast(Self, super()._apply(function, recurse))  # type: ignore[no-untyped-call]


class ColorQuantizer(Quantizer):
    """The 313 bins of ab, in Lab units, by which Zhang et al. 2016 treat colorization as classification.

    Two methods measure the prior. `fit_prior`, inherited from `Quantizer`, takes values of ab in Lab units.
    `fit_prior_to_images` takes sRGB images and converts them to ab.

    Args:
        sigma: Standard deviation, in Lab units, of the Gaussian that weights the nearest bins of a color.
        neighbors: Number of nearest bins that a color is encoded into; 1 gives a hard (one-hot) encoding.

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
        """Measures how often each bin occurs among the colors of sRGB images; for values of ab use `fit_prior`.

        Args:
            images: sRGB images `(N, 3, H, W)`, uint8 or floating-point in `[0, 1]`; or an iterable of such batches, of
                which a tuple or list (as from a `DataLoader`) has them as its first item; or an image store. They are
                read one batch at a time.

        Returns:
            The quantizer itself.

        Raises:
            ArgumentError: There are no images, or they are not sRGB images of this shape and range.
        """
        ab, device = Channels("lab", "ab"), self.centers.device
        return self.fit_prior(ab.denormalize(ab.extract(batch.to(device))) for batch in _batches(images))


def is_colorful(ab: Tensor, threshold: float = 5.0) -> Tensor:
    """Returns which images are not gray, as bool `(B,)`.

    An image is gray if neither `|a|` nor `|b|` exceeds the threshold at any pixel. Zhang et al. 2016 give such images
    no weight, with a threshold of 5.

    Args:
        ab: Channels a and b of the images in Lab units, `(B, 2, H, W)`.
        threshold: Largest `|a|` or `|b|` of a gray image.

    Raises:
        ArgumentError: The shape of `ab` is wrong.

    Examples:
        >>> is_colorful(torch.tensor([[4.0, -6.0], [4.0, -4.0]]).view(2, 2, 1, 1)).tolist()
        [True, False]
    """
    if ab.dim() != 4 or ab.shape[1] != 2:
        raise ArgumentError(f"is_colorful needs ab of shape (B, 2, H, W), got {describe(ab)}")
    return (ab.abs() > threshold).flatten(1).any(1)


def _batches(source: Tensor | ImageSource | Iterable[Any]) -> Iterator[Tensor]:
    """Yields the batches of a tensor, an image store, or an iterable of batches or of tuples that start with one."""
    if isinstance(source, Tensor):
        yield from source.split(BATCH)
    elif isinstance(source, ImageSource):
        for start in range(0, len(source), BATCH):
            yield source.images(range(start, min(start + BATCH, len(source))))
    else:
        for batch in source:
            yield batch[0] if isinstance(batch, tuple | list) else batch


def _reset_search(module: Quantizer, _: Any) -> None:
    module._search = None  # the loaded state may contain other centers
