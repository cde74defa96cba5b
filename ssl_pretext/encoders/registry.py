"""The registry that creates encoders by name, including the networks of timm and torchvision."""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

from ssl_pretext.encoders.autoencoder import AutoencoderEncoder
from ssl_pretext.encoders.copies import unwrapped
from ssl_pretext.encoders.from_timm import timm_encoder, timm_names
from ssl_pretext.encoders.from_torchvision import torchvision_encoder, torchvision_names
from ssl_pretext.encoders.weights_file import WEIGHTS, WEIGHTS_SHA256, load_weights_file
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import Option, Registry, check_option_types, format_spec, parse_spec

__all__ = [
    "ENCODERS",
    "create_encoder",
    "half_width",
    "is_encoder_name",
    "list_encoders",
    "register_encoder",
    "suggest_encoders",
]


@dataclass(frozen=True)
class Source:
    """A library whose networks are named `"<library>/<name>"`; it is imported when one of them is used or listed."""

    create: Callable[..., nn.Module]
    names: Callable[[], list[str]]


ENCODERS: Registry[nn.Module] = Registry("encoder")
ENCODERS.register("autoencoder")(AutoencoderEncoder)
SOURCES = {
    "timm": Source(timm_encoder, timm_names),
    "torchvision": Source(torchvision_encoder, torchvision_names),
}


def create_encoder(encoder: str | nn.Module, *, in_channels: int = 1, pretrained: bool = False) -> nn.Module:
    """Creates an encoder from its name, with options in brackets; a module is returned as it is.

    A module in `torch.compile`, `DataParallel` or another wrapper of PyTorch is taken out of it, because wrappers
    rename the weights; `FitConfig(compile=True)` compiles the networks of a task. A module that takes images of one
    size only states this size, in pixels, as its attribute `image_size`.

    `"timm/<name>"` and `"torchvision/<name>"` are the networks of these libraries, without their classifiers. They take
    `pretrained=true`, and pass other options on to the library:
    `"timm/vit_tiny_patch16_224[pretrained=true;img_size=64]"`.

    All names take `weights=FILE`, a file of weights that were trained elsewhere, in the format of safetensors or of
    `torch.save`: `"timm/resnet18[weights=moco.pth]"`. With `weights_sha256=...` it must be a file with this hash.

    Args:
        encoder: A name of `list_encoders()`, or a module that maps `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Number of channels of the input.
        pretrained: Whether to load the published weights, as the option `pretrained=true` of the name does.

    Raises:
        UnknownNameError: There is no encoder of this name.
        MissingFileError: Pretrained weights were requested, but they are not on disk and cannot be downloaded.
        CheckpointError: The file of weights is damaged or does not fit the encoder.
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
        if pretrained:
            raise ArgumentError("pretrained=True loads the published weights of an encoder by its name, got a module")
        return unwrapped(encoder)
    if not isinstance(encoder, str):
        raise ArgumentError(f"an encoder must be a name or an nn.Module instance, got {type(encoder).__name__}")
    name, options = parse_spec(encoder)
    if pretrained:
        options["pretrained"] = True
    weights, sha256 = options.pop(WEIGHTS, None), options.pop(WEIGHTS_SHA256, None)
    if weights is None and sha256 is not None:
        raise ArgumentError(f"the encoder {encoder!r} has weights_sha256 but no weights; give it weights=FILE")
    if weights is not None and options.get("pretrained"):
        raise ArgumentError(f"the encoder {encoder!r} has both pretrained=true and weights; choose one of them")
    created = _create(name, options, in_channels)
    if weights is not None:
        load_weights_file(created, name, weights, sha256, in_channels)
    return created


def _create(name: str, options: dict[str, Option], in_channels: int) -> nn.Module:
    """Creates an encoder with published weights or random ones."""
    library, _, network = name.partition("/")
    if library in SOURCES and name not in ENCODERS.names():
        reserved: dict[str, Any] = {"in_channels": in_channels}
        if clash := options.keys() & reserved:
            raise ArgumentError(
                f"{', '.join(clash)} is not an option of the encoder {name}, because it follows from the channels that "
                "the encoder gets; remove it"
            )
        check_option_types(f"the encoder {name!r}", SOURCES[library].create, options)
        return SOURCES[library].create(network, **options, **reserved)
    try:
        return ENCODERS.create(format_spec(name, options), in_channels=in_channels)
    except UnknownNameError as error:
        libraries = " and ".join(f"{source}/<name>" for source in SOURCES)
        raise UnknownNameError(
            f"{error}{suggest_encoders(name)} The networks of other libraries are named {libraries}."
        ) from None


def list_encoders(pattern: str | None = None) -> list[str]:
    """Returns the names that `create_encoder` accepts.

    Args:
        pattern: Pattern of the names to list, such as `"timm/resnet*"`. By default, the names registered in this
            library are listed, and one pattern for each other library.

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
        if prefix.startswith(literal) or literal.startswith(prefix):  # otherwise no name matches: skip the import
            names += [prefix + name for name in source.names()]
    return fnmatch.filter(names, pattern)


def register_encoder(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Returns a decorator that registers a factory, which must take `in_channels`, under `name`.

    The options `weights` and `weights_sha256` are those of `create_encoder`, and are not passed to the factory.
    """
    return ENCODERS.register(name)


def is_encoder_name(encoder: str) -> bool:
    """Whether a spec names a registered encoder or one of another library, which need not have a network of the name.

    Examples:
        >>> is_encoder_name("autoencoder[width=0.5]"), is_encoder_name("timm/resnet18"), is_encoder_name("runs/first")
        (True, True, False)
    """
    name = encoder.partition("[")[0].strip()
    return name in ENCODERS or name.partition("/")[0] in SOURCES


def suggest_encoders(name: str) -> str:
    """Returns a sentence that suggests the networks of other libraries with a name; empty if there are none.

    Examples:
        >>> suggest_encoders("resnet18")
        " Did you mean 'timm/resnet18' or 'torchvision/resnet18'?"
    """
    found = [f"{library}/{name}" for library, source in SOURCES.items() if name in source.names()]
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def half_width(encoder: str) -> str:
    """Returns the name of the same architecture at half its width, or the name itself if it has no option `width`.

    Examples:
        >>> half_width("autoencoder"), half_width("autoencoder[width=1.0]"), half_width("timm/resnet18")
        ('autoencoder[width=0.5]', 'autoencoder[width=1.0]', 'timm/resnet18')
    """
    name, options = parse_spec(encoder)
    if name not in ENCODERS.names() or "width" not in signature(ENCODERS.factory(name)).parameters:
        return encoder
    return format_spec(name, {"width": 0.5, **options})
