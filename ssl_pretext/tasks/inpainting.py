"""Inpainting (Pathak et al. 2016, context encoders): predicts the masked part of an image."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

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
    """Predicts a masked part of an image from its surroundings (Pathak et al. 2016, section 3).

    The losses are computed on the masked part only: `‖M ⊙ (x - F((1 - M) ⊙ x))‖²` for `l2`, where `M` is one at masked
    pixels, and averaged over these pixels. The encoder sees them as zero, the center of the range. The paper adds an
    adversarial loss with a small weight, which is `losses={"l2": 1.0, "adversarial": 0.001}` here; its critic sees
    the completed image.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees and that are predicted, such as `"rgb"`; any number of them.
        mask: Shape of the mask. `"blocks"` masks rectangles with a quarter of the image's height and width at random
            positions, which may overlap. `"center"` masks one rectangle in the middle.
        mask_ratio: Fraction of the image that is masked. For `"blocks"` it sets the number of blocks, which is at
            least one; blocks that overlap mask a smaller fraction.
        decoder: Decoder, as in `CrossChannelPrediction`.
        losses: Weight of each loss, by spec or by `Loss` instance; by default `l2` alone.
        regularizers: Weights of the regularizers, as in `CrossChannelPrediction`.

    Raises:
        ArgumentError: The mask is unknown, `mask_ratio` is not between 0 and 1, or the encoder, decoder and losses do
            not fit together.

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
            raise ArgumentError(f"mask of inpainting must be one of {', '.join(MASKS)}, got {mask!r}")
        if not 0 < mask_ratio < 1:
            raise ArgumentError(f"mask_ratio of inpainting must be between 0 and 1, got {mask_ratio}")
        super().__init__(channels, channels, encoder, decoder=decoder, losses=losses, regularizers=regularizers)
        self.mask, self.mask_ratio = mask, mask_ratio

    @override
    def _corrupt(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        mask = MASKS[self.mask](source, self.mask_ratio)
        return torch.where(mask, 0.0, source), mask
