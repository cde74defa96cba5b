"""What an encoder is, found by running it once: output channels, reduction, layers that give feature maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_pretext.encoders.map_encoder import MapEncoder
from ssl_pretext.encoders.modes import eval_mode
from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = [
    "EncoderShape",
    "dry_run",
    "feature_layers",
    "feature_maps",
    "layers_with_maps",
    "measure_encoder",
    "record_outputs",
]

PROBE_SIZES = (64, 224)  # sides of the image of the dry run; the second where the first is too small


@dataclass(frozen=True)
class EncoderShape:
    """Output of an encoder: `(B, in_channels, H, W)` to `(B, channels, H / reduction, W / reduction)`."""

    in_channels: int
    channels: int
    reduction: float


def measure_encoder(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> EncoderShape:
    """Runs the encoder on one blank image, leaving its mode, buffers and the random state as they were.

    Args:
        encoder: A module from `(B, in_channels, H, W)` to `(B, C, h, w)`.
        in_channels: Channels of its input.
        image_size: Side of the image; left out, 64, or for an encoder that does not take that, a larger one.

    Raises:
        ArgumentError: It does not run on `(1, in_channels, H, W)`, or does not return a `(1, C, h, w)` map.
    """
    with torch.no_grad():
        size, output = dry_run(encoder, in_channels, image_size=image_size)
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[0] != 1:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(f"an encoder returns a feature map (B, C, h, w), {type(encoder).__name__} returned {what}")
    return EncoderShape(in_channels, output.shape[1], size / output.shape[-1])


def dry_run(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> tuple[int, object]:
    """The size of a blank image that the encoder takes, and what it makes of it.

    Raises:
        ArgumentError: It does not run; the message is about the first size that was tried.
    """
    made_for = encoder.image_size if isinstance(encoder, MapEncoder) else PROBE_SIZES[1]
    failures: dict[int, Exception] = {}
    for size in [image_size] if image_size else [PROBE_SIZES[0], made_for]:
        try:
            with _undisturbed(encoder):
                return size, encoder(_blank(encoder, in_channels, size))
        except (RuntimeError, ValueError, TypeError) as error:
            failures.setdefault(size, error)
    size, first = next(iter(failures.items()))
    raise ArgumentError(
        f"the encoder {type(encoder).__name__} does not run on images of shape (1, {in_channels}, {size}, "
        f"{size}): {first}"
    ) from first


def feature_layers(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> list[str]:
    """Names of the layers that give one feature map per image, in running order.

    These are what a `MapEncoder` names, else the submodules at most two levels deep.
    """
    if isinstance(encoder, MapEncoder):
        return encoder.layers()
    return layers_with_maps(encoder, lambda: measure_encoder(encoder, in_channels, image_size=image_size))


def layers_with_maps(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the submodules, at most two levels deep, that give maps `(B, C, h, w)` while `run` runs the module."""
    shallow = [name for name, _ in module.named_modules() if name and _depth(module, name) <= 2]
    with record_outputs(module, shallow) as outputs:
        run()
    return [name for name, output in outputs.items() if isinstance(output, Tensor) and output.dim() == 4]


def feature_maps(encoder: nn.Module, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The feature maps `(B, C, h, w)` of several layers, out of one pass of the encoder.

    Args:
        encoder: The encoder to run.
        inputs: Its input, `(B, in_channels, H, W)`.
        layers: Names of `feature_layers`, or of deeper submodules that give maps; `""` is the encoder's output.

    Returns:
        The map of each name, in the order asked for.

    Raises:
        UnknownNameError: The encoder has no such layer.
        ArgumentError: The layer did not run, or gave no feature map.

    Examples:
        >>> encoder = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 2, stride=2))
        >>> {name: tuple(map.shape) for name, map in feature_maps(encoder, torch.zeros(2, 1, 8, 8), ["1", "0"]).items()}
        {'1': (2, 8, 4, 4), '0': (2, 4, 8, 8)}
    """
    if isinstance(encoder, MapEncoder):
        # Its output is no layer of it: what a network does last, such as a norm, comes after them.
        inner = [layer for layer in layers if layer]
        maps = encoder.feature_maps(inputs, inner) if inner else {}
        return maps if len(inner) == len(layers) else maps | {"": encoder(inputs)}
    modules = dict(encoder.named_modules())
    for layer in layers:
        if layer not in modules:
            raise UnknownNameError(f"the encoder has no layer {layer!r}; layers() lists those that give feature maps")
    with record_outputs(encoder, layers) as outputs:
        encoder(inputs)
    maps = {}
    for layer in layers:
        output = outputs.get(layer)
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise ArgumentError(f"layer {layer!r} gives no feature map (B, C, h, w); layers() lists those that do")
        maps[layer] = output
    return maps


@contextmanager
def record_outputs(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, object]]:
    """A dict that fills with the outputs of the named submodules, the last one of each, in the order they finish."""
    outputs: dict[str, object] = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            # A copy: an activation that follows may work in place.
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
    """Levels below the encoder; a list of modules adds none, since its items stand side by side."""
    parts = name.split(".")
    parents = (".".join(parts[: i + 1]) for i in range(len(parts) - 1))
    return len(parts) - sum(isinstance(encoder.get_submodule(parent), nn.ModuleList) for parent in parents)


def _blank(encoder: nn.Module, in_channels: int, size: int) -> Tensor:
    like = next(encoder.parameters(), torch.empty(0))
    return torch.zeros(1, in_channels, size, size, device=like.device, dtype=like.dtype)


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """In eval mode, in which BatchNorm keeps its statistics, and without a change of the random state."""
    with eval_mode(module), torch.random.fork_rng(devices=[]):
        yield
