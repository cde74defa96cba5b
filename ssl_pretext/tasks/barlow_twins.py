"""Barlow Twins (Zbontar et al. 2021): the cross-correlation of the vectors of two views is the identity."""

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.joint_embedding import JointEmbedding, lightly

__all__ = ["BarlowTwins"]


@register_task("barlow_twins")
class BarlowTwins(JointEmbedding):
    """Makes the dimensions of the vectors equal in two views and uncorrelated with each other (Zbontar et al. 2021).

    With the cross-correlation matrix `C` of the vectors of the two views over the batch, the loss is
    `Σ_i (1 - C_ii)² + 0.005 Σ_i Σ_{j≠i} C_ij²`.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        embed_dim: Number of dimensions of the vectors and of the hidden layers of the head; 8,192 in the paper.

    Raises:
        ArgumentError: The encoder does not fit the channels, or `embed_dim` is not positive.
        MissingDependencyError: lightly is not installed.

    Examples:
        >>> import torch
        >>> task = BarlowTwins("timm/resnet10t[layer=layer2]", embed_dim=256)
        >>> output = task(torch.rand(4, 2, 3, 32, 32))  # two views of each image
        >>> list(output.terms), output.prediction.shape
        (['barlow_twins'], torch.Size([4, 256]))
    """

    def __init__(self, encoder: str | nn.Module, *, channels: str | Channels = "rgb", embed_dim: int = 1024) -> None:
        super().__init__(encoder, channels, embed_dim)
        self.head = lightly("models.modules.heads").BarlowTwinsProjectionHead(self.shape.channels, embed_dim, embed_dim)
        self.loss = lightly("loss").BarlowTwinsLoss()

    @override
    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"barlow_twins": self.loss(first, second)}
