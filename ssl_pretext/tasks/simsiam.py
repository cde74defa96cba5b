"""SimSiam (Chen and He 2021): predicts the vector of one view of an image from that of the other."""

from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.tasks.base import register_task
from ssl_pretext.tasks.joint_embedding import JointEmbedding, lightly

__all__ = ["SimSiam"]


@register_task("simsiam")
class SimSiam(JointEmbedding):
    """Predicts the vector of one view from that of the other (Chen and He 2021, section 3).

    The loss is the negative cosine similarity of the prediction with the vector of the other view, which gets no
    gradient, averaged over both directions. It needs neither negatives nor a second network.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        embed_dim: Number of dimensions of the vectors; 2,048 in the paper. The predictor has a quarter as many hidden
            units.

    Raises:
        ArgumentError: The encoder does not fit the channels, or `embed_dim` is not positive.
        MissingDependencyError: lightly is not installed.

    Examples:
        >>> import torch
        >>> task = SimSiam("timm/resnet10t[layer=layer2]", embed_dim=256)
        >>> output = task(torch.rand(4, 2, 3, 32, 32))  # two views of each image
        >>> list(output.terms), output.prediction.shape
        (['negative_cosine_similarity'], torch.Size([4, 256]))
    """

    def __init__(self, encoder: str | nn.Module, *, channels: str | Channels = "rgb", embed_dim: int = 1024) -> None:
        super().__init__(encoder, channels, embed_dim)
        heads = lightly("models.modules.heads")
        self.head = heads.SimSiamProjectionHead(self.shape.channels, embed_dim, embed_dim)
        self.predictor = heads.SimSiamPredictionHead(embed_dim, max(1, embed_dim // 4), embed_dim)
        self.loss = lightly("loss").NegativeCosineSimilarity()

    @override
    def terms(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        both = self.loss(self.predictor(first), second.detach()) + self.loss(self.predictor(second), first.detach())
        return {"negative_cosine_similarity": both / 2}

    @override
    def networks(self) -> list[nn.Module]:
        return [*super().networks(), self.predictor]
