"""Conversion of encoders to the weight names of timm or torchvision, with Python code that loads the weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.from_timm import TimmEncoder, build
from ssl_pretext.encoders.from_torchvision import HEADS, RGB, TorchvisionEncoder, constructor_options
from ssl_pretext.encoders.map_encoder import as_numbers
from ssl_pretext.encoders.untrained import without_weights
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import parse_spec

__all__ = ["NativeWeights", "native_weights"]

PLAIN_CODE = """\
from safetensors.torch import load_file

encoder = ...  # a module of the same architecture
encoder.load_state_dict(load_file("model.safetensors"))
features = encoder.eval()(inputs)"""

TIMM_CODE = """\
import timm

encoder = timm.create_model({arguments}, checkpoint_path="model.safetensors").eval()
features = encoder.forward_intermediates(
    inputs, indices=1, norm={norm}, output_fmt="NCHW", intermediates_only=True
)[-1]"""

TORCHVISION_CODE = """\
import torch, torchvision
from safetensors.torch import load_file

encoder = torchvision.models.get_model({arguments})
{changes}
encoder.load_state_dict(load_file("model.safetensors"))
pooled = encoder.eval()(inputs)  # the input of the removed classifier"""


@dataclass(frozen=True)
class NativeWeights:
    """The weights of an encoder under the names of its library, and code that loads them.

    Attributes:
        weights: The content of `model.safetensors`.
        code: Python code that creates `encoder` from that file, without this library.
        untrained: Names of random weights that timm requires, but on which the features do not depend.
    """

    weights: dict[str, Tensor]
    code: str
    untrained: tuple[str, ...] = ()


def native_weights(encoder: nn.Module, spec: str | None, in_channels: int) -> NativeWeights:
    """Converts the weights of an encoder so that timm or torchvision can load them.

    The weights of other encoders, and of those that end at an inner layer, are their `state_dict`.

    Args:
        encoder: An encoder, trained or not.
        spec: The spec that the encoder was created from; None if it was given as a module.
        in_channels: Channels of the encoder's input.

    Raises:
        ArgumentError: The installed version of timm builds another network by this name.
    """
    name, options = parse_spec(without_weights(spec)) if spec else ("", {})
    library, _, network = name.partition("/")
    given = {key: as_numbers(value) for key, value in options.items()}
    # timm cannot load an encoder that ends at an inner layer. The exported network has no classes; a classifier can be
    # added with timm's `reset_classifier`.
    if isinstance(encoder, TimmEncoder) and library == "timm" and "layer" not in given:
        return _from_timm(encoder, network, {"in_chans": in_channels, "num_classes": 0, **given})
    if isinstance(encoder, TorchvisionEncoder) and library == "torchvision":
        return _from_torchvision(encoder, network, given, in_channels)
    return NativeWeights(_copy_to_cpu(encoder.state_dict()), PLAIN_CODE)


def _from_timm(encoder: TimmEncoder, network: str, options: Mapping[str, Any]) -> NativeWeights:
    network = network.partition(".")[0]  # without the tag of the published weights
    weights = encoder.body.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        complete, arguments = build(network, options)
    try:
        untrained, unknown = complete.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ArgumentError(
            f"cannot export the encoder timm/{network}: its weights have other shapes in the installed version of "
            f"timm: {error}"
        ) from error
    if unknown:
        raise ArgumentError(
            f"cannot export the encoder timm/{network}: in the installed version of timm it has no weights named "
            f"{', '.join(unknown[:3])}"
        )
    code = TIMM_CODE.format(arguments=_format_arguments(network, arguments), norm=encoder.last_norm)
    return NativeWeights(_copy_to_cpu(complete.state_dict()), code, tuple(untrained))


def _from_torchvision(
    encoder: TorchvisionEncoder, network: str, options: dict[str, Any], in_channels: int
) -> NativeWeights:
    from torchvision.models import VisionTransformer, get_model

    arguments = {"weights": None, **constructor_options(network, options)}
    blank = get_model(network, **arguments)
    weights = encoder.body.state_dict()
    changes = [
        f"encoder.{part} = torch.nn.Identity()"
        for part, child in blank.named_children()
        if part in {*HEADS, "heads"} and any(True for _ in child.parameters())
    ]
    if isinstance(blank, VisionTransformer):  # in torchvision these weights belong to its submodule `encoder`
        inside = ("pos_embedding", "layers.", "ln.")
        weights = {f"encoder.{key}" if key.startswith(inside) else key: value for key, value in weights.items()}
    if in_channels != RGB:
        path, first = next(item for item in encoder.body.named_modules() if isinstance(item[1], nn.Conv2d))
        changes.insert(0, f"encoder.{_python_path(path)} = torch.nn.{first!r}")
    code = TORCHVISION_CODE.format(arguments=_format_arguments(network, arguments), changes="\n".join(changes))
    return NativeWeights(_copy_to_cpu(weights), code)


def _python_path(path: str) -> str:
    """Converts the path of a submodule to Python: `"features.0.conv"` to `"features[0].conv"`."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def _format_arguments(network: str, arguments: Mapping[str, Any]) -> str:
    """Formats the arguments of a call as Python code."""
    return ", ".join([f'"{network}"', *(f"{key}={value!r}" for key, value in arguments.items())])


def _copy_to_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies weights to the CPU, each to separate memory, because safetensors does not accept shared memory."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
