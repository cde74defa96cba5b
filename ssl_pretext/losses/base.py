"""What a loss is, and the registry of losses."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from ssl_pretext.channels import Channels
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import Option, Registry, format_spec, parse_spec

__all__ = ["LOSSES", "Domain", "LogitsLoss", "Loss", "create_loss", "list_losses", "register_loss", "uncast"]

Domain = Literal["channels", "rgb", "logits"]
DOMAINS: tuple[Domain, ...] = ("channels", "rgb", "logits")


class Loss(nn.Module):
    """A loss between a prediction and its target.

    Args:
        domain: `"channels"`: called with the normalized target channels, about `[-1, 1]`, `(B, n, H, W)`; a mean
            over them that is zero where both agree. `"rgb"`: called with the joined images in `[-1, 1]`,
            `(B, 3, H, W)`. `"logits"`: a `LogitsLoss`. The task converts.
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

    def bind(self, channels: Channels) -> None:
        """Is told, once and before it is used, which channels it judges.

        Raises:
            ArgumentError: The loss cannot judge them; the message says why.
        """
        if self.domain == "rgb" and not channels.space.is_color:
            raise ArgumentError(
                f"the loss {self.label} compares RGB images and cannot judge {channels}, which is no color "
                "space; choose a loss of the domain 'channels', such as smooth_l1"
            )

    def prepare(self, images: ImageStore) -> None:
        """Measures what the loss needs of the training images, such as a prior; `fit` calls it before it starts."""

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs besides the weights, such as an optimizer's state."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `training_state` gave."""

    @property
    def label(self) -> str:
        """How messages and terms call it."""
        return self.spec or type(self).__name__


class LogitsLoss(Loss):
    """A loss on scores of discrete classes per pixel, which it also decodes to channel values.

    A task has at most one of them; its network then gives `num_outputs` channels. Beside it, losses of the other
    domains judge what it decodes.
    """

    num_outputs: int

    def __init__(self) -> None:
        super().__init__("logits")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the loss as a scalar.

        Args:
            prediction: Logits `(B, num_outputs, h, w)`.
            target: Normalized channel values `(B, n, h, w)`; NaN where they are missing.
        """
        raise NotImplementedError

    def decode(self, logits: Tensor) -> Tensor:
        """Logits `(B, num_outputs, h, w)` to normalized channel values `(B, n, h, w)`."""
        raise NotImplementedError


def uncast(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` is given, without its casts: tensors are moved, and keep their dtype and all digits."""

    def moved(tensor: Tensor) -> Tensor:
        there = function(tensor.new_empty(0))
        return function(tensor) if there.dtype == tensor.dtype else tensor.to(there.device)

    return moved


LOSSES: Registry[Loss] = Registry("loss")


def create_loss(loss: str | Loss, **options: Option) -> Loss:
    """Builds the loss that a spec stands for; a `Loss` passes through.

    Args:
        loss: A name of `list_losses()`, with options in brackets or as keywords.
        options: Options of the loss.

    Raises:
        UnknownNameError: There is no such loss.
        ArgumentError: It does not take these options, or is neither a name nor a `Loss`.

    Examples:
        >>> create_loss("smooth_l1", beta=0.5).spec
        'smooth_l1[beta=0.5]'
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise ArgumentError(
            f"a loss is a name of list_losses() or an instance of a subclass of Loss, got {loss!r}; one of your own "
            "inherits from ssl_pretext.Loss"
        )
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
