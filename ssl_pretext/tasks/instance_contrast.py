"""Instance contrast (Chen et al. 2020, SimCLR): finds the other view of an image among the views of a batch."""

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.joint_embedding import JointEmbedding, lightly

__all__ = ["InstanceContrast"]


@register_task("instance_contrast")
class InstanceContrast(JointEmbedding):
    """Finds the other view of an image among all views of a batch, as SimCLR does (Chen et al. 2020, section 2).

    The loss is NT-Xent, the normalized temperature-scaled cross entropy over `2 B - 1` candidates for each of the `2 B`
    views. The negatives are the other images of the batch on the same process, so the difficulty depends on the batch
    size: the paper uses 256 to 8,192 images.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        temperature: Temperature of the softmax.
        embed_dim: Number of dimensions of the vectors. The hidden layer of the head has as many units as the encoder
            has channels, but at least as many as the vectors.

    Raises:
        ArgumentError: The encoder does not fit the channels, or the temperature or `embed_dim` is not positive.
        MissingDependencyError: lightly is not installed.

    Examples:
        >>> import torch
        >>> task = InstanceContrast("timm/resnet10t[layer=layer2]")
        >>> output = task(torch.rand(4, 2, 3, 32, 32))  # two views of each image
        >>> list(output.terms), output.prediction.shape
        (['nt_xent'], torch.Size([4, 128]))
    """

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        temperature: float = 0.1,
        embed_dim: int = 128,
    ) -> None:
        super().__init__(encoder, channels, embed_dim)
        if not 0 < temperature < float("inf"):
            raise ArgumentError(f"temperature of {self.name} must be positive and finite, got {temperature}")
        self.temperature = temperature
        width = self.shape.channels
        self.head = lightly("models.modules.heads").SimCLRProjectionHead(width, max(width, embed_dim), embed_dim)
        self.loss = lightly("loss").NTXentLoss(temperature)

    @override
    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"nt_xent": self.loss(first, second)}
