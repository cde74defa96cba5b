"""Inpainting (Pathak et al. 2016, context encoders): what is behind the mask?"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses import Losses
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.cross_channel import CrossChannelPrediction
from ssl_pretext.tasks.masks import central_mask, random_blocks

__all__ = ["Inpainting"]

MASKS: dict[str, Callable[[Tensor, float], Tensor]] = {"blocks": random_blocks, "center": central_mask}


@register_task("inpainting")
class Inpainting(CrossChannelPrediction):
    """Fills in a hidden part of an image from what surrounds it (Pathak et al. 2016, section 3).

    The losses judge the hidden part alone: `‖M ⊙ (x - F((1 - M) ⊙ x))‖²`, with `M` one where hidden, for `l2`; here
    as the mean over those pixels. They are shown as zero, the center of the range. The paper adds an adversarial loss
    of little weight, as `losses={"l2": 1.0, "adversarial": 0.001}`; ours sees the completed image.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What is seen and filled in, such as `"rgb"`, or bands of any number.
        mask: `"blocks"`: blocks of a quarter of each side at random places, which may overlap; `"center"`: one
            rectangle in the middle.
        mask_ratio: Fraction of the image that is hidden. With blocks it is the most that is hidden, rounded to whole
            blocks, and at least one.
        decoder: As for `CrossChannelPrediction`.
        losses: Weight of each loss, by spec or by `Loss` instance; `l2` if left out.
        regularizers: As for `CrossChannelPrediction`.

    Raises:
        ArgumentError: There is no such mask, the share is out of its range, or the parts do not fit together.

    Examples:
        >>> task = Inpainting("autoencoder", mask="center")
        >>> task(torch.rand(2, 3, 32, 32)).prediction.shape
        torch.Size([2, 3, 32, 32])
    """

    default_losses: ClassVar[Losses] = {"l2": 1.0}

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        mask: str = "blocks",
        mask_ratio: float = 0.25,
        decoder: str | nn.Module | None = None,
        losses: Losses | None = None,
        regularizers: Mapping[str, float] | None = None,
    ) -> None:
        if mask not in MASKS:
            raise ArgumentError(f"the mask of inpainting is one of {', '.join(MASKS)}, got {mask!r}")
        if not 0 < mask_ratio < 1:
            raise ArgumentError(f"the share that inpainting hides lies between 0 and 1, got {mask_ratio}")
        super().__init__(channels, channels, encoder, decoder=decoder, losses=losses, regularizers=regularizers)
        self.mask, self.mask_ratio = mask, mask_ratio

    def _corrupted(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden = MASKS[self.mask](source, self.mask_ratio)
        return torch.where(hidden, 0.0, source), hidden
