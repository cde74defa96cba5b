"""Inspection of encoders by running them: output shape, layers with feature maps, and the feature maps of layers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.encoders.map_encoder import MapEncoder
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = [
    "EncoderShape",
    "check_image_size",
    "dry_run",
    "feature_layers",
    "feature_maps",
    "fixed_size",
    "layers_with_maps",
    "measure_encoder",
    "measure_layers",
    "output_and_maps",
    "record_outputs",
]

DRY_RUN_SIZES = (64, 224)  # image sizes of the dry run; the second is used if the first is too small
FIXED_SIZE_HINT = (
    ". If the encoder takes images of one size only, set its attribute to this size, such as encoder.image_size = 96"
)


@dataclass(frozen=True)
class EncoderShape:
    """The shapes of an encoder's input and output.

    The encoder maps `(B, in_channels, H, W)` to `(B, channels, H / reduction, W / reduction)`.

    Attributes:
        in_channels: Number of channels of the input.
        channels: Number of channels of the output.
        reduction: Factor by which the output is smaller than the input.
    """

    in_channels: int
    channels: int
    reduction: float


def measure_encoder(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> EncoderShape:
    """Measures the shape of an encoder's output by running the encoder on one blank image.

    The mode and the buffers of the encoder and the random state stay unchanged.

    Args:
        encoder: A module that maps `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Number of channels of the input.
        image_size: Width and height of the image in pixels. By default the encoder's own `image_size`; if it has none,
            64, or a larger size if the encoder does not accept 64.

    Raises:
        ArgumentError: The encoder does not run on `(1, in_channels, H, W)`, or does not return a map `(1, C, h, w)`.
    """
    with torch.no_grad():
        (_, width), output = dry_run(encoder, in_channels, image_size=image_size)
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[0] != 1:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(
            f"an encoder must return a feature map (B, C, h, w), but {type(encoder).__name__} returned {what}"
        )
    return EncoderShape(in_channels, output.shape[1], width / output.shape[-1])


def dry_run(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> tuple[tuple[int, int], object]:
    """Runs the encoder on one blank image, in eval mode and without changing the random state.

    Args:
        encoder: A module that takes images `(B, in_channels, H, W)`.
        in_channels: Number of channels of the input.
        image_size: Width and height of the image in pixels; see `measure_encoder`.

    Returns:
        The image size `(H, W)` that the encoder accepted, and its output.

    Raises:
        ArgumentError: The encoder does not run; the message is about the first size that was tried.
    """
    made_for = encoder.image_size if isinstance(encoder, MapEncoder) else DRY_RUN_SIZES[1]
    sizes = [(size, size) for size in ([image_size] if image_size else [DRY_RUN_SIZES[0], made_for])]
    only = None if image_size else fixed_size(encoder)
    failures: dict[tuple[int, int], Exception] = {}
    for size in [only] if only else sizes:
        try:
            with _without_side_effects(encoder):
                return size, encoder(_blank_image(encoder, in_channels, size))
        except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
            failures.setdefault(size, error)
    size, first = next(iter(failures.items()))
    hint = "" if only or image_size or isinstance(encoder, MapEncoder) else FIXED_SIZE_HINT
    raise ArgumentError(
        f"the encoder {type(encoder).__name__} does not run on images of shape {(1, in_channels, *size)}: "
        f"{str(first).rstrip('.') or type(first).__name__}{hint}"
    ) from first


def fixed_size(encoder: nn.Module) -> tuple[int, int] | None:
    """Returns the height and width of the only images that an encoder takes; None if it takes several sizes.

    An own encoder says so by its attribute `image_size`, one number or `(H, W)`. A `MapEncoder` has this attribute too,
    but there it is a hint, because many networks of other libraries take several sizes.

    Raises:
        ArgumentError: The attribute is neither a positive whole number nor two of them.
    """
    size = None if isinstance(encoder, MapEncoder) else getattr(encoder, "image_size", None)
    if size is None:
        return None
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    what = f"the attribute image_size of the encoder {type(encoder).__name__}"
    return whole_number(what, height), whole_number(what, width)


def check_image_size(encoder: nn.Module, images: Tensor) -> None:
    """Checks that images `(B, n, H, W)` have the only size that an encoder takes, if there is one.

    Raises:
        ArgumentError: They have another size.
    """
    size, got = fixed_size(encoder), tuple(images.shape[-2:])
    if size is not None and size != got:
        height, width = size
        raise ArgumentError(
            f"the encoder {type(encoder).__name__} takes only images of {height}×{width} pixels, as its attribute "
            f"image_size says, got {got[0]}×{got[1]}; give image_size={height} where the images are opened, or to "
            "FrozenNetwork"
        )


def feature_layers(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> list[str]:
    """Returns the names of the layers that have feature maps, in the order in which they run.

    A `MapEncoder` names its layers itself. For other encoders, the layers are the submodules that are at most two
    levels deep and return a map `(B, C, h, w)`.

    Args:
        encoder: A module that maps `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Number of channels of the input.
        image_size: Width and height, in pixels, of the blank image on which the encoder runs; see `measure_encoder`.

    Raises:
        ArgumentError: The encoder does not run, or does not return a feature map.
    """
    if isinstance(encoder, MapEncoder):
        return encoder.layers()
    return layers_with_maps(encoder, lambda: measure_encoder(encoder, in_channels, image_size=image_size))


def measure_layers(encoder: nn.Module, in_channels: int) -> dict[str, EncoderShape]:
    """Measures the shape of the map of each layer by running the encoder on one blank image.

    Args:
        encoder: A module that maps `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Number of channels of the input.

    Raises:
        ArgumentError: The encoder does not run, or does not return a feature map.
    """
    layers = feature_layers(encoder, in_channels)
    with torch.no_grad():
        size, _ = dry_run(encoder, in_channels)
        with _without_side_effects(encoder):
            _, maps = output_and_maps(encoder, _blank_image(encoder, in_channels, size), layers)
    return {
        layer: EncoderShape(in_channels, map.shape[1], size[1] / map.shape[-1])
        for layer, map in zip(layers, maps, strict=True)
    }


def layers_with_maps(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """Returns the names of the submodules, at most two levels deep, that return maps `(B, C, h, w)`.

    Args:
        module: The module that contains the submodules.
        run: Function that runs the module once.
    """
    shallow = [name for name, _ in module.named_modules() if name and _depth(module, name) <= 2]
    with record_outputs(module, shallow) as outputs:
        run()
    return [name for name, output in outputs.items() if isinstance(output, Tensor) and output.dim() == 4]


def feature_maps(encoder: nn.Module, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Returns the feature maps of several layers from one forward pass of the encoder.

    Args:
        encoder: The encoder to run.
        inputs: Input of the encoder, `(B, in_channels, H, W)`.
        layers: Names of layers from `feature_layers`, or of deeper submodules that return maps; `""` is the output of
            the encoder.

    Returns:
        The feature map `(B, C, h, w)` of each layer, in the order of `layers`.

    Raises:
        UnknownNameError: The encoder has no such layer.
        ArgumentError: A layer did not run, or did not return a feature map, or the images do not have the only size
            that the encoder takes.

    Examples:
        >>> encoder = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 2, stride=2))
        >>> {name: tuple(map.shape) for name, map in feature_maps(encoder, torch.zeros(2, 1, 8, 8), ["1", "0"]).items()}
        {'1': (2, 8, 4, 4), '0': (2, 4, 8, 8)}
    """
    check_image_size(encoder, inputs)
    if isinstance(encoder, MapEncoder):
        # The output is not the map of the last layer, because the network may apply more to it, such as a norm.
        inner = [layer for layer in layers if layer]
        maps = encoder.feature_maps(inputs, inner) if inner else {}
        return maps if len(inner) == len(layers) else maps | {"": encoder(inputs)}
    modules = dict(encoder.named_modules())
    for layer in layers:
        if layer not in modules:
            raise UnknownNameError(
                f"the encoder has no layer {layer!r}; feature_layers() lists the layers with feature maps"
            )
    with record_outputs(encoder, layers) as outputs:
        encoder(inputs)
    maps = {}
    for layer in layers:
        output = outputs.get(layer)
        if not layer and isinstance(output, Tensor) and output.dim() == 2:
            output = output[:, :, None, None]  # networks whose output is pooled
        if not isinstance(output, Tensor) or output.dim() != 4:
            what = f"layer {layer!r}" if layer else f"the encoder {type(encoder).__name__}"
            raise ArgumentError(
                f"{what} returns no feature map (B, C, h, w); feature_layers() lists the layers that do"
            )
        maps[layer] = output
    return maps


def output_and_maps(encoder: nn.Module, inputs: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Returns the output of an encoder and the maps of its layers from one forward pass, as decoders need them.

    The encoder keeps its mode, so that it can be trained. If it is a `MapEncoder`, the maps of its layers may differ
    from those of `feature_maps` by the last norm of the network.

    Args:
        encoder: The encoder to run.
        inputs: Input of the encoder, `(B, in_channels, H, W)`.
        layers: Names of layers from `feature_layers`.

    Raises:
        UnknownNameError: The encoder has no such layer.
        ArgumentError: A layer did not run, or did not return a feature map, or the images have a wrong size.
    """
    if isinstance(encoder, MapEncoder):
        return encoder.output_and_maps(inputs, layers)
    maps = feature_maps(encoder, inputs, [*layers, ""])
    return maps[""], [maps[layer] for layer in layers]


@contextmanager
def record_outputs(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, object]]:
    """Records the outputs of submodules while the block runs the module.

    Args:
        module: The module that contains the submodules.
        names: Names of the submodules.

    Yields:
        A dictionary with the last output of each submodule that has run, in the order in which they finished first.
    """
    outputs: dict[str, object] = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            # The output is copied, because an activation that follows may change it in place.
            lambda _module, _inputs, output, name=name: outputs.update(
                {name: output.clone() if isinstance(output, Tensor) else output}
            )
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _depth(encoder: nn.Module, name: str) -> int:
    """Returns how many levels a submodule is below the encoder, not counting lists of modules."""
    parts = name.split(".")
    parents = (".".join(parts[: i + 1]) for i in range(len(parts) - 1))
    return len(parts) - sum(isinstance(encoder.get_submodule(parent), nn.ModuleList) for parent in parents)


def _blank_image(encoder: nn.Module, in_channels: int, size: tuple[int, int]) -> Tensor:
    like = next(encoder.parameters(), torch.empty(0))
    return torch.zeros(1, in_channels, *size, device=like.device, dtype=like.dtype)


@contextmanager
def _without_side_effects(module: nn.Module) -> Iterator[None]:
    """Switches to eval mode, in which BatchNorm keeps its statistics, and restores the random state afterward."""
    with eval_mode(module), torch.random.fork_rng(devices=[]):
        yield
