"""Feature extraction: all layers of a frozen network are computed in one pass over the images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ssl_pretext.color import finish_range_checks
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import Backbone, Representation, frozen
from ssl_pretext.system.compute_format import PLAIN, ComputeFormat, autocast, in_memory_format
from ssl_pretext.system.files import reserved_temporary_file
from ssl_pretext.system.team import Team

__all__ = ["Formats", "check_maps", "extract_features", "in_float32", "layers_by_backbone", "run_backbone"]

Formats = Callable[[Backbone, Sequence[str], ImageStore], ComputeFormat]  # such as `FeatureFormats`

IN_MEMORY = 2**26  # bytes; larger feature arrays go to a file, whose pages the operating system can drop from memory
BATCH_SIZE = 64  # batches of 256 images take a tenth longer on a CPU, because they do not fit its caches


def in_float32(_backbone: Backbone, _layers: Sequence[str], _images: ImageStore) -> ComputeFormat:
    """The format in which features are computed by default."""
    return PLAIN


def extract_features(
    representations: Iterable[Representation],
    images: ImageStore,
    *,
    device: str | torch.device = "cpu",
    reduce: Callable[[Tensor], Tensor] | None = None,
    team: Team | None = None,
    formats: Formats = in_float32,
) -> dict[tuple[Backbone, str], Tensor]:
    """Computes the features of all parts of representations, running each network once over the images.

    Args:
        representations: The representations; layers of one backbone are computed in one pass.
        images: The images, all of which are used, in order.
        device: The device on which the networks run.
        reduce: A function that is applied to each batch of feature maps before it is stored, such as `shrink`.
        team: Processes that share the images; only the leader gets features. By default this process does all.
        formats: The precision and memory format of each network, such as `FeatureFormats("auto", "auto")`.

    Returns:
        Float32 features on the CPU by backbone and layer, from which `Representation.combine_parts` computes the
        features of a representation. Large arrays are memory-mapped from an unnamed temporary file.

    Raises:
        ArgumentError: A representation returns something other than feature maps, or values that are not finite.
        StorageError: The folder for temporary files has no room for the features.
    """
    features: dict[tuple[Backbone, str], Tensor] = {}
    for backbone, layers in layers_by_backbone(representations).items():
        computed_in = formats(backbone, list(layers), images)
        maps = run_backbone(
            backbone, layers, images, device=device, reduce=reduce, team=team or Team(), computed_in=computed_in
        )
        features |= {(backbone, layer): values for layer, values in maps.items()}
    return features


def layers_by_backbone(representations: Iterable[Representation]) -> dict[Backbone, dict[str, str]]:
    """Returns the layers that representations need of each backbone, with the name of a representation for messages."""
    wanted: dict[Backbone, dict[str, str]] = {}
    for representation in representations:
        for part in representation.parts:
            wanted.setdefault(part.backbone, {}).setdefault(part.layer, part.name)
    return wanted


def check_maps(name: str, maps: object, count: int) -> Tensor:
    """Converts feature maps to float32.

    Args:
        name: Name of the representation for the message.
        maps: What the representation returned.
        count: Number of images in the batch.

    Raises:
        ArgumentError: `maps` is not a tensor of shape `(count, C, h, w)`, or its values are complex or sparse.
    """
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != count or 0 in maps.shape:
        what = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else f"type {type(maps).__name__}"
        raise ArgumentError(f"{name!r} returned features of {what}, but they must have the shape ({count}, C, h, w)")
    if maps.is_complex() or maps.layout != torch.strided:
        found, remedy = ("complex", "abs(), or real and imag as") if maps.is_complex() else ("sparse", "to_dense() for")
        raise ArgumentError(f"{name!r} returned {found} features; use {remedy} channels of real numbers")
    return maps.float()


def run_backbone(
    backbone: Backbone,
    layers: Mapping[str, str],
    images: ImageStore,
    *,
    device: str | torch.device,
    reduce: Callable[[Tensor], Tensor] | None,
    team: Team,
    computed_in: ComputeFormat,
) -> dict[str, Tensor]:
    """Computes features of layers of one backbone in one pass; `layers` maps each layer to its name in messages.

    Each process of the team computes some of the batches, and its leader gets all of them.
    """
    features: dict[str, Tensor] = {}
    if not layers:
        return features

    def computed(indices: Tensor) -> dict[str, Tensor]:
        batch = images.images(indices).to(device)
        with autocast(computed_in.precision, batch.device):
            maps = backbone.feature_maps(batch, list(layers))
        found = {}
        for layer, name in layers.items():
            values = check_maps(name, maps[layer], len(indices))
            if not values.isfinite().all():
                raise ArgumentError(
                    f"{name!r} returned features that are not finite; the training of its network may have diverged"
                )
            found[layer] = (values if reduce is None else reduce(values)).cpu()
        return found

    def keep(indices: Tensor, found: dict[str, Tensor]) -> None:
        for layer, batch in found.items():
            if layer not in features:  # filled in place, because concatenating batches would take twice the memory
                features[layer] = _allocate(len(images), *batch.shape[1:])
            if batch.shape[1:] != features[layer].shape[1:]:
                raise ArgumentError(
                    f"{layers[layer]!r} returned features of shape {tuple(features[layer].shape[1:])} for the first "
                    f"images and {tuple(batch.shape[1:])} for later ones; they must have the same shape for all images"
                )
            features[layer][indices] = batch

    with frozen(backbone.module, device), in_memory_format(backbone.module, computed_in.memory_format):
        team.share(torch.arange(len(images)).split(BATCH_SIZE), computed, keep)
        finish_range_checks()
    return features


def _allocate(*shape: int) -> Tensor:
    """Allocates memory for features, or a temporary file that is removed with the last reference to it."""
    size = 4 * math.prod(shape)
    if size <= IN_MEMORY:
        return torch.empty(shape)
    with reserved_temporary_file(size, f"features of {shape[0]:,} images") as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="r+", shape=shape))
