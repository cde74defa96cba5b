"""Layer decay: groups of parameters whose learning rate falls from each layer of a network to the one below it."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from ssl_pretext.errors import ArgumentError

__all__ = ["layer_decay_groups"]


def layer_decay_groups(
    networks: Iterable[nn.Module], *, layer_decay: float, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups the trained parameters of networks by layer, for an optimizer; the last layer has the full learning rate.

    The layers are those of timm (`param_groups_layer_decay`, after Bao et al. 2021, 2106.08254). Weight decay applies
    to all parameters. Parameters outside of timm's networks, such as decoders, are left out.

    Args:
        networks: Modules that are networks of timm or contain some, such as encoders and tasks.
        layer_decay: Factor of the learning rate from each layer to the one below it.
        learning_rate: Learning rate of the last layer.
        weight_decay: Weight decay of all groups.

    Raises:
        ArgumentError: None of the networks says how its layers are ordered.

    Examples:
        >>> from ssl_pretext.encoders import create_encoder
        >>> network = create_encoder("timm/resnet10t")
        >>> groups = layer_decay_groups([network], layer_decay=0.5, learning_rate=1.0, weight_decay=0.0)
        >>> [group["lr"] for group in groups]
        [0.0625, 0.125, 0.25, 0.5, 1.0]
    """
    from timm.optim import param_groups_layer_decay

    networks = list(networks)
    ordered = [part for network in networks for part in _with_ordered_layers(network)]
    if not ordered:
        raise ArgumentError(
            f"layer_decay={layer_decay:g} needs a network whose layers are in order, such as those of timm; got "
            f"{', '.join(type(network).__name__ for network in networks)}. Use layer_decay=1, or a network of timm"
        )
    groups: list[dict[str, Any]] = []
    for network in ordered:
        groups += param_groups_layer_decay(
            network, weight_decay, weight_decay_exclude_1d=False, layer_decay=layer_decay
        )
    # timm's own schedulers read `lr_scale`; those of PyTorch multiply the learning rate of each group.
    return [{"lr": learning_rate * group.pop("lr_scale"), **group} for group in groups]


def _with_ordered_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the outermost modules that have timm's method `group_matcher`."""
    if callable(getattr(module, "group_matcher", None)):
        yield module
        return
    for child in module.children():
        yield from _with_ordered_layers(child)
