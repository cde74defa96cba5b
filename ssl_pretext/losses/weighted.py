"""Weighted sums of losses, and how they are written in one line of text."""

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_pretext.channels import Channels, join
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import LogitsLoss, Loss, create_loss
from ssl_pretext.registry import check_weights, duplicates, split_specs

__all__ = ["Losses", "WeightedLosses", "as_signed_rgb", "parse_losses"]

Losses = Mapping[str | Loss, float] | Mapping[str, float]


class WeightedLosses(nn.Module):
    """A weighted sum of losses on predicted channels.

    Args:
        losses: Weight of each loss, by spec or by `Loss` instance.
        channels: Which channels they judge.

    Raises:
        ArgumentError: They are no mapping or there is none, two are the same, a weight is not positive, two want
            logits, or one cannot judge the channels.
    """

    def __init__(self, losses: Losses, channels: Channels) -> None:
        super().__init__()
        check_weights("loss", "{'smooth_l1': 1.0}", losses)
        if not losses:
            raise ArgumentError("losses must name at least one loss, for instance {'smooth_l1': 1.0}")
        self.parts = nn.ModuleList(create_loss(loss) for loss in losses)
        if twice := duplicates(part.label for part in self._losses):
            raise ArgumentError(
                f"two losses are called {twice[0]!r}, of which one term would be lost; name each once, and your own by "
                "register_loss()"
            )
        self.weights = [float(weight) for weight in losses.values()]
        self.channels = channels
        for part in self._losses:
            part.bind(channels)
        if len(wanting := [part.label for part in self._losses if isinstance(part, LogitsLoss)]) > 1:
            raise ArgumentError(f"a network gives the logits of one loss only, not of {' and '.join(wanting)}")

    @property
    def _losses(self) -> list[Loss]:
        return [cast(Loss, part) for part in self.parts]

    @property
    def logits(self) -> LogitsLoss | None:
        """The loss that wants logits, if there is one."""
        return next((part for part in self._losses if isinstance(part, LogitsLoss)), None)

    @property
    def specs(self) -> dict[str, float]:
        """Weights by spec, as `WeightedLosses` takes them; what is written into a checkpoint."""
        specs = [part.spec for part in self.parts]
        if None in specs:
            raise ArgumentError("a loss made by hand cannot be saved; register_loss() it and give its name instead")
        return dict(zip(map(str, specs), self.weights, strict=True))

    def forward(
        self, prediction: Tensor, target: Tensor, images: Tensor, output: Tensor, *, where: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            prediction: Normalized predicted channels, `(B, n, H, W)`.
            target: Normalized true ones, of the same shape; NaN where they are missing, which no loss counts.
            images: The whole images `(B, C, H, W)`, from which an RGB loss takes the channels not predicted.
            output: What the network gave: the logits if one of the losses wants them.
            where: Pixels that are judged, true in `(B, 1, H, W)`; all of them if left out. An RGB loss sees the true
                values in the others.
        """
        rgb: tuple[Tensor, Tensor] | None = None
        terms: dict[str, Tensor] = {}
        completed = prediction
        if where is not None:
            completed = torch.where(where, prediction, target)
            target = torch.where(where, target, math.nan)  # what is not judged is like what is not known
        # sRGB has no missing values.
        whole = where is None and self.channels.space.is_color
        judged = _Judged(prediction, target) if whole else _without_missing(prediction, target)
        for part, weight in zip(self._losses, self.weights, strict=True):
            if part.domain == "logits":
                # As in the paper, the target is sampled at the resolution of the logits, not averaged.
                value = part(output, F.interpolate(target, output.shape[-2:], mode="nearest"))
            elif part.domain == "rgb":
                rgb = rgb or (as_signed_rgb(completed, self.channels, images), 2 * images - 1)
                value = part(*rgb)
            else:
                value = part(judged.prediction, judged.target) * judged.factor
            if value.dim():
                raise ArgumentError(
                    f"loss {part.label!r} gave a tensor {tuple(value.shape)}, not one number; average it"
                )
            terms[part.label] = weight * value
        return terms

    def prepare(self, images: ImageStore) -> None:
        """Lets each loss measure what it needs of the training images."""
        for part in self._losses:
            part.prepare(images)


class _Judged(NamedTuple):
    prediction: Tensor
    target: Tensor
    factor: Tensor | float = 1.0


def _without_missing(prediction: Tensor, target: Tensor) -> _Judged:
    """Zeros on both sides where the target is missing, and the factor that makes of a mean one over the rest."""
    known = target.isfinite()
    factor = known.numel() / known.sum().clamp(min=1)
    return _Judged(torch.where(known, prediction, 0.0), torch.where(known, target, 0.0), factor)


def as_signed_rgb(prediction: Tensor, channels: Channels, images: Tensor) -> Tensor:
    """Predicted channels and the true rest as RGB images in `[-1, 1]`, `(B, 3, H, W)`.

    Colors outside the gamut are brought into the range, but their gradients pass as if they had not been:
    clamping alone would give exactly zero there and leave a wild prediction where it is.
    """
    others = channels.complement()
    rgb = join({channels: prediction, others: others.select(others.space.extract(images))})
    return 2 * (rgb + (rgb.clamp(0, 1) - rgb).detach()) - 1


def parse_losses(text: str) -> dict[str, float]:
    """Reads losses as the command lines write them.

    Raises:
        ArgumentError: The text is not `name=weight,...`, or a loss is named twice.

    Examples:
        >>> parse_losses("smooth_l1=1,lpips[net=squeeze]=0.5")
        {'smooth_l1': 1.0, 'lpips[net=squeeze]': 0.5}
    """
    losses: dict[str, float] = {}
    for item in split_specs(text):
        spec, equals, weight = item.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            equals = ""
        if not equals or not spec:
            raise ArgumentError(f"losses are written 'smooth_l1=1,lpips[net=squeeze]=1', got {item!r} in {text!r}")
        if spec in losses:
            raise ArgumentError(f"the loss {spec!r} is named twice in {text!r}")
        losses[spec] = number
    return losses
