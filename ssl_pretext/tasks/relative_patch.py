"""Relative patches (Doersch et al. 2015): predicts the position of one patch relative to another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.encoders.inspection import fixed_size
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead, classifier
from ssl_pretext.tasks.patches import crop_patches, keep_one_channel, resize_patches

__all__ = ["RelativePatch"]

# The classes: offsets in rows and columns from a patch to its eight neighbors, row by row.
NEIGHBORS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


@register_task("relative_patch")
class RelativePatch(PretextTask):
    """Predicts which of eight positions around a patch a second one was cropped from (Doersch et al. 2015, section 3).

    The loss is `-log p(position | f(first), f(second))`. The pair of patches is cropped at a random position in the
    image. Three measures of the paper prevent shortcuts (section 3.1). A gap between the patches and a random shift of
    each ensure that no line continues from one patch to the other. In addition, each patch keeps only one of its
    channels, because chromatic aberration of the lens would reveal where in the photo a patch was.

    Sizes are fractions, so that they apply to images of any size. `gap` and `jitter` are those of the paper, 48 and 7
    pixels for patches of 96. The smaller the patches are, the less the position of one patch in the image reveals about
    the answer: with patches of a quarter of the image or more, the left and the right patch of a pair come from
    different parts of the image.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        patch: Height and width of a patch, as a fraction of the smaller dimension of the image.
        gap: Distance between the patches, as a fraction of the patch size.
        jitter: Largest random shift of each patch in each direction, as a fraction of the patch size.
        drop_channels: Whether to keep one channel of each patch and replace the others by weak noise.
        size: Height and width in pixels to which patches are resized for the encoder. By default they keep their size,
            unless it is smaller than one position of the encoder's output, or the encoder takes only one size.

    Raises:
        ArgumentError: `patch`, `gap`, `jitter` or `size` is out of its range, or the encoder does not fit the channels.

    Examples:
        >>> task = RelativePatch("autoencoder")
        >>> task(torch.rand(2, 3, 64, 64)).prediction.shape
        torch.Size([2, 8])
    """

    neighbors: Tensor

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
                "relative_patch needs 0 < patch < 0.5, gap >= 0 and 0 <= jitter < 0.5, got "
                f"patch={patch}, gap={gap} and jitter={jitter}"
            )
        self.set_encoder(encoder, channels)
        self.patch, self.gap, self.jitter, self.drop_channels = patch, gap, jitter, drop_channels
        self.size = None if size is None else whole_number("size of relative_patch", size)
        self.pool = PooledHead(self.shape.channels)
        self.classify = classifier(2 * self.pool.width, len(NEIGHBORS), hidden=2 * self.pool.width)
        # A buffer is on the device of the images; copying the table there in each step would wait for the GPU.
        self.register_buffer("neighbors", torch.tensor(NEIGHBORS), persistent=False)

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        pairs, labels = self._crop_pairs(self.inputs(images))
        if self.drop_channels:
            pairs = keep_one_channel(pairs)
        pairs = resize_patches(pairs, self.size or fixed_size(self.encoder), min_size=round(self.shape.reduction))
        vectors = self.pool(self.encoder(pairs.flatten(0, 1))).unflatten(0, (-1, 2))  # (B, 2, width)
        scores = self.classify(vectors.flatten(1))
        loss = F.cross_entropy(scores, labels)
        return TaskOutput(loss, {"cross_entropy": loss}, scores, labels)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.pool, self.classify]

    def _crop_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Crops two patches of each image, `(B, 2, n, s, s)`, and returns them with their classes `(B,)`."""
        (height, width), device = values.shape[-2:], values.device
        size = max(1, round(self.patch * min(height, width)))
        shift, step = round(self.jitter * size), size + round(self.gap * size)
        if size + step + 2 * shift > min(height, width):
            raise ArgumentError(
                f"relative_patch cannot crop two patches of {size} pixels, with a gap of {step - size} and shifts of "
                f"up to {shift}, from images of {height}×{width}; choose a smaller patch, gap or jitter"
            )
        labels = torch.randint(len(NEIGHBORS), (len(values),), device=device)
        offsets = step * self.neighbors[labels]  # (B, 2)
        corners = torch.stack([(-offsets).clamp(min=0), offsets.clamp(min=0)], dim=1)  # in the box around both patches
        starts = []
        for length, offset in zip((height, width), offsets.abs().unbind(1), strict=True):
            room = length - size - 2 * shift - offset  # largest start of the box
            starts.append(shift + (torch.rand(len(values), device=device) * (room + 1)).long().minimum(room))
        shifts = torch.randint(-shift, shift + 1, corners.shape, device=device)
        return crop_patches(values, torch.stack(starts, dim=1)[:, None] + corners + shifts, size), labels
