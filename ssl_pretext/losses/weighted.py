"""Weighted sums of losses, and how they are written in one line of text."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ssl_pretext.channels import Channels, join
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import Loss, create_loss

__all__ = ["WeightedLosses", "parse_losses"]


class WeightedLosses(nn.Module):
    """A weighted sum of losses on predicted channels.

    Args:
        losses: Weight of each loss, by spec or by `Loss` instance.

    Raises:
        ArgumentError: There is none, or a weight is not positive.
    """

    def __init__(self, losses: Mapping[str | Loss, float] | Mapping[str, float]) -> None:
        super().__init__()
        if not losses:
            raise ArgumentError("losses must name at least one loss, for instance {'smooth_l1': 1.0}")
        for loss, weight in losses.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise ArgumentError(f"the weight of loss {loss!r} must be a positive number, got {weight!r}")
        self.parts = nn.ModuleList(create_loss(loss) for loss in losses)
        self.weights = [float(weight) for weight in losses.values()]

    @property
    def specs(self) -> dict[str, float]:
        """Weights by spec, as `WeightedLosses` takes them; what is written into a checkpoint."""
        specs = [part.spec for part in self.parts]
        if None in specs:
            raise ArgumentError("a loss made by hand cannot be saved; register_loss() it and give its name instead")
        return dict(zip(map(str, specs), self.weights, strict=True))

    def forward(self, prediction: Tensor, target: Tensor, channels: Channels, images: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            prediction: Normalised predicted channels, `(B, n, H, W)`.
            target: Normalised true ones, of the same shape.
            channels: Which channels they are.
            images: The whole images `(B, C, H, W)`, from which an RGB loss takes the channels not predicted.
        """
        rgb = None
        terms: dict[str, Tensor] = {}
        for part, weight in zip(self.parts, self.weights, strict=True):
            if part.domain == "rgb":
                rgb = rgb or (as_signed_rgb(prediction, channels, images), 2 * images - 1)
                value = part(*rgb)
            else:
                value = part(prediction, target)
            name = str(part.spec or type(part).__name__)
            terms[name] = weight * value
        return terms

    def check(self, channels: Channels) -> None:
        """Raises if one of the losses cannot work on these channels."""
        for part in self.parts:
            if part.domain == "rgb" and not channels.space.is_color:
                raise ArgumentError(
                    f"the loss {part.spec} compares RGB images and cannot judge {channels}, which is no colour "
                    "space; choose a loss of the domain 'channels', such as smooth_l1"
                )


def as_signed_rgb(prediction: Tensor, channels: Channels, images: Tensor) -> Tensor:
    """Predicted channels and the true rest as RGB images in `[-1, 1]`, `(B, 3, H, W)`.

    Colours outside the gamut are brought into the range, but their gradients pass as if they had not been:
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
    for item in re.split(r",(?![^\[]*\])", text):
        spec, equals, weight = item.strip().rpartition("=")
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
