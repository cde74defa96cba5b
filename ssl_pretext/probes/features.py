"""Features of frozen networks, computed once: all layers of a network in one pass over the images."""

import tempfile
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.cache import Cache, code_identity, network_identity, traceable
from ssl_pretext.representations import Backbone, Representation, frozen

__all__ = ["check_maps", "extract"]

IN_MEMORY = 2**26  # bytes of one feature array above which it goes to a file, whose pages the system can drop
BATCH_SIZE = 64  # of 256 images takes a tenth longer on a processor, whose caches it does not fit


def extract(
    representations: Iterable[Representation],
    images: ImageStore,
    *,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
    sha256: str | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[tuple[Backbone, str], Tensor]:
    """Features of all parts of the representations, each network run once over the images.

    Args:
        representations: What is wanted; layers of one backbone share a pass.
        images: All of them, in order.
        device: Where the networks run.
        cache: Where features are looked up and kept; in memory without one, or in an unnamed file when large. Features
            of functions and of modules from elsewhere are not kept: a change of their code would not be seen.
        sha256: Of the images, where it is known.
        reduce: A function of this library that makes of each batch of maps what is kept, such as `shrink`.

    Returns:
        Float32 features on the CPU by backbone and layer; `Representation.combine` makes the representation of them.

    Raises:
        ArgumentError: Features are no maps, or not finite.
    """
    wanted: dict[Backbone, dict[str, str]] = {}
    for one in representations:
        for part in one.parts:
            wanted.setdefault(part.backbone, {}).setdefault(part.layer, part.name)
    found: dict[tuple[Backbone, str], Tensor] = {}
    for backbone, names in wanted.items():
        kept: dict[str, Tensor] = {}
        identities = {}
        if cache is not None and traceable(backbone):
            shared = {
                "backbone": backbone.describe,
                "network": network_identity(backbone.module),
                "images": sha256 or images.sha256,
                "reduce": None if reduce is None else reduce.__qualname__,
                "code": code_identity(),
                "device": torch.device(device).type,  # a GPU convolves in TF32 unless it is told otherwise
            }
            identities = {layer: {**shared, "layer": layer} for layer in names}
            looked_up = {layer: cache.features(identity) for layer, identity in identities.items()}
            kept = {layer: features for layer, features in looked_up.items() if features is not None}
        missing = {layer: name for layer, name in names.items() if layer not in kept}
        for layer, features in _run(backbone, missing, images, device, reduce).items():
            kept[layer] = (
                features if cache is None or not identities else cache.keep_features(identities[layer], features)
            )
        found |= {(backbone, layer): features for layer, features in kept.items()}
    return found


def check_maps(name: str, maps: object, count: int) -> Tensor:
    """The maps in float32, if they are maps of `count` images."""
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != count:
        what = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ArgumentError(f"{name!r} gave features of shape {what} instead of ({count}, C, h, w)")
    return maps.float()


def _run(
    backbone: Backbone,
    names: Mapping[str, str],
    images: ImageStore,
    device: str | torch.device,
    reduce: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    if not names:
        return features
    with frozen(backbone.module, device):
        for indices in torch.arange(len(images)).split(BATCH_SIZE):
            maps = backbone.maps(images.images(indices).to(device), list(names))
            for layer, name in names.items():
                batch = check_maps(name, maps[layer], len(indices))
                if not batch.isfinite().all():
                    raise ArgumentError(f"{name!r} gave features that are not finite; its training may have diverged")
                batch = (batch if reduce is None else reduce(batch)).cpu()
                if layer not in features:  # filled in place: joining batches would hold all features twice
                    features[layer] = _room(len(images), *batch.shape[1:])
                if batch.shape[1:] != features[layer].shape[1:]:
                    raise ArgumentError(
                        f"{name!r} gave features of shape {tuple(batch.shape[1:])} after some of "
                        f"{tuple(features[layer].shape[1:])}; they must be the same for all images"
                    )
                features[layer][indices] = batch
    return features


def _room(*shape: int) -> Tensor:
    """Space for features: in memory, or in a file that goes with the last reference to it."""
    if 4 * int(np.prod(shape)) <= IN_MEMORY:
        return torch.empty(shape)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=shape))
