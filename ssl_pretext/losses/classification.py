"""Losses that classify colors or channel values: cross-entropy with soft-encoded bins (Zhang et al. 2016, 2017)."""

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
from ssl_pretext.spacing import evenly_spaced

__all__ = ["ChannelClassification", "ColorClassification", "SoftCrossEntropy"]

log = logging.getLogger(__name__)

PRIOR_IMAGES = 10_000  # number of evenly spaced images that a prior is measured on; more hardly change it
# Weight of the uniform distribution in the histogram that adaptive bins are placed by. Without it, values that occur
# often would put several bins at the same position.
UNIFORM_FRACTION = 0.01


class SoftCrossEntropy(LogitsLoss):
    """Cross-entropy with soft targets, `-v Σ w log softmax(logits)`, averaged over pixels.

    `w` is the soft encoding of a pixel's value, and `v` the rebalancing weight of its nearest bin. The encoding is
    stored as a few bins per pixel, so a dense target of shape `(B, Q, H, W)` is never created.

    Args:
        quantizer: The bins.
        rebalance: λ in equation 4 of Zhang et al. 2016: the weight of the uniform distribution in the mixture whose
            inverse weights the bins. 0 makes rare bins count most, and 1 switches rebalancing off. Nothing is
            rebalanced before `prepare` has measured a prior.
        decode: Method that decodes logits to values: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Temperature of the annealed mean.

    Raises:
        ArgumentError: `rebalance`, `decode` or `temperature` is out of range.
    """

    quantizer: Quantizer
    channels: Channels

    def __init__(self, quantizer: Quantizer, *, rebalance: float, decode: DecodeMethod, temperature: float) -> None:
        super().__init__()
        if not 0 <= rebalance <= 1:
            raise ArgumentError(f"rebalance must lie in [0, 1], got {rebalance}; 1 switches rebalancing off")
        self.quantizer, self.rebalance, self.method, self.temperature = quantizer, rebalance, decode, temperature
        self.num_outputs = quantizer.bins
        quantizer.decode(torch.zeros(1, quantizer.bins, 1, 1), decode, temperature)  # raises now if decoding would
        self._bin_weights: Tensor | None = None
        self.register_load_state_dict_post_hook(_reset_bin_weights)  # type: ignore[no-untyped-call]

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        known = target.isfinite().all(dim=1)
        values = self._values(torch.where(known[:, None], target, 0.0))
        indices, weights = self.quantizer.encode(values)
        # Half precision is too coarse for a sum of hundreds of exponentials.
        precise = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        losses = cast(Tensor, _SparseCrossEntropy.apply(precise, indices, weights.to(precise.dtype)))
        if self.rebalance < 1:
            nearest = indices.gather(1, weights.argmax(dim=1, keepdim=True)).squeeze(1)
            losses = losses * self._weights()[nearest]
        return (losses * known * self._image_weights(values)).sum() / known.sum().clamp(min=1)

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
        """Returns the weight of each bin: ones until a prior has been measured."""
        if self._bin_weights is None:  # cached, because reading the prior waits for the GPU
            if (self.quantizer.prior > 0).any():
                self._bin_weights = self.quantizer.rebalancing(self.rebalance)
            else:
                log.warning(
                    "the loss %s has no prior yet and does not rebalance; call prepare(images) to measure it",
                    self.label,
                )
                self._bin_weights = torch.ones_like(self.quantizer.prior)
        return self._bin_weights

    def _image_weights(self, values: Tensor) -> Tensor | float:
        """Returns the weight of each image, broadcast over its pixels."""
        return 1.0

    def _values(self, normalized: Tensor) -> Tensor:
        """Converts normalized channel values to the units of the bins."""
        return normalized

    def _normalized(self, values: Tensor) -> Tensor:
        """Converts values in the units of the bins to normalized channel values."""
        return values

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._bin_weights = None
        return cast(Self, super()._apply(function, recurse))  # type: ignore[no-untyped-call]


class _SparseCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each pixel, `-Σ w log softmax(logits)`, with targets of `k` weighted bins.

    Takes logits `(B, Q, H, W)`, and the indices and weights of the bins `(B, k, H, W)`; returns `(B, H, W)`.

    The backward pass is written out. Autograd would store the log softmax, and would create a dense gradient for the
    chosen bins before adding it. Here only the gradient itself is as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        sums = torch.cat([piece.logsumexp(dim=1) for piece in _pieces(logits)])
        ctx.save_for_backward(logits, indices, weights, sums)
        return weights.sum(dim=1) * sums - (weights * logits.gather(1, indices)).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        logits, indices, weights, sums = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        weights = weights * grad_output[:, None]
        parts = zip(*map(_pieces, (gradient, logits, sums[:, None], weights.sum(dim=1, keepdim=True))), strict=True)
        for piece, scores, log_sum, factor in parts:
            torch.sub(scores, log_sum, out=piece).exp_().mul_(factor)
        return gradient.scatter_add_(1, indices, weights.neg_()), None, None


def _pieces(batch: Tensor) -> tuple[Tensor, ...]:
    """Splits a batch into single images on a CPU, whose cache holds one of them; elsewhere returns it as one piece."""
    return cast("tuple[Tensor, ...]", batch.split(1 if batch.device.type == "cpu" else max(1, len(batch))))


@register_loss("color_classification")
class ColorClassification(SoftCrossEntropy):
    """Classification of ab into the 313 published bins, with soft targets and rebalancing (Zhang et al. 2016).

    Gray images do not contribute to the loss.

    Args:
        rebalance: λ of the rebalancing of rare colors (equation 4): 0 makes them count most, and 1 switches it off. The
            paper uses 0.5.
        neighbors: Number of nearest bins that form the target of a color; 1 gives the one-hot target of Zhang et al.
            2017.
        sigma: Standard deviation, in Lab units, of the Gaussian that weights these bins.
        decode: Method that decodes logits to colors: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Temperature of the annealed mean.
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
                f"the loss {self.label} has bins for lab:ab and cannot be computed on {channels}; use "
                "channel_classification for other channels"
            )
        self.channels = channels

    def _measure_prior(self, images: ImageStore) -> None:
        cast(ColorQuantizer, self.quantizer).fit_prior_to_images(_batches(images))

    def _image_weights(self, values: Tensor) -> Tensor:
        return cast(Tensor, rearrange(is_colorful(values), "b -> b 1 1"))

    def _values(self, normalized: Tensor) -> Tensor:
        return self.channels.denormalize(normalized)

    def _normalized(self, values: Tensor) -> Tensor:
        return self.channels.normalize(values)


@register_loss("channel_classification")
class ChannelClassification(SoftCrossEntropy):
    """Classification of one or two channels of any space, with equally wide bins over the normalized range `[-1, 1]`.

    With 50 bins, `lab:L` gets bins of width 2, as in Zhang et al. 2017, section 4.1. Two channels get a grid of bins.

    Args:
        bins: Number of bins per channel; 0 stands for 50 bins of one channel, or 23 bins for each of two.
        adaptive: Whether `prepare` places the bins by the training images, so that each bin of a channel contains about
            the same number of values.
        rebalance: λ of the rebalancing of rare bins (Zhang et al. 2016, equation 4): 0 makes them count most, and 1,
            the default, switches it off.
        neighbors: Number of nearest bins that form the target of a value; 1 gives a one-hot target.
        decode: Method that decodes logits to values: `"annealed_mean"`, `"mean"` or `"mode"`.
        temperature: Temperature of the annealed mean.
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
            raise ArgumentError(
                f"channel_classification needs a positive number of bins, or 0 for the default, got {bins}"
            )
        quantizer = _uniform_quantizer(bins or 50, 1, neighbors)
        super().__init__(quantizer, rebalance=rebalance, decode=decode, temperature=temperature)
        self.bins, self.adaptive = bins, adaptive

    @override
    def bind(self, channels: Channels) -> None:
        if channels.num_channels > 2:
            raise ArgumentError(
                f"the loss {self.label} classifies one or two channels, but {channels} has {channels.num_channels}; "
                "choose fewer channels, or a loss of the domain 'channels', such as smooth_l1"
            )
        self.channels, self.bins = channels, self.bins or (50 if channels.num_channels == 1 else 23)
        self.quantizer = _uniform_quantizer(self.bins, channels.num_channels, self.quantizer.neighbors)
        self.num_outputs = self.quantizer.bins

    @override
    def prepare(self, images: ImageStore) -> None:
        if self.adaptive:
            values = torch.cat([self._known(batch) for batch in _batches(images, count=1_000)], dim=-1)
            axes = [_equalized_centers(channel, self.bins) for channel in rearrange(values, "1 d 1 n -> d n")]
            centers = torch.cartesian_prod(*axes).reshape(-1, len(axes))
            adapted = Quantizer(centers, sigma=self.quantizer.sigma, neighbors=self.quantizer.neighbors)
            self.quantizer = adapted.to(self.quantizer.centers)
        super().prepare(images)

    def _measure_prior(self, images: ImageStore) -> None:
        self.quantizer.fit_prior(self._known(batch) for batch in _batches(images))

    def _known(self, images: Tensor) -> Tensor:
        """Returns the values of the pixels that are not missing, `(1, d, 1, n)`."""
        values = rearrange(self.channels.extract(images), "b d h w -> d (b h w)")
        return cast(Tensor, rearrange(values[:, values.isfinite().all(dim=0)], "d n -> 1 d 1 n"))


def _batches(images: ImageStore, *, count: int = PRIOR_IMAGES) -> Iterator[Tensor]:
    """Yields `count` evenly spaced images of a store, in batches."""
    chosen = evenly_spaced(len(images), count)
    return (images.images(indices) for indices in chosen.split(64))


def _uniform_quantizer(bins: int, channels: int, neighbors: int) -> Quantizer:
    low, high = (-1.0, 1.0) if channels == 1 else ((-1.0, -1.0), (1.0, 1.0))
    return Quantizer.uniform(low, high, bins=bins, neighbors=neighbors)


def _equalized_centers(values: Tensor, count: int) -> Tensor:
    """Returns ascending centers of `count` bins in `[-1, 1]` that each contain about the same number of values."""
    known = values[values.isfinite()].clamp(-1, 1).double()
    edges = torch.linspace(-1, 1, 20 * count + 1, dtype=torch.float64)
    counts = torch.histogram(known.cpu(), edges).hist
    fractions = (1 - UNIFORM_FRACTION) * counts / max(1, len(known)) + UNIFORM_FRACTION / len(counts)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), fractions.cumsum(0)])
    wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count * cumulative[-1]
    right = torch.searchsorted(cumulative, wanted).clamp(1, len(edges) - 1)
    within = (wanted - cumulative[right - 1]) / (cumulative[right] - cumulative[right - 1])
    return edges[right - 1] + within * (edges[right] - edges[right - 1])


def _reset_bin_weights(module: nn.Module, _: Any) -> None:
    cast(SoftCrossEntropy, module)._bin_weights = None  # the loaded state may contain another prior
