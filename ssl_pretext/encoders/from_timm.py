"""Encoders out of timm: every network of its registry that names its intermediate features."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.inspection import dry_run, record_outputs
from ssl_pretext.encoders.map_encoder import MapEncoder, as_numbers
from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.registry import Option, did_you_mean

__all__ = ["TimmEncoder", "build", "timm_encoder", "timm_names"]

# How networks with position embeddings or attention windows for one size are asked to take others. timm does not say
# which of these a network knows, and refuses the others when it is called, before anything is built.
ANY_SIZE: tuple[dict[str, Option], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)


class TimmEncoder(MapEncoder):
    """The feature map of a timm network: class tokens are dropped, and its last norm is applied where it has one.

    Args:
        name: What it is called in messages.
        body: A network with timm's `forward_intermediates`.
        layers: Names of its intermediate features; the last is the output.
        last_norm: Whether the norm that follows the features is applied to the output.
        image_size: Side of the images that it was made for.
    """

    def __init__(
        self, name: str, body: nn.Module, layers: Sequence[str], *, last_norm: bool = True, image_size: int = 224
    ) -> None:
        super().__init__(name, body, layers, image_size=image_size)
        self.last_norm = last_norm

    def _output(self, images: Tensor) -> Tensor:
        return self._intermediates(images, [len(self._layers) - 1], norm=self.last_norm)[0]

    def _maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        indices = sorted({self._layers.index(layer) for layer in layers})
        found = dict(zip(indices, self._intermediates(images, indices, norm=False), strict=True))
        return {layer: found[self._layers.index(layer)] for layer in layers}

    def _intermediates(self, images: Tensor, indices: list[int], *, norm: bool) -> list[Tensor]:
        body: Any = self.body
        maps: list[Tensor] = body.forward_intermediates(
            images, indices=indices, norm=norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def timm_encoder(
    name: str, *, in_channels: int, pretrained: bool = False, layer: str | None = None, **options: Option
) -> TimmEncoder:
    """Builds `"timm/<name>"`.

    Args:
        name: A name of `timm.list_models()`, with or without the tag of its weights.
        in_channels: Channels of the input; weights for RGB are adapted by timm's rule.
        pretrained: Load the published weights.
        layer: Name of the intermediate feature to end at; what follows is cut off.
        options: What timm passes on to the network, such as `img_size=64`, `embed_dim=96`, `channels="32x64x128x256"`.

    Raises:
        UnknownNameError: timm has no such network, or the network no such layer.
        MissingFileError: The pretrained weights are not there.
        ArgumentError: The network does not take these options, or gives no intermediate features.
    """
    _check_name(name)
    _check_options(name, options)
    given = {"in_chans": in_channels, **{key: as_numbers(value) for key, value in options.items()}}
    body, _ = build(name, given, pretrained=pretrained)
    layers = _unique([info["module"] for info in body.feature_info])
    if layer is not None:
        if layer not in layers:
            raise UnknownNameError(f"timm/{name} has no layer {layer!r}; its layers: {', '.join(layers)}")
        layers = layers[: layers.index(layer) + 1]
    # A norm behind the last layer would not fit the channels of an earlier one.
    body.prune_intermediate_layers([len(layers) - 1], prune_norm=layer is not None)
    encoder = TimmEncoder(
        f"timm/{name}", body, layers, last_norm=layer is None, image_size=body.pretrained_cfg["input_size"][-1]
    )
    if isinstance(built_for := options.get("img_size"), int):
        encoder.image_size = built_for
    try:
        _drop_unused(encoder, in_channels)
    except ArgumentError as error:
        raise ArgumentError(
            f"timm/{name} with these options runs neither on images of 64×64 pixels nor on those of "
            f"{encoder.image_size}×{encoder.image_size}; leave the options out, or choose another img_size"
        ) from error
    return encoder


def timm_names() -> list[str]:
    """Names of all networks of timm, without tags."""
    import timm

    names: list[str] = timm.list_models()
    return names


def build(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> tuple[Any, dict[str, Any]]:
    """A network of timm that takes images of other sizes if it can, and all that `timm.create_model` was given."""
    import timm

    if pretrained and not timm.is_model_pretrained(name):
        raise MissingFileError(f"timm has no weights for {name!r}; timm.list_pretrained() names the networks that do")
    refused: Exception | None = None
    for any_size in ANY_SIZE:
        try:
            # The number of classes stays: with another one timm no longer checks that all weights are there.
            arguments = any_size | dict(options)
            return timm.create_model(name, pretrained=pretrained, **arguments), arguments
        except TypeError as error:
            refused = error
        except OSError as error:
            raise _missing(name, error) from error
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ArgumentError(f"timm/{name} cannot be built like this: {error or type(error).__name__}") from error
    raise ArgumentError(f"timm/{name} does not take these options: {refused}") from refused


def _missing(name: str, error: OSError) -> MissingFileError:
    import timm

    place = timm.get_pretrained_cfg(name)
    source = place.file or (place.hf_hub_id and f"huggingface.co/{place.hf_hub_id}") or place.url
    return MissingFileError(
        f"the pretrained weights of timm/{name} are not on this machine and could not be fetched from {source}: "
        f"{error}. Run timm.create_model({name!r}, pretrained=True) once where there is a network, and copy the cache "
        "of huggingface_hub (HF_HOME) here"
    )


def _check_name(name: str) -> None:
    import timm

    known = timm_names()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        near = did_you_mean(architecture, known)
        raise UnknownNameError(f"timm has no network named {architecture!r}.{near} list_encoders('timm/*') names all")
    if tag and name not in (tags := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UnknownNameError(f"timm has no weights {tag!r} for {architecture!r}; it has: {', '.join(tags)}")


def _check_options(name: str, options: Mapping[str, Option]) -> None:
    """Refuses what is meant for `timm.create_model` itself, which would read files and fetch weights from anywhere."""
    import timm

    own = signature(timm.create_model).parameters
    if refused := sorted(key for key in options if key in own or key.startswith("pretrained_")):
        raise ArgumentError(
            f"{', '.join(refused)} is no option of timm/{name}; its published weights come by pretrained=true, and "
            "others by load_state_dict() of the encoder"
        )


def _unique(names: list[str]) -> list[str]:
    """Numbers repeated names, which networks with several branches have: `blocks.0`, `blocks.0#2`."""
    return [
        f"{name}#{count}" if (count := names[: place + 1].count(name)) > 1 else name for place, name in enumerate(names)
    ]


def _drop_unused(encoder: TimmEncoder, in_channels: int) -> None:
    """Removes the parts that the output does not depend on, such as heads, and freezes what is left of them.

    Parameters that never get a gradient would stop training on several devices, and count as part of the encoder.
    """
    body = encoder.body
    output, ran = _traced(encoder, in_channels)
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), trained, allow_unused=True)
    unused = {id(parameter) for parameter, gradient in zip(trained, gradients, strict=True) if gradient is None}

    def remove(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            mine = [id(parameter) in unused for parameter in child.parameters()]
            # Lists never run themselves, and their items have to stay countable.
            if prefix + name in ran or isinstance(child, nn.ModuleList | nn.ModuleDict) or not (mine and all(mine)):
                remove(child, f"{prefix}{name}.")
            else:
                setattr(module, name, nn.Identity())

    remove(body, "")
    for parameter in body.parameters():
        if id(parameter) in unused:
            parameter.requires_grad_(False)


def _traced(encoder: TimmEncoder, in_channels: int) -> tuple[Tensor, set[str]]:
    """The output for a blank image, with its graph, and the names of the parts of the body that ran."""
    with torch.enable_grad():
        try:
            with record_outputs(encoder.body, [name for name, _ in encoder.body.named_modules() if name]) as outputs:
                _, output = dry_run(encoder, in_channels)
        except ArgumentError:
            if not encoder.last_norm:
                raise
            # A few networks refuse to apply their last norm, and timm does not say which.
            encoder.last_norm = False
            return _traced(encoder, in_channels)
    return cast(Tensor, output), set(outputs)
