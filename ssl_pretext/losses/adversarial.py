"""The adversarial loss: a Wasserstein critic with gradient penalty (Gulrajani et al. 2017; Ballester et al. 2022)."""

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
    """Adversarial loss: the negative mean score that a critic gives to the predicted images.

    The loss does not compare a prediction with its own target, so combine it with a pixel loss.

    The critic is a convolutional network without normalization layers that scores patches. In training mode `forward`
    also trains it: Adam minimizes `score(prediction) - score(target) + penalty (‖∇ score‖ - 1)²`, so any training loop
    works unchanged. The critic's parameters require gradients only during that step: they are saved with the task, but
    no other optimizer updates them.

    Args:
        penalty: Weight of the gradient penalty.
        learning_rate: Learning rate of the critic's Adam optimizer, whose betas are (0, 0.9).
        critic_steps: Number of critic updates per training step of the task; Gulrajani et al. 2017 use 5.
        width: Number of channels of the critic's first layer; each of its next two layers doubles it.

    Raises:
        ArgumentError: An option is not positive, or `forward` gets images smaller than 8×8 pixels.
    """

    def __init__(
        self, penalty: float = 10.0, learning_rate: float = 1e-4, critic_steps: int = 1, width: int = 32
    ) -> None:
        super().__init__("rgb")
        if not (penalty > 0 and learning_rate > 0 and critic_steps >= 1 and width >= 1):
            raise ArgumentError(
                "the loss adversarial needs positive penalty, learning_rate, critic_steps and width, got "
                f"penalty={penalty}, learning_rate={learning_rate}, critic_steps={critic_steps} and width={width}"
            )
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
                f"the loss adversarial needs images of at least 8×8 pixels, got {tuple(prediction.shape[-2:])}; choose "
                "a larger image size"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            fake, real = prediction.float(), target.float()
            if self.training and torch.is_grad_enabled():
                for _ in range(self.critic_steps):
                    self._update_critic(fake.detach(), real.detach())
            return -cast(Tensor, self.critic(fake)).mean()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The critic stays in float32 when the task is cast to another dtype.
        return cast(Self, super()._apply(uncast(function), recurse))  # type: ignore[no-untyped-call]

    @override
    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    @override
    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])

    def _update_critic(self, fake: Tensor, real: Tensor) -> None:
        """Runs one optimizer step of the critic."""
        self.critic.requires_grad_(True)
        fraction = torch.rand(len(fake), 1, 1, 1, device=fake.device)
        mixed = (fraction * fake + (1 - fraction) * real).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(mixed).mean(dim=(1, 2, 3)).sum(), mixed, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        loss = self.critic(fake).mean() - self.critic(real).mean() + self.penalty * penalty
        self.optimizer.zero_grad()
        loss.backward()
        _average_gradients(self.critic)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.critic.requires_grad_(False)


def _average_gradients(module: nn.Module) -> None:
    """Averages the gradients over all processes of a distributed run, so that their critics stay identical."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
