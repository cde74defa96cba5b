"""Encoders by name, and any `nn.Module` from `(B, in_channels, H, W)` to `(B, C, h, w)` in their place."""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

from ssl_pretext.encoders.autoencoder import AutoencoderEncoder
from ssl_pretext.encoders.from_timm import timm_encoder, timm_names
from ssl_pretext.encoders.from_torchvision import torchvision_encoder, torchvision_names
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import Registry, check_option_types, format_spec, parse_spec

__all__ = ["ENCODERS", "create_encoder", "half_width", "list_encoders", "register_encoder"]


@dataclass(frozen=True)
class Source:
    """A library whose networks are reached as `"<library>/<name>"`; it is imported when one is asked for."""

    create: Callable[..., nn.Module]
    names: Callable[[], list[str]]


ENCODERS: Registry[nn.Module] = Registry("encoder")
ENCODERS.register("autoencoder")(AutoencoderEncoder)
SOURCES = {
    "timm": Source(timm_encoder, timm_names),
    "torchvision": Source(torchvision_encoder, torchvision_names),
}


def create_encoder(encoder: str | nn.Module, *, in_channels: int = 1) -> nn.Module:
    """Builds the encoder that a name (with options in brackets) stands for; a module passes through.

    `"timm/<name>"` and `"torchvision/<name>"` are all networks of these libraries, without their classifier. They take
    `pretrained=true`, and pass other options on: `"timm/vit_tiny_patch16_224[pretrained=true;img_size=64]"`.

    Args:
        encoder: A name of `list_encoders()`, or a module from `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Channels of its input.

    Raises:
        UnknownNameError: There is no such name.
        MissingFileError: Pretrained weights are asked for and not there.
        ArgumentError: `encoder` is neither a name nor a module, or the encoder does not take the options.

    Examples:
        >>> import torch
        >>> encoder = create_encoder("autoencoder", in_channels=1)
        >>> encoder(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 4, 8, 8])
        >>> create_encoder("timm/resnet10t", in_channels=5)(torch.zeros(2, 5, 64, 64)).shape
        torch.Size([2, 512, 2, 2])
    """
    if isinstance(encoder, nn.Module):
        return encoder
    if not isinstance(encoder, str):
        raise ArgumentError(f"an encoder is a name or an nn.Module instance, got {type(encoder).__name__}")
    name, options = parse_spec(encoder)
    library, _, network = name.partition("/")
    if library in SOURCES and name not in ENCODERS.names():
        reserved: dict[str, Any] = {"in_channels": in_channels}
        if clash := options.keys() & reserved:
            raise ArgumentError(f"{', '.join(clash)} is no option of an encoder's name; it follows from the channels")
        check_option_types(f"the encoder {name!r}", SOURCES[library].create, options)
        return SOURCES[library].create(network, **options, **reserved)
    try:
        return ENCODERS.create(encoder, in_channels=in_channels)
    except UnknownNameError as error:
        libraries = " and ".join(f"{source}/<name>" for source in SOURCES)
        raise UnknownNameError(f"{error} Other libraries' networks are called {libraries}.") from None


def list_encoders(pattern: str | None = None) -> list[str]:
    """Names that `create_encoder` knows.

    Args:
        pattern: A pattern of the names to list, such as `"timm/resnet*"`. Left out, the names registered here and one
            pattern for each library whose networks are known.

    Examples:
        >>> list_encoders()[-2:]
        ['timm/*', 'torchvision/*']
        >>> list_encoders("torchvision/resnet*")
        ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18', ...]
    """
    if pattern is None:
        return [*ENCODERS.names(), *(f"{library}/*" for library in SOURCES)]
    literal = re.split(r"[*?\[]", pattern)[0]
    names = ENCODERS.names()
    for library, source in SOURCES.items():
        prefix = f"{library}/"
        if prefix.startswith(literal) or literal.startswith(prefix):  # else no import, since none of its names fits
            names += [prefix + name for name in source.names()]
    return fnmatch.filter(names, pattern)


def register_encoder(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Files a factory that takes `in_channels` under a name, as a decorator."""
    return ENCODERS.register(name)


def half_width(encoder: str) -> str:
    """The name of the same architecture at half its width where its factory has `width`, else the name itself.

    Examples:
        >>> half_width("autoencoder"), half_width("autoencoder[width=1.0]"), half_width("timm/resnet18")
        ('autoencoder[width=0.5]', 'autoencoder[width=1.0]', 'timm/resnet18')
    """
    name, options = parse_spec(encoder)
    if name not in ENCODERS.names() or "width" not in signature(ENCODERS.factory(name)).parameters:
        return encoder
    return format_spec(name, {"width": 0.5, **options})
