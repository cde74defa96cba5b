"""Features of frozen networks, computed once: all layers of a network in one pass over the images."""

import tempfile
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.representations.base import Backbone, Representation, frozen

__all__ = ["check_maps", "extract_features", "layers_by_backbone", "run_backbone"]

IN_MEMORY = 2**26  # bytes of one feature array above which it goes to a file, whose pages the system can drop
BATCH_SIZE = 64  # of 256 images takes a tenth longer on a processor, whose caches it does not fit


def extract_features(
    representations: Iterable[Representation],
    images: ImageStore,
    *,
    device: str | torch.device = "cpu",
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[tuple[Backbone, str], Tensor]:
    """Computes the features of all parts of representations, running each network once over the images.

    Args:
        representations: The representations; layers of one backbone share a pass.
        images: The images, all of which are used, in order.
        device: The device where the networks run.
        reduce: A function from each batch of maps to what is kept of it, such as `shrink`.

    Returns:
        Float32 features on the CPU by backbone and layer. `Representation.combine` makes the features of the
        representation from them. Large arrays are memory-mapped from an unnamed temporary file.

    Raises:
        ArgumentError: The features are not maps, or not finite.
    """
    features: dict[tuple[Backbone, str], Tensor] = {}
    for backbone, layers in layers_by_backbone(representations).items():
        maps = run_backbone(backbone, layers, images, device=device, reduce=reduce)
        features |= {(backbone, layer): values for layer, values in maps.items()}
    return features


def layers_by_backbone(representations: Iterable[Representation]) -> dict[Backbone, dict[str, str]]:
    """The layers of each backbone that representations are made of, with the name of a representation for messages."""
    wanted: dict[Backbone, dict[str, str]] = {}
    for one in representations:
        for part in one.parts:
            wanted.setdefault(part.backbone, {}).setdefault(part.layer, part.name)
    return wanted


def check_maps(name: str, maps: object, count: int) -> Tensor:
    """The maps in float32, if they are maps of `count` images."""
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != count:
        what = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ArgumentError(f"{name!r} gave features of shape {what} instead of ({count}, C, h, w)")
    return maps.float()


def run_backbone(
    backbone: Backbone,
    layers: Mapping[str, str],
    images: ImageStore,
    *,
    device: str | torch.device,
    reduce: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """Features of layers of one backbone, in one pass; `layers` maps each layer to its name in messages."""
    features: dict[str, Tensor] = {}
    if not layers:
        return features
    with frozen(backbone.module, device):
        for indices in torch.arange(len(images)).split(BATCH_SIZE):
            maps = backbone.feature_maps(images.images(indices).to(device), list(layers))
            for layer, name in layers.items():
                batch = check_maps(name, maps[layer], len(indices))
                if not batch.isfinite().all():
                    raise ArgumentError(f"{name!r} gave features that are not finite; its training may have diverged")
                batch = (batch if reduce is None else reduce(batch)).cpu()
                if layer not in features:  # filled in place: concatenating batches would hold all features twice
                    features[layer] = _allocate(len(images), *batch.shape[1:])
                if batch.shape[1:] != features[layer].shape[1:]:
                    raise ArgumentError(
                        f"{name!r} gave features of shape {tuple(features[layer].shape[1:])} for the first images and "
                        f"{tuple(batch.shape[1:])} for later ones; all images must give the same shape"
                    )
                features[layer][indices] = batch
    return features


def _allocate(*shape: int) -> Tensor:
    """Memory for features, or a temporary file that is removed with the last reference to it."""
    if 4 * int(np.prod(shape)) <= IN_MEMORY:
        return torch.empty(shape)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=shape))
