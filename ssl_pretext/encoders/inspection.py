"""What an encoder is, found by running it once: output channels, reduction, layers that give feature maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_pretext.errors import ArgumentError, UnknownNameError

__all__ = ["EncoderShape", "capture", "feature_layers", "measure_encoder"]

PROBE_SIZE = 64  # side of the image of the dry run


@dataclass(frozen=True)
class EncoderShape:
    """Output of an encoder: `(B, in_channels, H, W)` to `(B, channels, H / reduction, W / reduction)`."""

    in_channels: int
    channels: int
    reduction: float


def measure_encoder(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> EncoderShape:
    """Runs the encoder on one blank image, leaving its mode, buffers and the random state as they were.

    Raises:
        ArgumentError: It does not run on `(1, in_channels, H, W)`, or does not return a `(1, C, h, w)` map.
    """
    size = image_size or PROBE_SIZE
    with _undisturbed(encoder):
        try:
            output = encoder(_blank(encoder, in_channels, size))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArgumentError(
                f"the encoder {type(encoder).__name__} does not run on images of shape (1, {in_channels}, {size}, "
                f"{size}): {error}"
            ) from error
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[0] != 1:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(f"an encoder returns a feature map (B, C, h, w), {type(encoder).__name__} returned {what}")
    return EncoderShape(in_channels, output.shape[1], size / output.shape[-1])


def feature_layers(encoder: nn.Module, in_channels: int, *, image_size: int | None = None) -> list[str]:
    """Names of the submodules, at most two levels deep, that give one feature map per image, in running order."""
    ran: list[str] = []
    shallow = {name: module for name, module in encoder.named_modules() if name and _depth(encoder, name) <= 2}

    def note(name: str) -> None:
        if name not in ran:
            ran.append(name)

    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: (
                note(name) if isinstance(output, Tensor) and output.dim() == 4 else None
            )
        )
        for name, module in shallow.items()
    ]
    try:
        measure_encoder(encoder, in_channels, image_size=image_size)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def capture(encoder: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """The output of one submodule while the encoder runs.

    Raises:
        UnknownNameError: The encoder has no such submodule.
        ArgumentError: The submodule did not run, or gave no feature map.
    """
    modules = dict(encoder.named_modules())
    if layer not in modules or not layer:
        raise UnknownNameError(f"the encoder has no layer {layer!r}; layers() lists those that give feature maps")
    caught: list[Tensor] = []
    hook = modules[layer].register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        encoder(inputs)
    finally:
        hook.remove()
    if not caught or not isinstance(caught[-1], Tensor) or caught[-1].dim() != 4:
        raise ArgumentError(f"layer {layer!r} gives no feature map (B, C, h, w); layers() lists those that do")
    return caught[-1]


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
    # In eval mode BatchNorm keeps its statistics; the modes are restored one by one, as parts may differ.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
