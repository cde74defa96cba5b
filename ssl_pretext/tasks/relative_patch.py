"""Relative patches (Doersch et al. 2015): on which side of the first patch lay the second?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier
from ssl_pretext.tasks.patches import cut, one_channel_left, resized

__all__ = ["RelativePatch"]

# Rows and columns from a patch to its eight neighbors, in reading order: the classes.
SIDES = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


@register_task("relative_patch")
class RelativePatch(PretextTask):
    """Tells where one patch of an image lies beside another, of eight places (Doersch et al. 2015, section 3).

    The loss is `-log p(side | f(first), f(second))`. A pair is drawn anywhere in the image. Three things keep the
    network from solving it without knowing what it sees (section 3.1): a gap between the patches and a random shift of
    each, so that no line runs from one into the other, and the loss of all channels but one in each patch, since
    colors that a lens bends apart tell where in the photo a patch was.

    Sizes are shares, so that they fit any image; gap and jitter are the paper's, 48 and 7 pixels for patches of 96. The
    smaller the patches, the less the place of one alone tells: from a quarter of the image on, one that lies left of
    another cannot lie where one right of it does.

    Args:
        encoder: A name of `list_encoders()`, or a module `(B, n, H, W)` to `(B, C, h, w)`.
        channels: What the encoder sees, such as `"rgb"`, or bands of any number.
        patch: Side of a patch, as a share of the shorter side of the image.
        gap: Between the patches, as a share of their side.
        jitter: The farthest that each patch is shifted, in either direction, as a share of its side.
        drop_channels: Leaves one channel of each patch, and faint noise in place of the others.
        size: Pixels of a side that patches are resized to for the encoder; left out, they stay as they are, unless
            they are smaller than one position of its output.

    Raises:
        ArgumentError: The shares are out of their range, or the encoder does not fit the channels.

    Examples:
        >>> task = RelativePatch("autoencoder")
        >>> task(torch.rand(2, 3, 64, 64)).prediction.shape
        torch.Size([2, 8])
    """

    sides: Tensor

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        patch: float = 0.2,
        gap: float = 48 / 96,
        jitter: float = 7 / 96,
        drop_channels: bool = True,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < patch < 0.5 or not 0 <= 2 * jitter < 1 or not gap >= 0:
            raise ArgumentError(
                "relative_patch needs 0 < patch < 0.5 of the image, gap >= 0 and 0 <= jitter < 0.5 of the patch, got "
                f"{patch}, {gap} and {jitter}"
            )
        self.set_encoder(encoder, channels)
        self.patch, self.gap, self.jitter, self.drop_channels = patch, gap, jitter, drop_channels
        self.size = None if size is None else whole_number("size of relative_patch", size)
        self.pool = PooledHead(self.shape.channels)
        self.classify = classifier(2 * self.pool.width, len(SIDES), hidden=2 * self.pool.width)
        # Where the images are: a table sent there in each step would wait for a GPU.
        self.register_buffer("sides", torch.tensor(SIDES), persistent=False)

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        pairs, sides = self._pairs(self.inputs(images))
        if self.drop_channels:
            pairs = one_channel_left(pairs)
        pairs = resized(pairs, self.size, least=round(self.shape.reduction))
        vectors = self.pool(self.encoder(pairs.flatten(0, 1))).unflatten(0, (-1, 2))  # (B, 2, width)
        scores = self.classify(vectors.flatten(1))
        loss = F.cross_entropy(scores, sides)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, sides)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.pool, self.classify]

    def _pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Two patches of each image, `(B, 2, n, s, s)`, and on which side of the first the second lies."""
        (height, width), device = values.shape[-2:], values.device
        side = max(1, round(self.patch * min(height, width)))
        shift, step = round(self.jitter * side), side + round(self.gap * side)
        if side + step + 2 * shift > min(height, width):
            raise ArgumentError(
                f"two patches of {side} pixels, {step - side} apart and shifted by up to {shift}, do not fit into "
                f"images of {height}×{width}; choose a smaller patch or gap"
            )
        sides = torch.randint(len(SIDES), (len(values),), device=device)
        offsets = step * self.sides[sides]  # (B, 2)
        pair = torch.stack([(-offsets).clamp(min=0), offsets.clamp(min=0)], dim=1)  # within the box around both
        starts = []
        for length, offset in zip((height, width), offsets.abs().unbind(1), strict=True):
            room = length - side - 2 * shift - offset  # that the box can move in
            starts.append(shift + (torch.rand(len(values), device=device) * (room + 1)).long().minimum(room))
        shifts = torch.randint(-shift, shift + 1, pair.shape, device=device)
        return cut(values, torch.stack(starts, dim=1)[:, None] + pair + shifts, side), sides
