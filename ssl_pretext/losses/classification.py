"""Color and other channels as classes: cross-entropy against softly encoded bins (Zhang et al. 2016, 2017)."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import Self, override

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import LogitsLoss, register_loss
from ssl_pretext.quantize import ColorQuantizer, DecodeMethod, Quantizer, is_colorful

__all__ = ["ChannelClassification", "ColorClassification", "SoftCrossEntropy"]

log = logging.getLogger(__name__)

PRIOR_IMAGES = 10_000  # evenly spaced over the store; a prior of more hardly differs
UNIFORM_SHARE = 0.01  # of adaptive bins, so that no two are at one place where values repeat


class SoftCrossEntropy(LogitsLoss):
    """`-v Σ w log softmax(logits)`, a mean over pixels; `w` is the soft encoding, `v` the weight of the nearest bin.

    The encoding is kept as a few bins per pixel: nowhere is there a dense target of `(B, Q, H, W)`.

    Args:
        quantizer: The bins.
        rebalance: Share of the uniform distribution in the prior that rare bins are weighted by, lambda in equation 4
            of Zhang et al. 2016; 1 switches rebalancing off. Until `prepare` has measured a prior nothing is
            rebalanced.
        decode: How logits become values: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Of the annealed mean.
    """

    quantizer: Quantizer
    channels: Channels

    def __init__(self, quantizer: Quantizer, *, rebalance: float, decode: DecodeMethod, temperature: float) -> None:
        super().__init__()
        if not 0 <= rebalance <= 1:
            raise ArgumentError(f"rebalance lies in [0, 1], got {rebalance}; 1 switches rebalancing off")
        self.quantizer, self.rebalance, self.method, self.temperature = quantizer, rebalance, decode, temperature
        self.num_outputs = quantizer.bins
        quantizer.decode(torch.zeros(1, quantizer.bins, 1, 1), decode, temperature)  # refuses what decode would
        self._bin_weights: Tensor | None = None
        self.register_load_state_dict_post_hook(_forget_bin_weights)  # type: ignore[no-untyped-call]

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        known = target.isfinite().all(dim=1)
        values = self._values(torch.where(known[:, None], target, 0.0))
        indices, weights = self.quantizer.encode(values)
        # Never in half precision: hundreds of exponentials are added up.
        precise = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        losses = cast(Tensor, _SparseCrossEntropy.apply(precise, indices, weights.to(precise.dtype)))
        if self.rebalance < 1:
            nearest = indices.gather(1, weights.argmax(dim=1, keepdim=True)).squeeze(1)
            losses = losses * self._weights()[nearest]
        return (losses * known * self._counted(values)).sum() / known.sum().clamp(min=1)

    @override
    def decode(self, logits: Tensor) -> Tensor:
        return self._normalized(self.quantizer.decode(logits.float(), self.method, self.temperature))

    @override
    def prepare(self, images: ImageStore) -> None:
        if self.rebalance < 1:
            self._measure_prior(images)
            self._bin_weights = None

    def _measure_prior(self, images: ImageStore) -> None:
        raise NotImplementedError

    def _weights(self) -> Tensor:
        """The weight of each bin; ones before a prior was measured."""
        if self._bin_weights is None:  # kept, since looking at the prior waits for a GPU
            if (self.quantizer.prior > 0).any():
                self._bin_weights = self.quantizer.rebalancing(self.rebalance)
            else:
                log.warning("%s has no prior yet and does not rebalance; prepare(images) measures it", self.label)
                self._bin_weights = torch.ones_like(self.quantizer.prior)
        return self._bin_weights

    def _counted(self, values: Tensor) -> Tensor | float:
        """Which images count, broadcast over pixels."""
        return 1.0

    def _values(self, normalized: Tensor) -> Tensor:
        """Channel values in the units of the bins."""
        return normalized

    def _normalized(self, values: Tensor) -> Tensor:
        return values

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._bin_weights = None
        return cast(Self, super()._apply(function, recurse))  # type: ignore[no-untyped-call]


class _SparseCrossEntropy(torch.autograd.Function):
    """`-Σ w log softmax(logits)` per pixel: logits `(B, Q, H, W)` and `k` weighted bins `(B, k, H, W)` to `(B, H, W)`.

    With its gradient by hand: autograd would keep the log softmax, and make the gradients of the chosen bins dense
    before it adds them. Here nothing but the gradient itself is as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        sums = torch.cat([piece.logsumexp(dim=1) for piece in _pieces(logits)])
        ctx.save_for_backward(logits, indices, weights, sums)
        return weights.sum(dim=1) * sums - (weights * logits.gather(1, indices)).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        logits, indices, weights, sums = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        weights = weights * slopes[:, None]
        parts = zip(*map(_pieces, (gradient, logits, sums[:, None], weights.sum(dim=1, keepdim=True))), strict=True)
        for piece, scores, total, slope in parts:
            torch.sub(scores, total, out=piece).exp_().mul_(slope)
        return gradient.scatter_add_(1, indices, weights.neg_()), None, None


def _pieces(batch: Tensor) -> tuple[Tensor, ...]:
    """Single images on a CPU, so that what is computed of them stays in its cache; elsewhere all of them at once."""
    return cast("tuple[Tensor, ...]", batch.split(1 if batch.device.type == "cpu" else max(1, len(batch))))


@register_loss("color_classification")
class ColorClassification(SoftCrossEntropy):
    """Zhang 2016: the published 313 bins of ab, softly encoded, rare colors rebalanced; images in gray do not count.

    Args:
        rebalance: See `SoftCrossEntropy`; 0.5 in the paper.
        neighbors: Bins that a color is spread over; 1 is the one-hot target of Zhang et al. 2017.
        sigma: Width of the Gaussian that spreads it, in Lab units.
        decode: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Of the annealed mean.
    """

    def __init__(
        self,
        rebalance: float = 0.5,
        neighbors: int = 10,
        sigma: float = 5.0,
        decode: DecodeMethod = "annealed_mean",
        temperature: float = 0.38,
    ) -> None:
        quantizer = ColorQuantizer(sigma=sigma, neighbors=neighbors)
        super().__init__(quantizer, rebalance=rebalance, decode=decode, temperature=temperature)

    @override
    def bind(self, channels: Channels) -> None:
        if str(channels) != "lab:ab":
            raise ArgumentError(
                f"{self.label} has bins for lab:ab and cannot judge {channels}; use channel_classification for others"
            )
        self.channels = channels

    def _measure_prior(self, images: ImageStore) -> None:
        cast(ColorQuantizer, self.quantizer).fit_prior_to_images(_batches(images))

    def _counted(self, values: Tensor) -> Tensor:
        return cast(Tensor, rearrange(is_colorful(values), "b -> b 1 1"))

    def _values(self, normalized: Tensor) -> Tensor:
        return self.channels.denormalize(normalized)

    def _normalized(self, values: Tensor) -> Tensor:
        return self.channels.normalize(values)


@register_loss("channel_classification")
class ChannelClassification(SoftCrossEntropy):
    """One or two channels of any space as classes: a bin per equal part of the normalized range `[-1, 1]`.

    With 50 bins `lab:L` gets bins of width 2, as in Zhang et al. 2017, section 4.1; two channels get a grid.

    Args:
        bins: Per channel; 50 for one and 23 for two by default.
        adaptive: Place the bins where the values of the training images are, once `prepare` has seen them: about as
            many values in each (per channel).
        rebalance: See `SoftCrossEntropy`; off by default.
        neighbors: Bins that a value is spread over.
        decode: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Of the annealed mean.
    """

    def __init__(
        self,
        bins: int = 0,
        adaptive: bool = False,
        rebalance: float = 1.0,
        neighbors: int = 1,
        decode: DecodeMethod = "annealed_mean",
        temperature: float = 0.38,
    ) -> None:
        if bins < 0:  # 0 stands for the default
            raise ArgumentError(f"channel_classification needs a positive number of bins, got {bins}")
        quantizer = _uniform_quantizer(bins or 50, 1, neighbors)
        super().__init__(quantizer, rebalance=rebalance, decode=decode, temperature=temperature)
        self.bins, self.adaptive = bins, adaptive

    @override
    def bind(self, channels: Channels) -> None:
        if channels.num_channels > 2:
            raise ArgumentError(
                f"{self.label} classifies one or two channels, and {channels} are {channels.num_channels}; choose "
                "fewer, or a loss of the domain 'channels', such as smooth_l1"
            )
        self.channels, self.bins = channels, self.bins or (50 if channels.num_channels == 1 else 23)
        self.quantizer = _uniform_quantizer(self.bins, channels.num_channels, self.quantizer.neighbors)
        self.num_outputs = self.quantizer.bins

    @override
    def prepare(self, images: ImageStore) -> None:
        if self.adaptive:
            values = torch.cat([self._known(batch) for batch in _batches(images, count=1_000)], dim=-1)
            axes = [_equalized(channel, self.bins) for channel in rearrange(values, "1 d 1 n -> d n")]
            centers = torch.cartesian_prod(*axes).reshape(-1, len(axes))
            made = Quantizer(centers, sigma=self.quantizer.sigma, neighbors=self.quantizer.neighbors)
            self.quantizer = made.to(self.quantizer.centers)
        super().prepare(images)

    def _measure_prior(self, images: ImageStore) -> None:
        self.quantizer.fit_prior(self._known(batch) for batch in _batches(images))

    def _known(self, images: Tensor) -> Tensor:
        """The values of the pixels that are not missing, `(1, d, 1, n)`."""
        values = rearrange(self.channels.extract(images), "b d h w -> d (b h w)")
        return cast(Tensor, rearrange(values[:, values.isfinite().all(dim=0)], "d n -> 1 d 1 n"))


def _batches(images: ImageStore, *, count: int = PRIOR_IMAGES) -> Iterator[Tensor]:
    """Some images of a store, evenly spaced."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).long()
    return (images.images(indices) for indices in chosen.split(64))


def _uniform_quantizer(bins: int, channels: int, neighbors: int) -> Quantizer:
    low, high = (-1.0, 1.0) if channels == 1 else ((-1.0, -1.0), (1.0, 1.0))
    return Quantizer.uniform(low, high, bins=bins, neighbors=neighbors)


def _equalized(values: Tensor, count: int) -> Tensor:
    """Ascending centers of `count` bins in `[-1, 1]` that hold about equal shares of the values."""
    known = values[values.isfinite()].clamp(-1, 1).double()
    edges = torch.linspace(-1, 1, 20 * count + 1, dtype=torch.float64)
    shares = torch.histogram(known.cpu(), edges).hist
    shares = (1 - UNIFORM_SHARE) * shares / max(1, len(known)) + UNIFORM_SHARE / len(shares)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), shares.cumsum(0)])
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count * cumulative[-1]
    right = torch.searchsorted(cumulative, wanted).clamp(1, len(edges) - 1)
    within = (wanted - cumulative[right - 1]) / (cumulative[right] - cumulative[right - 1])
    return edges[right - 1] + within * (edges[right] - edges[right - 1])


def _forget_bin_weights(module: nn.Module, _: Any) -> None:
    cast(SoftCrossEntropy, module)._bin_weights = None  # another prior may have been loaded
