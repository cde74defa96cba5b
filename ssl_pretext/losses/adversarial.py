"""The Wasserstein GAN term that Ballester et al. 2022 compare, with gradient penalty (Gulrajani et al. 2017)."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from ssl_pretext.errors import ArgumentError
from ssl_pretext.losses.base import Loss, register_loss, uncast

__all__ = ["Adversarial"]


@register_loss("adversarial")
class Adversarial(Loss):
    """Minus a critic's mean score of the predicted images; needs a pixel loss beside it to stay with the target.

    The critic is convolutional, without normalization, and scores patches. It learns inside `forward` while training,
    by Adam on `score(prediction) - score(target) + penalty (‖∇ score‖ - 1)²`, so any training loop works unchanged. Its
    weights require no gradient outside of that step: they are saved with the task, but no other optimizer touches
    them.

    Args:
        penalty: Weight of the gradient penalty.
        learning_rate: Of the critic's Adam, with betas (0, 0.9).
        critic_steps: Updates of the critic per step of the task; 5 in the paper of the penalty.
        width: Channels of the critic's first layer, doubled twice.

    Raises:
        ArgumentError: An option is not positive, or images are smaller than 8×8.
    """

    def __init__(
        self, penalty: float = 10.0, learning_rate: float = 1e-4, critic_steps: int = 1, width: int = 32
    ) -> None:
        super().__init__("rgb")
        if not (penalty > 0 and learning_rate > 0 and critic_steps >= 1 and width >= 1):
            raise ArgumentError("adversarial needs positive penalty, learning_rate, critic_steps and width")
        self.penalty, self.critic_steps = penalty, critic_steps
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, kernel_size=3, padding=1)).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=learning_rate, betas=(0.0, 0.9))

    @override
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        if min(prediction.shape[-2:]) < 8:
            raise ArgumentError(
                f"adversarial needs images of at least 8×8 pixels, got {tuple(prediction.shape[-2:])}; choose a larger "
                "image size"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            fake, real = prediction.float(), target.float()
            if self.training and torch.is_grad_enabled():
                for _ in range(self.critic_steps):
                    self._teach(fake.detach(), real.detach())
            return -cast(Tensor, self.critic(fake)).mean()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # It is taught in float32, whatever the task is cast to.
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]

    @override
    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    @override
    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])

    def _teach(self, fake: Tensor, real: Tensor) -> None:
        """One update of the critic."""
        self.critic.requires_grad_(True)
        share = torch.rand(len(fake), 1, 1, 1, device=fake.device)
        between = (share * fake + (1 - share) * real).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).mean(dim=(1, 2, 3)).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = self.critic(fake).mean() - self.critic(real).mean() + self.penalty * penalty
        self.optimizer.zero_grad()
        loss.backward()
        _average_over_processes(self.critic)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.critic.requires_grad_(False)


def _average_over_processes(module: nn.Module) -> None:
    """The mean gradient of all processes of a distributed run, so that their critics stay one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
