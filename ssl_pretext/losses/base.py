"""The base classes of losses, and the registry that creates losses by name."""

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
    """Base class of losses that compare a prediction with its target.

    Args:
        domain: What the loss is computed on; the task converts predictions and targets to it. `"channels"`: the
            normalized target channels, about `[-1, 1]`, `(B, n, H, W)`; the loss must be a mean over their values that
            is zero where prediction and target agree. `"rgb"`: RGB images in `[-1, 1]`, `(B, 3, H, W)`, in which the
            predicted channels are joined with the others. `"logits"`: class scores, for subclasses of `LogitsLoss`.

    Raises:
        ArgumentError: There is no such domain.
    """

    spec: str | None = None  # the spec that create_loss created the loss from; None if constructed directly

    def __init__(self, domain: Domain = "channels") -> None:
        super().__init__()
        if domain not in DOMAINS:
            raise ArgumentError(f"the domain of a loss must be one of {', '.join(DOMAINS)}, got {domain!r}")
        self.domain: Domain = domain

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the loss as a scalar."""
        raise NotImplementedError

    def bind(self, channels: Channels) -> None:
        """Tells the loss which channels it is computed on; called once, before the loss is used.

        Args:
            channels: The target channels of the task.

        Raises:
            ArgumentError: The loss cannot be computed on these channels; the message says why.
        """
        if self.domain == "rgb" and not channels.space.is_color:
            raise ArgumentError(
                f"the loss {self.label} compares RGB images and cannot be computed on {channels}, whose space is not "
                "a color space; choose a loss of the domain 'channels', such as smooth_l1"
            )

    def prepare(self, images: ImageStore) -> None:
        """Measures what the loss needs from the training images, such as a prior; `fit` calls it before training."""

    def training_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the weights, such as the state of an optimizer."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `training_state` returned."""

    @property
    def label(self) -> str:
        """The name of the loss in messages and among the terms of a task's loss."""
        return self.spec or type(self).__name__


class LogitsLoss(Loss):
    """Base class of losses on class scores (logits) per pixel, which can also decode the scores to channel values.

    A task has at most one such loss, and its network then has `num_outputs` output channels. Losses of the other
    domains are computed on the decoded values.

    Attributes:
        num_outputs: Number of logits per pixel.
    """

    num_outputs: int

    def __init__(self) -> None:
        super().__init__("logits")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the loss as a scalar.

        Args:
            prediction: Predicted logits `(B, num_outputs, h, w)`.
            target: Normalized channel values `(B, n, h, w)`; missing values are NaN.
        """
        raise NotImplementedError

    def decode(self, logits: Tensor) -> Tensor:
        """Decodes logits `(B, num_outputs, h, w)` to normalized channel values `(B, n, h, w)`."""
        raise NotImplementedError


def uncast(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wraps a function for `nn.Module._apply` so that it moves tensors to another device but never changes their dtype.

    A module that applies the wrapped function keeps full precision when its parent is cast to half precision.
    """

    def move(tensor: Tensor) -> Tensor:
        example = function(tensor.new_empty(0))
        return function(tensor) if example.dtype == tensor.dtype else tensor.to(example.device)

    return move


LOSSES: Registry[Loss] = Registry("loss")


def create_loss(loss: str | Loss, **options: Option) -> Loss:
    """Creates a loss from its spec; a `Loss` instance is returned unchanged.

    Args:
        loss: A name of `list_losses()`, with options in brackets or as keyword arguments; or a `Loss` instance.
        options: Options of the loss.

    Raises:
        UnknownNameError: There is no loss of this name.
        ArgumentError: The loss does not take these options, or `loss` is neither a name nor a `Loss`.

    Examples:
        >>> create_loss("smooth_l1", beta=0.5).spec
        'smooth_l1[beta=0.5]'
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise ArgumentError(
            f"a loss must be a name of list_losses() or an instance of a subclass of Loss, got {loss!r}; write your "
            "own loss as a subclass of ssl_pretext.Loss"
        )
    name, spec_options = parse_spec(loss)
    created = LOSSES.create(name, **spec_options, **options)
    created.spec = format_spec(name, {**spec_options, **options})
    return created


def list_losses() -> list[str]:
    """Returns the names that `create_loss` accepts, sorted."""
    return LOSSES.names()


def register_loss(name: str) -> Callable[[Callable[..., Loss]], Callable[..., Loss]]:
    """Returns a decorator that registers a `Loss` class or factory under `name`."""
    return LOSSES.register(name)
