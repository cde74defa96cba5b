"""DINO (Caron et al. 2021): predicts what a moving average of the network says of another view of an image."""

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from ssl_pretext.channels import Channels
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks.base import TaskOutput, register_task
from ssl_pretext.tasks.joint_embedding import JointEmbedding, lightly

__all__ = ["DINO"]

HIDDEN, BOTTLENECK = 2048, 256  # units of the head (section 3.1)


@register_task("dino")
class DINO(JointEmbedding):
    """Predicts the teacher's classes of one view from the other view (Caron et al. 2021, section 3.1).

    The teacher is a moving average of the network, and its classes are the prototypes that a vector is similar to. Its
    outputs are centered and sharpened, so that they do not become the same for all images. There are two views and no
    smaller crops. Probes use the features of the student.

    Args:
        encoder: Name of an encoder (see `list_encoders`), or a module from `(B, n, H, W)` to `(B, C, h, w)`.
        channels: Channels that the encoder sees, such as `"rgb"`; any number of them.
        embed_dim: Number of prototypes; 65,536 in the paper, for a thousand times as many images.
        momentum: Part of the teacher's weights that it keeps in each step. In the paper it rises from 0.996 to 1.
        temperature: Temperature of the student's similarities.
        teacher_temperature: Temperature of the teacher's similarities, lower than that of the student.

    Raises:
        ArgumentError: The encoder does not fit the channels, or a number is out of its range.
        MissingDependencyError: lightly is not installed.

    Examples:
        >>> task = DINO("timm/resnet10t[layer=layer2]", embed_dim=64)
        >>> output = task(torch.rand(4, 2, 3, 32, 32))  # two views of each image
        >>> list(output.terms), output.prediction.shape
        (['cross_entropy'], torch.Size([4, 64]))
    """

    steps: Tensor

    def __init__(
        self,
        encoder: str | nn.Module,
        *,
        channels: str | Channels = "rgb",
        embed_dim: int = 4096,
        momentum: float = 0.996,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
    ) -> None:
        super().__init__(encoder, channels, embed_dim)
        if not 0 <= momentum < 1 or not 0 < teacher_temperature < temperature:
            raise ArgumentError(
                f"{self.name} needs 0 <= momentum < 1 and 0 < teacher_temperature < temperature, got {momentum}, "
                f"{teacher_temperature} and {temperature}"
            )
        self.momentum, self.temperature, self.teacher_temperature = momentum, temperature, teacher_temperature
        head = lightly("models.modules.heads").ProjectionHead
        blocks = [(self.shape.channels, HIDDEN, None, nn.GELU()), (HIDDEN, HIDDEN, None, nn.GELU())]
        self.head = nn.Sequential(head([*blocks, (HIDDEN, BOTTLENECK, None, None)]), _Prototypes(BOTTLENECK, embed_dim))
        self.teacher = nn.ModuleList([copy.deepcopy(self.encoder), copy.deepcopy(self.head)]).requires_grad_(False)
        self.loss = lightly("loss").DINOLoss(
            embed_dim, teacher_temp=teacher_temperature, student_temp=temperature, warmup_teacher_temp_epochs=0
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @override
    def forward(self, images: Tensor) -> TaskOutput:
        """Computes the loss of a batch `(B, 2, C, H, W)` of two views, and in training mode updates the teacher first.

        Raises:
            ArgumentError: As `JointEmbedding.forward`.
        """
        inputs = self.both_views(images)
        with torch.no_grad():
            if self.training:
                self._update_teacher()
            targets = self.vectors(self.teacher[0], self.teacher[1], inputs)
        student = self.vectors(self.encoder, self.head, inputs)
        center = self.loss.center.clone()
        with torch.autocast(inputs.device.type, enabled=False):
            loss = self.loss([*targets], [*student], epoch=0)  # an argument that earlier versions need
        if not self.training:
            self.loss.center.copy_(center)  # which the loss has updated
        return TaskOutput(loss, {"cross_entropy": loss}, *student)

    def _update_teacher(self) -> None:
        """Moves the teacher toward the student, which the optimizer has changed since; at first they are equal."""
        weight = torch.where(self.steps > 0, 1 - self.momentum, 1.0)  # without waiting for a GPU
        students = itertools.chain(self.encoder.parameters(), self.head.parameters())
        for old, new in zip(self.teacher.parameters(), students, strict=True):
            old.lerp_(new, weight.to(new.dtype))
        self.steps += 1

    @override
    def networks(self) -> list[nn.Module]:
        return [*super().networks(), *self.teacher]


class _Prototypes(nn.Module):
    """Cosine similarities of vectors `(B, n)` with `count` prototypes."""

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size))
        nn.init.trunc_normal_(self.weight, std=0.02)

    @override
    def forward(self, vectors: Tensor) -> Tensor:
        return F.linear(F.normalize(vectors, dim=-1), F.normalize(self.weight, dim=-1))
