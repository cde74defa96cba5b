"""Cross-channel contrast (Tian et al. 2020, CMC): matches two groups of channels of the same image."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.arguments import whole_number
from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import PretextTask, TaskOutput, register_task
from ssl_pretext.tasks.gray_photos import check_colors
from ssl_pretext.tasks.heads import PooledHead
from ssl_pretext.tasks.two_encoders import TwoEncoderTask, pair_for_branches, parse_disjoint_channels

__all__ = ["CrossChannelContrast"]

NAME = "cross_channel_contrast"


class ContrastBranch(PretextTask):
    """One of the two branches: maps one group of channels to vectors of length one.

    Args:
        encoder: Name of an encoder, or a module.
        channels: Channels that the encoder sees.
        embed_dim: Number of dimensions of the vectors.
    """

    name = NAME

    def __init__(self, encoder: str | nn.Module, channels: str | Channels, embed_dim: int) -> None:
        super().__init__()
        self.set_encoder(encoder, channels)
        self.embed_dim = embed_dim
        pooled = PooledHead(self.shape.channels)
        self.head = nn.Sequential(pooled, nn.Linear(pooled.width, embed_dim))

    def vectors(self, images: Tensor) -> Tensor:
        """Computes vectors of length one, `(B, embed_dim)`, for images `(B, C, H, W)`."""
        return F.normalize(self.head(self.encoder(self.inputs(images))), dim=1)

    @override
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.head]


@register_task(NAME)
class CrossChannelContrast(TwoEncoderTask):
    """Finds which `second` channels in a batch belong to the `first` channels of an image, and the reverse.

    This is the contrastive counterpart of `SplitBrain` (Tian et al. 2020, section 3). Two networks with separate
    weights compute vectors of length one: `u_i` from the `first` channels of image `i`, and `v_j` from the `second`
    channels of image `j`. The loss is InfoNCE, `-log(exp(u_i·v_i / τ) / Σ_j exp(u_i·v_j / τ))`, plus the same with `u`
    and `v` exchanged. The negatives are the other images of the batch on the same process; the paper draws them from a
    memory bank. The difficulty of the task therefore depends on the batch size, and the loss of a batch of one is zero.

    Each encoder sees a crop of its own, as `fit` augments the two views of an image independently by default. If both
    saw the same crop, aligned edges would tell a pair apart, without any knowledge of what is in the image.

    Args:
        first: Channels that the first encoder sees, such as `"lab:L"`.
        second: Other channels of the same images, which the second encoder sees, such as `"lab:ab"`.
        encoder: Name or names of the encoders, or a pair of modules, as in `SplitBrain`.
        temperature: Temperature τ of the softmax.
        embed_dim: Number of dimensions of the vectors. Probes do not use these vectors, but the features of the
            encoders before the head.
        separate_views: Whether each encoder sees a view of its own; if not, both see the same augmented image.

    Raises:
        ArgumentError: The groups of channels overlap, the temperature or `embed_dim` is not positive, `separate_views`
            is not a boolean, or the encoders do not fit the channels or each other.

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
        temperature: float = 0.1,
        embed_dim: int = 128,
        separate_views: bool = True,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ArgumentError(f"temperature of {NAME} must be positive and finite, got {temperature}")
        whole_number(f"embed_dim of {NAME}", embed_dim)
        if not isinstance(separate_views, bool):
            raise ArgumentError(f"separate_views of {NAME} must be True or False, got {separate_views!r}")
        groups = parse_disjoint_channels(first, second, NAME)
        encoders = pair_for_branches(encoder, "encoder", NAME)
        super().__init__(
            [ContrastBranch(network, channels, embed_dim) for network, channels in zip(encoders, groups, strict=True)]
        )
        self.temperature, self.embed_dim = temperature, embed_dim
        self.separate_views = separate_views
        self.num_views = 2 if separate_views else 1

    @property
    @override
    def default_augmentation(self) -> str:
        return "random_resized_crop,horizontal_flip"

    @override
    def prepare(self, images: ImageStore) -> None:
        if self.first.space.is_color and self.first.space.image_channels == 3:
            check_colors(images, self.name)
        super().prepare(images)

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        views = self.views(images)
        first, second = (
            cast(ContrastBranch, branch).vectors(view)
            for branch, view in zip(self._branches, (views[0], views[-1]), strict=True)
        )
        # In float32, because the division by a small temperature would magnify the rounding errors of bfloat16.
        with torch.autocast(first.device.type, enabled=False):
            scores = first.float() @ second.float().mT / self.temperature  # (B, B)
        same_image = torch.arange(len(scores), device=scores.device)
        terms = {
            f"{self.second} info_nce": F.cross_entropy(scores, same_image),
            f"{self.first} info_nce": F.cross_entropy(scores.mT, same_image),
        }
        return TaskOutput(torch.stack(list(terms.values())).sum(), terms, scores, same_image)
