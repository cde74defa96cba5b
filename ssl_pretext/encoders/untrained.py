"""Untrained copies of encoders, which are used as controls."""

import copy

from torch import nn

from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import format_spec, parse_spec

__all__ = ["reinitialized", "without_weights"]


def without_weights(encoder: str) -> str:
    """Returns the name of the same architecture with random weights, for an untrained control.

    Examples:
        >>> without_weights("timm/resnet18[pretrained=true;layer=layer3]")
        'timm/resnet18[layer=layer3]'
    """
    name, options = parse_spec(encoder)
    return format_spec(name, {key: value for key, value in options.items() if key != "pretrained"})


def reinitialized(module: nn.Module) -> nn.Module:
    """Returns a copy of a module with new random parameters, drawn by the `reset_parameters` of its parts.

    Args:
        module: The module to copy; it stays unchanged.

    Raises:
        ArgumentError: A part with parameters has no `reset_parameters`.
    """
    twin = copy.deepcopy(module)
    drawn: set[int] = set()
    for part in twin.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
            drawn.update(id(parameter) for parameter in part.parameters(recurse=False))
    left = [name for name, parameter in twin.named_parameters() if id(parameter) not in drawn]
    if left:
        raise ArgumentError(
            f"no untrained copy of {type(module).__name__} can be made, because the parts with the parameters "
            f"{', '.join(left[:3])} have no reset_parameters(). Add this method, or register a factory with "
            "register_encoder() and give the encoder by name."
        )
    return twin
