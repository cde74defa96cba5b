"""VICReg (Bardes et al. 2022): vectors of two views agree, vary over the batch, and have uncorrelated dimensions."""

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.joint_embedding import JointEmbedding, lightly

__all__ = ["VICReg"]


@register_task("vicreg")
class VICReg(JointEmbedding):
    """Brings the vectors of two views together, and keeps them from collapsing (Bardes et al. 2022, section 4).

    The loss is `25 s + 25 v + c`: the mean squared distance `s` of the two vectors of an image, a hinge loss `v` that
    keeps the standard deviation of each dimension over the batch above one, and the squared covariances `c` of
    different dimensions. It needs no negatives, and works with smaller batches than instance contrast.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        embed_dim: Number of dimensions of the vectors and of the hidden layers of the head; 8,192 in the paper.

    Raises:
        ArgumentError: The encoder does not fit the channels, or `embed_dim` is not positive.
        MissingDependencyError: lightly is not installed.

    Examples:
        >>> import torch
        >>> task = VICReg("timm/resnet10t[layer=layer2]", embed_dim=256)
        >>> output = task(torch.rand(4, 2, 3, 32, 32))  # two views of each image
        >>> list(output.terms), output.prediction.shape
        (['vicreg'], torch.Size([4, 256]))
    """

    def __init__(self, encoder: str | nn.Module, *, channels: str | Channels = "rgb", embed_dim: int = 1024) -> None:
        super().__init__(encoder, channels, embed_dim)
        self.head = lightly("models.modules.heads").VICRegProjectionHead(self.shape.channels, embed_dim, embed_dim)
        self.loss = lightly("loss").VICRegLoss()

    @override
    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"vicreg": self.loss(first, second)}
