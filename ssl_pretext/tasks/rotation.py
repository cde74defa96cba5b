"""Rotation (Gidaris et al. 2018): predicts by which multiple of 90° an image was rotated."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier

__all__ = ["Rotation"]

NUM_ROTATIONS = 4  # by 0°, 90°, 180° and 270°


@register_task("rotation")
class Rotation(PretextTask):
    """Predicts by which multiple of 90° an image was rotated (Gidaris et al. 2018, section 2).

    The loss for an image `x` is `-1/4 Σ_k log p_k(x rotated by k · 90°)`, over the four rotations `k`. The paper found
    that training on all four copies of an image in one step is better than on one random copy. These rotations only
    reorder pixels. They interpolate nothing and fill no border, so that only the content of the image reveals them.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        all_rotations: Whether to train on all four copies of each image; if not, on one random copy at a quarter of
            the cost.

    Raises:
        ArgumentError: The encoder does not fit the channels, or `all_rotations` is not a boolean.

    Examples:
        >>> task = Rotation("autoencoder")
        >>> output = task(torch.rand(2, 3, 32, 32))
        >>> output.prediction.shape, output.target.tolist()
        (torch.Size([8, 4]), [0, 0, 1, 1, 2, 2, 3, 3])
    """

    def __init__(
        self, encoder: str | nn.Module, *, channels: str | Channels = "rgb", all_rotations: bool = True
    ) -> None:
        super().__init__()
        self.set_encoder(encoder, channels)
        if not isinstance(all_rotations, bool):
            raise ArgumentError(f"all_rotations of rotation must be True or False, got {all_rotations!r}")
        self.all_rotations = all_rotations
        pooled = PooledHead(self.shape.channels)
        self.head = nn.Sequential(pooled, classifier(pooled.width, NUM_ROTATIONS))

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        values = self.inputs(images)
        height, width = values.shape[-2:]
        if height != width:
            raise ArgumentError(
                f"rotation needs square images, because all rotated copies must have one shape; got {height}×{width}"
            )
        rotated, labels = self._rotate(values)
        scores = self.head(self.encoder(rotated))
        loss = F.cross_entropy(scores, labels)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, labels)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.head]

    def _rotate(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rotated copies of the images, and the number of rotations by 90° of each copy."""
        copies = torch.stack([torch.rot90(values, label, (2, 3)) for label in range(NUM_ROTATIONS)])  # (4, B, n, H, W)
        images = torch.arange(len(values), device=values.device)
        if self.all_rotations:
            labels = torch.arange(NUM_ROTATIONS, device=values.device).repeat_interleave(len(images))
            return copies.flatten(0, 1), labels
        labels = torch.randint(NUM_ROTATIONS, (len(images),), device=values.device)
        return copies[labels, images], labels
