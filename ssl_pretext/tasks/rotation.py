"""Rotation (Gidaris et al. 2018): by which quarter turns was the image turned?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier

__all__ = ["Rotation"]

TURNS = 4  # by 0°, 90°, 180° and 270°


@register_task("rotation")
class Rotation(PretextTask):
    """Tells by how many quarter turns an image was turned (Gidaris et al. 2018, section 2).

    The loss of an image `x` is `-1/4 Σ_k log p_k(x turned k times)`, over the four turns `k`: the paper shows the
    network all four copies of an image in one step, and found that better than one of them at random. A turn is a flip
    and a transposition, which leaves no trace but the content: nothing is interpolated and no border is filled.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What the encoder sees, such as `"rgb"`, or bands of any number.
        all_rotations: Shows all four copies of each image; else one at random, at a quarter of the cost.

    Raises:
        ArgumentError: The encoder does not fit the channels.

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
            raise ArgumentError(f"all_rotations of rotation is True or False, got {all_rotations!r}")
        self.all_rotations = all_rotations
        pooled = PooledHead(self.shape.channels)
        self.head = nn.Sequential(pooled, classifier(pooled.width, TURNS))

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        values = self.inputs(images)
        height, width = values.shape[-2:]
        if height != width:
            raise ArgumentError(f"a turn must keep the shape of the images, which are square; got {height}×{width}")
        turned, turns = self._turned(values)
        scores = self.head(self.encoder(turned))
        loss = F.cross_entropy(scores, turns)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, turns)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.head]

    def _turned(self, values: Tensor) -> tuple[Tensor, Tensor]:
        copies = torch.stack([torch.rot90(values, turns, (2, 3)) for turns in range(TURNS)])  # (4, B, n, H, W)
        images = torch.arange(len(values), device=values.device)
        if self.all_rotations:
            return copies.flatten(0, 1), torch.arange(TURNS, device=values.device).repeat_interleave(len(images))
        turns = torch.randint(TURNS, (len(images),), device=values.device)
        return copies[turns, images], turns
