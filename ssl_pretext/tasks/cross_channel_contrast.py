"""Cross-channel contrast (Tian et al. 2020, CMC): which channels belong to the same image?"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.heads import PooledHead
from ssl_pretext.tasks.two_encoders import TwoEncoderTask, disjoint_groups, pair_of

__all__ = ["CrossChannelContrast"]

A_CONTRAST = "a cross-channel contrast"  # in messages


class View(PretextTask):
    """One group of channels, to vectors of length one."""

    name = "cross_channel_contrast"

    def __init__(self, encoder: str | nn.Module, channels: str | Channels, embed_dim: int) -> None:
        super().__init__()
        self.set_encoder(encoder, channels)
        self.embed_dim = embed_dim
        pooled = PooledHead(self.shape.channels)
        self.head = nn.Sequential(pooled, nn.Linear(pooled.width, embed_dim))

    def embed(self, images: Tensor) -> Tensor:
        """`(B, embed_dim)`."""
        return F.normalize(self.head(self.encoder(self.inputs(images))), dim=1)

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.head]


@register_task("cross_channel_contrast")
class CrossChannelContrast(TwoEncoderTask):
    """Finds the `second` channels of an image among those of a batch by its `first`, and the other way round.

    The contrastive sibling of `SplitBrain` (Tian et al. 2020, section 3). Two networks that share nothing make vectors
    of length one, `u_i` of `first` of image `i` and `v_j` of `second` of image `j`. The loss is InfoNCE,
    `-log(exp(u_i·v_i / τ) / Σ_j exp(u_i·v_j / τ))`, plus the same with `u` and `v` exchanged. The negatives are the
    other images of the batch, of one process; the paper draws them from a memory bank. So the batch size is part of
    the problem, and a batch of one has nothing to tell apart.

    Args:
        first: Channels such as `"lab:L"`.
        second: Others of the same images, such as `"lab:ab"`.
        encoder: As for `SplitBrain`.
        temperature: τ.
        embed_dim: Of the vectors that are compared; probes see the encoders' features, without the head.

    Raises:
        ArgumentError: The groups overlap, the temperature is not positive, or the parts do not fit together.

    Examples:
        >>> task = CrossChannelContrast("lab:L", "lab:ab", "autoencoder")
        >>> output = task(torch.rand(4, 3, 32, 32))
        >>> output.prediction.shape, output.target.tolist()
        (torch.Size([4, 4]), [0, 1, 2, 3])
    """

    def __init__(
        self,
        first: str | Channels,
        second: str | Channels,
        encoder: str | Sequence[str] | Sequence[nn.Module] | nn.ModuleList,
        *,
        temperature: float = 0.07,
        embed_dim: int = 128,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ArgumentError(f"the temperature of {A_CONTRAST} is positive, got {temperature}")
        whole_number(f"embed_dim of {A_CONTRAST}", embed_dim)
        groups, encoders = disjoint_groups(first, second, A_CONTRAST), pair_of(encoder, "encoder", A_CONTRAST)
        super().__init__([View(one, channels, embed_dim) for one, channels in zip(encoders, groups, strict=True)])
        self.temperature, self.embed_dim = temperature, embed_dim

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        first, second = (cast(View, branch).embed(images) for branch in self._branches)
        with torch.autocast(first.device.type, enabled=False):  # divided by a small temperature, bfloat16 shows
            scores = first.float() @ second.float().mT / self.temperature  # (B, B)
        own = torch.arange(len(scores), device=scores.device)
        terms = {
            f"{self.second} info_nce": F.cross_entropy(scores, own),
            f"{self.first} info_nce": F.cross_entropy(scores.mT, own),
        }
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, scores, own)
