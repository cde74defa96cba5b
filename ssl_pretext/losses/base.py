"""What a loss is, and the registry of losses."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Option, Registry, format_spec, parse_spec

__all__ = ["LOSSES", "Domain", "Loss", "create_loss", "list_losses", "register_loss"]

Domain = Literal["channels", "rgb"]
DOMAINS: tuple[Domain, ...] = ("channels", "rgb")


class Loss(nn.Module):
    """A loss between a prediction and its target.

    Args:
        domain: `"channels"`: called with the normalised target channels, about `[-1, 1]`, `(B, n, H, W)`.
            `"rgb"`: called with the joined images in `[-1, 1]`, `(B, 3, H, W)`. The task converts.
    """

    spec: str | None = None  # how create_loss makes it again; None for an instance made by hand

    def __init__(self, domain: Domain = "channels") -> None:
        super().__init__()
        if domain not in DOMAINS:
            raise ArgumentError(f"the domain of a loss is one of {', '.join(DOMAINS)}, got {domain!r}")
        self.domain: Domain = domain

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the loss as a scalar."""
        raise NotImplementedError


LOSSES: Registry[Loss] = Registry("loss")


def create_loss(loss: str | Loss, **options: Option) -> Loss:
    """Builds the loss that a spec stands for; a `Loss` passes through.

    Args:
        loss: A name of `list_losses()`, with options in brackets or as keywords.
        options: Options of the loss.

    Raises:
        UnknownNameError: There is no such loss.
        ArgumentError: It does not take these options.

    Examples:
        >>> create_loss("smooth_l1", beta=0.5).spec
        'smooth_l1[beta=0.5]'
    """
    if isinstance(loss, Loss):
        return loss
    name, spelled = parse_spec(loss)
    built = LOSSES.create(name, **spelled, **options)
    built.spec = format_spec(name, {**spelled, **options})
    return built


def list_losses() -> list[str]:
    """Names that `create_loss` knows."""
    return LOSSES.names()


def register_loss(name: str) -> Callable[[Callable[..., Loss]], Callable[..., Loss]]:
    """Files a `Loss` class or factory under a name, as a decorator."""
    return LOSSES.register(name)
