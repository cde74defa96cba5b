"""Conversion of encoders to the weight names of timm or torchvision, with Python code that loads the weights."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.from_timm import TimmEncoder, build
from ssl_pretext.encoders.from_torchvision import HEADS, RGB, TorchvisionEncoder, constructor_options
from ssl_pretext.encoders.map_encoder import MapEncoder, as_numbers
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.encoders.untrained import without_weights
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import parse_spec

__all__ = ["NativeWeights", "is_whole", "library_weights", "native_weights"]

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

TIMM_LAYER_CODE = """\
import timm

encoder = timm.create_model({arguments}, checkpoint_path="model.safetensors").eval()
features = encoder(inputs)[-1]"""

TORCHVISION_CODE = """\
import torch, torchvision
from safetensors.torch import load_file

encoder = torchvision.models.get_model({arguments})
{changes}
encoder.load_state_dict(load_file("model.safetensors"))
{result}"""
POOLED_CODE = "pooled = encoder.eval()(inputs)  # the input of the removed classifier"
SCORES_CODE = "scores = encoder.eval()(inputs)  # of the outputs that encoder.json names"
LAYER = "layer"  # the option of a timm encoder that ends at an inner layer
OTHERS = "export it to another format, such as onnx"
LIBRARIES: dict[str, type[MapEncoder]] = {"timm": TimmEncoder, "torchvision": TorchvisionEncoder}


@dataclass(frozen=True)
class NativeWeights:
    """The weights of an encoder under the names of its library, and code that loads them.

    Attributes:
        weights: The content of `model.safetensors`.
        code: Python code that creates `encoder` from that file, without this library.
        untrained: Names of random weights that timm requires, but on which the features do not depend.
        output: Name of the result in the code: `"features"`, or `"pooled"` for their average.
    """

    weights: dict[str, Tensor]
    code: str
    untrained: tuple[str, ...] = ()
    output: str = "features"


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
    for library in LIBRARIES:
        if is_whole(encoder, spec) and _why_not(encoder, spec, library) is None:
            return library_weights(encoder, spec, in_channels, library=library)
    return NativeWeights(_copy_to_cpu(encoder.state_dict()), PLAIN_CODE)


def library_weights(
    encoder: nn.Module,
    spec: str | None,
    in_channels: int,
    *,
    library: str,
    classifier: nn.Linear | None = None,
    image_size: int = 64,
) -> NativeWeights:
    """Converts the weights of an encoder, with a classifier or without, to those of a network of a library.

    For an encoder that ends at an inner layer, the network of timm is the one that `features_only` creates. It has no
    classifier.

    Args:
        encoder: An encoder of this library.
        spec: The spec that the encoder was created from; None if it was given as a module.
        in_channels: Channels of the encoder's input.
        library: `"timm"` or `"torchvision"`.
        classifier: A linear layer on the encoder's averaged feature map.
        image_size: Height and width of the images on which the network with the classifier is tried.

    Raises:
        ArgumentError: The library has no such network, builds another one by this name, or classifies something else
            than the averaged feature map.
    """
    if reason := _why_not(encoder, spec, library):
        raise ArgumentError(f"cannot export {spec or type(encoder).__name__} to {library}: {reason}")
    name, options = parse_spec(without_weights(spec or ""))
    network = name.partition("/")[2]
    given = {key: as_numbers(value) for key, value in options.items() if key != LAYER}
    if isinstance(encoder, TimmEncoder) and not is_whole(encoder, spec):
        return _inner_layer_from_timm(encoder, network, {"in_chans": in_channels, **given})
    if isinstance(encoder, TimmEncoder):
        count = 0 if classifier is None else classifier.out_features
        complete, native = _from_timm(
            encoder, network, {"in_chans": in_channels, "num_classes": count, **given}, classifier
        )
    else:
        complete, native = _from_torchvision(cast(TorchvisionEncoder, encoder), network, given, in_channels, classifier)
    if classifier is not None:
        _check_scores(encoder, classifier, complete, (2, in_channels, image_size, image_size), name)
    return native


def _why_not(encoder: nn.Module, spec: str | None, library: str) -> str | None:
    """Says why an encoder is no whole network of a library; None if it is one."""
    name = parse_spec(spec)[0] if spec else ""
    if isinstance(encoder, LIBRARIES[library]) and name.startswith(f"{library}/"):
        return None
    own = next((other for other in LIBRARIES if name.startswith(f"{other}/")), None)
    if own is None:
        return f"it is no network of {library}; {OTHERS}"
    return f"its weights are those of a network of {own}; export it to {own}, or to onnx, which needs neither of them"


def is_whole(encoder: nn.Module, spec: str | None) -> bool:
    """Whether an encoder is a whole network of a library, and does not end at an inner layer of timm's."""
    return not (isinstance(encoder, TimmEncoder) and spec is not None and LAYER in parse_spec(spec)[1])


@torch.no_grad()
def _check_scores(
    encoder: nn.Module, classifier: nn.Linear, complete: nn.Module, inputs: tuple[int, ...], name: str
) -> None:
    """Raises unless a network of a library computes the scores of the encoder with its classifier on random inputs."""
    values = torch.randn(inputs, generator=torch.Generator().manual_seed(0))
    with eval_mode(encoder), eval_mode(complete):
        scores = classifier(encoder(values).mean(dim=(2, 3)))
        try:
            agrees = torch.allclose(complete(values), scores, rtol=1e-3, atol=1e-3 * float(scores.abs().max()))
        except RuntimeError:  # shapes do not fit
            agrees = False
    if not agrees:
        raise ArgumentError(
            f"cannot export {name} with its classifier: the network of the library does not classify the average of "
            f"its feature map, as the fine-tuned network does; {OTHERS}"
        )


def _from_timm(
    encoder: TimmEncoder, network: str, options: Mapping[str, Any], classifier: nn.Linear | None
) -> tuple[nn.Module, NativeWeights]:
    # The exported network has no classes, unless it was fine-tuned; timm's `reset_classifier` can add a classifier.
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
    if classifier is not None:
        layer = complete.get_classifier()
        _copy_classifier(classifier, layer, f"timm/{network}")
        own = {f"{name}." for name, part in complete.named_modules() if part is layer}
        untrained = [name for name in untrained if not name.startswith(tuple(own))]
        code = f"{code}\n{SCORES_CODE}"
    return complete, NativeWeights(_copy_to_cpu(complete.state_dict()), code, tuple(untrained))


@torch.no_grad()
def _inner_layer_from_timm(encoder: TimmEncoder, network: str, options: Mapping[str, Any]) -> NativeWeights:
    """The weights of an encoder that ends at an inner layer, for the network that `features_only` of timm creates."""
    network = network.partition(".")[0]  # without the tag of the published weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features_only = {"features_only": True, "out_indices": [len(encoder.layers()) - 1]}
        inner, arguments = build(network, {**features_only, **options})
    # timm wraps some networks, and renames the first level of others.
    renamed = [
        {rename(key): value for key, value in encoder.body.state_dict().items()}
        for rename in (str, lambda key: f"model.{key}", lambda key: key.replace(".", "_", 1))
    ]
    expected = inner.state_dict()
    weights = next((names for names in renamed if names.keys() <= expected.keys()), {})
    values = torch.randn(2, options["in_chans"], *[encoder.image_size] * 2, generator=torch.Generator().manual_seed(0))
    try:
        untrained = inner.load_state_dict(weights, strict=False).missing_keys
        with eval_mode(encoder), eval_mode(inner):
            wanted, found = encoder(values), inner(values)[-1]
        agrees = torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    except RuntimeError:  # shapes do not fit
        agrees = False
    if not agrees:
        raise ArgumentError(
            f"cannot export timm/{network} with layer={encoder.layers()[-1]} to timm: features_only of the installed "
            f"version of timm computes other features; {OTHERS}"
        )
    code = TIMM_LAYER_CODE.format(arguments=_format_arguments(network, arguments))
    return NativeWeights(_copy_to_cpu(inner.state_dict()), code, tuple(untrained))


def _copy_classifier(classifier: nn.Linear, layer: object, name: str) -> None:
    if not isinstance(layer, nn.Linear) or layer.weight.shape != classifier.weight.shape:
        raise ArgumentError(
            f"cannot export {name} with its classifier: its own is no linear layer on {classifier.in_features} "
            f"features; {OTHERS}"
        )
    layer.load_state_dict(classifier.state_dict())


def _from_torchvision(
    encoder: TorchvisionEncoder,
    network: str,
    options: dict[str, Any],
    in_channels: int,
    classifier: nn.Linear | None,
) -> tuple[nn.Module, NativeWeights]:
    from torchvision.models import VisionTransformer, get_model

    arguments = {"weights": None, **constructor_options(network, options)}
    blank = get_model(network, **arguments)
    weights = encoder.body.state_dict()
    heads = [
        part
        for part, child in blank.named_children()
        if part in {*HEADS, "heads"} and any(True for _ in child.parameters())
    ]
    for part in heads:
        setattr(blank, part, nn.Identity())
    if classifier is not None:
        setattr(blank, heads[-1], copy.deepcopy(classifier))
    changes = [f"encoder.{part} = torch.nn.{getattr(blank, part)!r}" for part in heads]
    if isinstance(blank, VisionTransformer):  # in torchvision these weights belong to its submodule `encoder`
        inside = ("pos_embedding", "layers.", "ln.")
        weights = {f"encoder.{key}" if key.startswith(inside) else key: value for key, value in weights.items()}
    if in_channels != RGB:
        path, first = next(item for item in encoder.body.named_modules() if isinstance(item[1], nn.Conv2d))
        changes.insert(0, f"encoder.{_python_path(path)} = torch.nn.{first!r}")
        blank.set_submodule(path, copy.deepcopy(first))
    if classifier is not None:
        weights |= {f"{heads[-1]}.{key}": value for key, value in classifier.state_dict().items()}
        blank.load_state_dict(weights)
    code = TORCHVISION_CODE.format(
        arguments=_format_arguments(network, arguments),
        changes="\n".join(changes),
        result=POOLED_CODE if classifier is None else SCORES_CODE,
    )
    return blank, NativeWeights(_copy_to_cpu(weights), code, output="pooled")


def _python_path(path: str) -> str:
    """Converts the path of a submodule to Python: `"features.0.conv"` to `"features[0].conv"`."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def _format_arguments(network: str, arguments: Mapping[str, Any]) -> str:
    """Formats the arguments of a call as Python code."""
    return ", ".join([f'"{network}"', *(f"{key}={value!r}" for key, value in arguments.items())])


def _copy_to_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies weights to the CPU, each to separate memory, because safetensors does not accept shared memory."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
