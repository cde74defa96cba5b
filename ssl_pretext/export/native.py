"""Encoders as their own libraries know them: weights under the names of timm or torchvision, and the code to load."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.from_timm import TimmEncoder, build
from ssl_pretext.encoders.from_torchvision import HEADS, RGB, TorchvisionEncoder, constructor_options
from ssl_pretext.encoders.map_encoder import as_numbers
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import parse_spec

__all__ = ["Native", "as_native"]

OWN_CODE = """\
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
pooled = encoder.eval()(inputs)  # what its classifier was given"""


@dataclass(frozen=True)
class Native:
    """Weights by name, the code that loads them without this library, and those of them that were not trained.

    Attributes:
        weights: What `model.safetensors` holds.
        code: Python that makes `encoder` of that file.
        fresh: Names of weights that the features do not depend on, drawn at random so that the file is whole.
    """

    weights: dict[str, Tensor]
    code: str
    fresh: tuple[str, ...] = ()


def as_native(encoder: nn.Module, spec: str | None, in_channels: int) -> Native:
    """An encoder's weights as its own library loads them; as they are where it is of no library.

    Args:
        encoder: What `create_encoder(spec)` gave, trained or not.
        spec: None for a module of one's own.
        in_channels: Channels of its input.

    Raises:
        ArgumentError: The library builds another network by this name now.
    """
    name, options = parse_spec(spec) if spec else ("", {})
    library, _, network = name.partition("/")
    given = {key: as_numbers(value) for key, value in options.items() if key != "pretrained"}
    # One that ends at an inner layer is no whole network of its library. A classifier is added by `reset_classifier`.
    if isinstance(encoder, TimmEncoder) and library == "timm" and "layer" not in given:
        return _of_timm(encoder, network, {"in_chans": in_channels, "num_classes": 0, **given})
    if isinstance(encoder, TorchvisionEncoder) and library == "torchvision":
        return _of_torchvision(encoder, network, given, in_channels)
    return Native(_copied(encoder.state_dict()), OWN_CODE)


def _of_timm(encoder: TimmEncoder, network: str, options: Mapping[str, Any]) -> Native:
    network = network.partition(".")[0]  # without the tag of weights that it started from
    weights = encoder.body.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole, arguments = build(network, options)
    try:
        fresh, unknown = whole.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ArgumentError(f"timm/{network} has weights of other shapes in this version of timm: {error}") from error
    if unknown:
        raise ArgumentError(f"timm/{network} has no weights {', '.join(unknown[:3])} in this version of timm")
    code = TIMM_CODE.format(arguments=_call(network, arguments), norm=encoder.last_norm)
    return Native(_copied(whole.state_dict()), code, tuple(fresh))


def _of_torchvision(encoder: TorchvisionEncoder, network: str, options: dict[str, Any], in_channels: int) -> Native:
    from torchvision.models import VisionTransformer, get_model

    arguments = {"weights": None, **constructor_options(network, options)}
    blank = get_model(network, **arguments)
    weights = encoder.body.state_dict()
    changes = [
        f"encoder.{part} = torch.nn.Identity()"
        for part, child in blank.named_children()
        if part in {*HEADS, "heads"} and any(True for _ in child.parameters())
    ]
    if isinstance(blank, VisionTransformer):  # whose inside the encoder holds without its own `encoder`
        inside = ("pos_embedding", "layers.", "ln.")
        weights = {f"encoder.{key}" if key.startswith(inside) else key: value for key, value in weights.items()}
    if in_channels != RGB:
        place, first = next(item for item in encoder.body.named_modules() if isinstance(item[1], nn.Conv2d))
        changes.insert(0, f"encoder.{_as_python(place)} = torch.nn.{first!r}")
    return Native(
        _copied(weights), TORCHVISION_CODE.format(arguments=_call(network, arguments), changes="\n".join(changes))
    )


def _as_python(place: str) -> str:
    """`"features.0.conv"` as `"features[0].conv"`."""
    return re.sub(r"\.(\d+)", r"[\1]", place)


def _call(network: str, arguments: Mapping[str, Any]) -> str:
    return ", ".join([f'"{network}"', *(f"{key}={value!r}" for key, value in arguments.items())])


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and each in memory of its own, which safetensors asks for."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
