"""Weighted sums of losses, and the parser of their notation on the command line."""

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

Losses = str | Mapping[str | Loss, float] | Mapping[str, float]


class WeightedLosses(nn.Module):
    """A weighted sum of losses on predicted channels.

    Args:
        losses: Weight of each loss. The keys are specs or `Loss` instances. A string is parsed by `parse_losses`.
        channels: The channels that the losses are computed on.

    Raises:
        ArgumentError: `losses` is empty or not a mapping, two losses have the same name, a weight is not positive, two
            losses need logits, or a loss cannot be computed on the channels.
    """

    def __init__(self, losses: Losses, channels: Channels) -> None:
        super().__init__()
        if isinstance(losses, str):
            losses = parse_losses(losses)
        check_weights("loss", "{'smooth_l1': 1.0}", losses)
        if not losses:
            raise ArgumentError("losses is empty, but needs at least one loss, such as {'smooth_l1': 1.0}")
        self.parts = nn.ModuleList(create_loss(loss) for loss in losses)
        if twice := duplicates(part.label for part in self._losses):
            raise ArgumentError(
                f"two losses have the name {twice[0]!r}, so the term of one would be lost; give each loss once, and "
                "register losses of your own under different names with register_loss()"
            )
        self.weights = [float(weight) for weight in losses.values()]
        self.channels = channels
        for part in self._losses:
            part.bind(channels)
        if len(on_logits := [part.label for part in self._losses if isinstance(part, LogitsLoss)]) > 1:
            raise ArgumentError(
                f"a network can predict the logits of only one loss, got {' and '.join(on_logits)}; choose one of them"
            )

    @property
    def _losses(self) -> list[Loss]:
        return [cast(Loss, part) for part in self.parts]

    @property
    def logits(self) -> LogitsLoss | None:
        """The loss that is computed on logits, or None."""
        return next((part for part in self._losses if isinstance(part, LogitsLoss)), None)

    @property
    def specs(self) -> dict[str, float]:
        """The weight of each loss by its spec, as `WeightedLosses` takes them and checkpoints store them.

        Raises:
            ArgumentError: A loss was constructed directly and therefore has no spec.
        """
        for part in self._losses:
            if part.spec is None:
                raise ArgumentError(
                    f"the loss {part.label} was constructed directly and cannot be saved; register its class with "
                    "register_loss() and give its name instead"
                )
        return {str(part.spec): weight for part, weight in zip(self._losses, self.weights, strict=True)}

    def forward(
        self, prediction: Tensor, target: Tensor, images: Tensor, output: Tensor, *, where: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the weighted terms by name; their sum is the loss.

        Args:
            prediction: Predicted channels, normalized, `(B, n, H, W)`.
            target: True channels, normalized, of the same shape. Missing values are NaN, and no loss counts them.
            images: The images `(B, C, H, W)`. Losses on RGB take the channels that are not predicted from them.
            output: Output of the network: the logits if one of the losses needs them.
            where: Mask `(B, 1, H, W)` of the pixels on which the losses are computed; by default all pixels. Losses on
                RGB get the true values of the other pixels.

        Returns:
            The weighted term of each loss, by the label of the loss.

        Raises:
            ArgumentError: A loss returned a tensor that is not a scalar.
        """
        rgb: tuple[Tensor, Tensor] | None = None
        terms: dict[str, Tensor] = {}
        completed = prediction
        if where is not None:
            completed = torch.where(where, prediction, target)
            target = torch.where(where, target, math.nan)  # pixels outside of the mask are treated as missing
        # Color images have no missing values.
        complete = where is None and self.channels.space.is_color
        compared = _Compared(prediction, target) if complete else _without_missing(prediction, target)
        for part, weight in zip(self._losses, self.weights, strict=True):
            if part.domain == "logits":
                # As in the paper, the target is sampled at the resolution of the logits, not averaged.
                value = part(output, F.interpolate(target, output.shape[-2:], mode="nearest"))
            elif part.domain == "rgb":
                rgb = rgb or (as_signed_rgb(completed, self.channels, images), 2 * images - 1)
                value = part(*rgb)
            else:
                value = part(compared.prediction, compared.target) * compared.factor
            if value.dim():
                raise ArgumentError(
                    f"the loss {part.label!r} returned a tensor of shape {tuple(value.shape)}, but must return a "
                    "scalar; average the tensor"
                )
            terms[part.label] = weight * value
        return terms

    def prepare(self, images: ImageStore) -> None:
        """Lets each loss measure what it needs from the training images."""
        for part in self._losses:
            part.prepare(images)


class _Compared(NamedTuple):
    prediction: Tensor
    target: Tensor
    factor: Tensor | float = 1.0


def _without_missing(prediction: Tensor, target: Tensor) -> _Compared:
    """Sets both sides to zero where the target is missing; `factor` turns a mean over all into one over the rest."""
    known = target.isfinite()
    factor = known.numel() / known.sum().clamp(min=1)
    return _Compared(torch.where(known, prediction, 0.0), torch.where(known, target, 0.0), factor)


def as_signed_rgb(prediction: Tensor, channels: Channels, images: Tensor) -> Tensor:
    """Joins predicted channels and the true other channels to RGB images in `[-1, 1]`, `(B, 3, H, W)`.

    Colors outside of the gamut are clamped, but gradients pass through as if they were not. Plain clamping would have a
    gradient of zero there, so a prediction far outside of the gamut would never move back.
    """
    others = channels.complement()
    rgb = join({channels: prediction, others: others.select(others.space.extract(images))})
    return 2 * (rgb + (rgb.clamp(0, 1) - rgb).detach()) - 1


def parse_losses(text: str) -> dict[str, float]:
    """Parses losses in the notation of the command line, `name=weight,...`; a name alone has the weight 1.

    Args:
        text: The specs of the losses with their weights, separated by commas.

    Returns:
        The weight of each loss, by its spec.

    Raises:
        ArgumentError: The text does not follow this notation, or a loss is named twice.

    Examples:
        >>> parse_losses("smooth_l1=1,lpips[net=squeeze]=0.5")
        {'smooth_l1': 1.0, 'lpips[net=squeeze]': 0.5}
        >>> parse_losses("smooth_l1")
        {'smooth_l1': 1.0}
    """
    losses: dict[str, float] = {}
    for item in split_specs(text):
        has_weight = "=" in item and not item.endswith("]")
        spec, _, weight = item.rpartition("=") if has_weight else (item, "", "1")
        try:
            number = float(weight)
        except ValueError:
            spec = ""
        if not spec:
            raise ArgumentError(f"losses are written 'smooth_l1=1,lpips[net=squeeze]=1', got {item!r} in {text!r}")
        if spec in losses:
            raise ArgumentError(f"the loss {spec!r} is named twice in {text!r}; name it once")
        losses[spec] = number
    return losses
