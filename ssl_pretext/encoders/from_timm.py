"""Encoders from timm: all of its networks that support intermediate features."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.inspection import dry_run, record_outputs
from ssl_pretext.encoders.map_encoder import CLASS_TOKEN, MapEncoder, as_numbers
from ssl_pretext.errors import ArgumentError, MissingFileError, UnknownNameError
from ssl_pretext.registry import Option, did_you_mean

__all__ = ["TimmEncoder", "build", "timm_encoder", "timm_names"]

# Options that make networks with position embeddings or attention windows accept images of other sizes, in the order in
# which they are tried. timm does not tell which of them a network supports; it raises a TypeError for the others before
# it builds anything.
ANY_SIZE: tuple[dict[str, Option], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)


class TimmEncoder(MapEncoder):
    """A timm network that returns its last feature map, without class tokens and after its last norm if it has one.

    Args:
        name: Name of the encoder in messages.
        body: A network with timm's method `forward_intermediates`.
        layers: Names of the intermediate features of `body`; the last of them is the output.
        last_norm: Whether the norm that follows the features is applied to the output.
        image_size: Width and height in pixels of the images that the network was made for.
    """

    def __init__(
        self, name: str, body: nn.Module, layers: Sequence[str], *, last_norm: bool = True, image_size: int = 224
    ) -> None:
        super().__init__(name, body, layers, image_size=image_size)
        self.last_norm = last_norm
        self.has_class_token = last_norm and getattr(body, "cls_token", None) is not None

    def _output_and_maps(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        chosen = [self._layers.index(layer) for layer in layers]
        indices = sorted({*chosen, len(self._layers) - 1})
        maps = dict(zip(indices, self._intermediates(images, indices, norm=self.last_norm), strict=True))
        return maps[indices[-1]], [maps[index] for index in chosen]

    def _maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        inner = [layer for layer in layers if layer != CLASS_TOKEN]
        indices = sorted({self._layers.index(layer) for layer in inner})
        if CLASS_TOKEN in layers:
            body: Any = self.body
            last = [len(self._layers) - 1]
            tokens, found = body.forward_intermediates(images, indices=indices or last, norm=False, output_fmt="NCHW")
            token = {CLASS_TOKEN: tokens[:, 0, :, None, None]}
        else:
            found, token = self._intermediates(images, indices, norm=False), {}
        maps = dict(zip(indices, found, strict=bool(indices)))
        return token | {layer: maps[self._layers.index(layer)] for layer in inner}

    def _intermediates(self, images: Tensor, indices: list[int], *, norm: bool) -> list[Tensor]:
        body: Any = self.body
        maps: list[Tensor] = body.forward_intermediates(
            images, indices=indices, norm=norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def timm_encoder(
    name: str, *, in_channels: int, pretrained: bool = False, layer: str | None = None, **options: Option
) -> TimmEncoder:
    """Creates the encoder `"timm/<name>"`.

    Args:
        name: A name of `timm.list_models()`, with or without the tag of its weights.
        in_channels: Number of channels of the input. Pretrained weights for RGB are adapted by timm's rule.
        pretrained: Whether to load the published weights.
        layer: Name of the layer whose feature map is the output; later layers are removed. By default the last layer.
        options: Options that timm passes on to the network, such as `img_size=64`, `embed_dim=96` or
            `channels="32x64x128x256"`.

    Raises:
        UnknownNameError: timm has no such network, or the network has no such layer.
        MissingFileError: The pretrained weights are not on disk and cannot be downloaded.
        ArgumentError: The network does not take these options, or has no intermediate features.
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
    # The norm after the last layer would not fit the channels of an earlier layer.
    body.prune_intermediate_layers([len(layers) - 1], prune_norm=layer is not None)
    encoder = TimmEncoder(
        f"timm/{name}", body, layers, last_norm=layer is None, image_size=body.pretrained_cfg["input_size"][-1]
    )
    if pretrained:
        encoder.published_mean_std = tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])
    if isinstance(built_for := options.get("img_size"), int):
        encoder.image_size = built_for
    try:
        _drop_unused(encoder, in_channels)
    except ArgumentError as error:
        raise ArgumentError(
            f"timm/{name} with these options runs neither on images of 64×64 pixels nor on images of "
            f"{encoder.image_size}×{encoder.image_size}; remove the options, or choose another img_size"
        ) from error
    return encoder


def timm_names() -> list[str]:
    """Returns the names of all networks of timm, without the tags of their weights."""
    import timm

    names: list[str] = timm.list_models()
    return names


def build(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> tuple[Any, dict[str, Any]]:
    """Creates a timm network, one that accepts images of any size if the network supports that.

    Returns:
        The network, and the options with which `timm.create_model` created it.

    Raises:
        MissingFileError: The pretrained weights are not on disk and cannot be downloaded.
        ArgumentError: The network does not take these options.
    """
    import timm

    if pretrained and not timm.is_model_pretrained(name):
        raise MissingFileError(
            f"timm has no weights for {name!r}; timm.list_pretrained() lists the networks with weights"
        )
    rejection: Exception | None = None
    for any_size in ANY_SIZE:
        try:
            # The number of classes is not changed, because then timm would no longer check that no weights are missing.
            arguments = any_size | dict(options)
            return timm.create_model(name, pretrained=pretrained, **arguments), arguments
        except TypeError as error:
            rejection = error
        except OSError as error:
            raise _missing(name, error) from error
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ArgumentError(
                f"timm/{name} cannot be created with these options: {error or type(error).__name__}"
            ) from error
    raise ArgumentError(f"timm/{name} does not take these options: {rejection}") from rejection


def _missing(name: str, error: OSError) -> MissingFileError:
    import timm

    config = timm.get_pretrained_cfg(name)
    source = config.file or (config.hf_hub_id and f"huggingface.co/{config.hf_hub_id}") or config.url
    return MissingFileError(
        f"the pretrained weights of timm/{name} are not on this machine and could not be downloaded from {source}: "
        f"{error}. Run timm.create_model({name!r}, pretrained=True) on a machine with internet access, and copy its "
        "cache of huggingface_hub (HF_HOME) to this one"
    )


def _check_name(name: str) -> None:
    import timm

    known = timm_names()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        suggestion = did_you_mean(architecture, known)
        raise UnknownNameError(
            f"timm has no network named {architecture!r}.{suggestion} list_encoders('timm/*') lists all names"
        )
    if tag and name not in (tags := timm.list_models(f"{architecture}.*", include_tags=True)):
        raise UnknownNameError(f"timm has no weights {tag!r} for {architecture!r}; available are {', '.join(tags)}")


def _check_options(name: str, options: Mapping[str, Option]) -> None:
    """Rejects options of `timm.create_model` itself, which could read any file or download weights from anywhere."""
    import timm

    own = signature(timm.create_model).parameters
    if rejected := sorted(key for key in options if key in own or key.startswith("pretrained_")):
        raise ArgumentError(
            f"{', '.join(rejected)} is not an option of timm/{name}; load its published weights with pretrained=true, "
            "and other weights with load_state_dict() of the encoder"
        )


def _unique(names: list[str]) -> list[str]:
    """Numbers repeated names, which occur in networks with several branches, such as `blocks.0` and `blocks.0#2`."""
    return [
        f"{name}#{count}" if (count := names[: index + 1].count(name)) > 1 else name for index, name in enumerate(names)
    ]


@torch.enable_grad()
def _drop_unused(encoder: TimmEncoder, in_channels: int) -> None:
    """Removes the parts that the output does not depend on, such as heads, and freezes those that cannot be removed.

    Parameters that never get a gradient would stop training on several devices, and would be counted as parameters of
    the encoder.
    """
    body = encoder.body
    output, ran = _traced(encoder, in_channels)
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), trained, allow_unused=True)
    unused = {id(parameter) for parameter, gradient in zip(trained, gradients, strict=True) if gradient is None}

    def remove(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            are_unused = [id(parameter) in unused for parameter in child.parameters()]
            is_container = isinstance(child, nn.ModuleList | nn.ModuleDict)
            # A container never runs itself, and replacing it would break code that iterates over its items.
            if prefix + name in ran or is_container or not (are_unused and all(are_unused)):
                remove(child, f"{prefix}{name}.")
            else:
                setattr(module, name, nn.Identity())

    remove(body, "")
    for parameter in body.parameters():
        if id(parameter) in unused:
            parameter.requires_grad_(False)


def _traced(encoder: TimmEncoder, in_channels: int) -> tuple[Tensor, set[str]]:
    """Returns the output for a blank image, with its autograd graph, and the names of the submodules that ran."""
    try:
        with record_outputs(encoder.body, [name for name, _ in encoder.body.named_modules() if name]) as outputs:
            _, output = dry_run(encoder, in_channels)
    except ArgumentError:
        if not encoder.last_norm:
            raise
        # A few networks raise an error if their last norm is applied, and timm does not tell which.
        encoder.last_norm = False
        return _traced(encoder, in_channels)
    return cast(Tensor, output), set(outputs)
