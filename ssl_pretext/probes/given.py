"""What `evaluate` is given, checked: representations for each seed, seeds, images and the folder of the cache."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ssl_pretext.arguments import whole_number
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.controls import check_modes
from ssl_pretext.representations.base import Representation
from ssl_pretext.representations.cache import Cache, network_identity
from ssl_pretext.representations.network import FrozenNetwork
from ssl_pretext.representations.owner import BackboneOwner

__all__ = ["Given", "One", "as_cache", "as_seeds", "check_images", "describe", "has_network", "per_seed"]

One = Representation | BackboneOwner | nn.Module | str
Given = One | Sequence[One]


def as_seeds(seeds: object) -> list[int]:
    """Converts a number of seeds, or the seeds themselves, to a list."""
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        return list(range(whole_number("seeds", seeds)))
    chosen = [whole_number("a seed", seed, least=0) for seed in seeds]
    if large := [seed for seed in chosen if seed >= 2**63]:
        raise ArgumentError(f"a seed must be less than 2**63, got {large[0]}")
    if not chosen or len(set(chosen)) != len(chosen):
        raise ArgumentError(f"seeds must contain at least one seed and no seed twice, got {chosen}")
    return chosen


def per_seed(
    representations: Mapping[str, Given] | One, seeds: Sequence[int], images: ImageStore
) -> dict[str, list[Representation]]:
    """Converts what `evaluate` is given to a representation for each seed, by name.

    Raises:
        ArgumentError: It is neither a representation nor a mapping to some, a name is no text, or the networks of the
            seeds do not fit together.
    """
    representations = _named(representations)
    if wrong := [name for name in representations if not isinstance(name, str) or not name]:
        raise ArgumentError(f"the names of representations must be text, such as 'mine', got {wrong[0]!r}")
    found = {name: _of_seeds(name, given, seeds, images) for name, given in representations.items()}
    for name, of_seeds in found.items():
        _check_networks(name, of_seeds)
        for representation in of_seeds:
            check_modes(name, representation)
    return found


def _named(representations: object) -> Mapping[str, Given]:
    """Returns representations by name; a single one is called by its own name."""
    if isinstance(representations, str):
        return {representations: representations}
    if isinstance(representations, Representation | BackboneOwner | nn.Module):
        own = getattr(representations, "name", None)
        return {own if isinstance(own, str) and own else type(representations).__name__: representations}
    if not isinstance(representations, Mapping) or not representations:
        raise ArgumentError(
            "evaluate() needs a task, a network, the name of an encoder or a representation, or a mapping from names "
            f"to them with at least one entry, such as {{'mine': task}}; got {repr(representations)[:80]}"
        )
    return representations


def _of_seeds(name: str, given: Given, seeds: Sequence[int], images: ImageStore) -> list[Representation]:
    """The representation of each seed."""
    if isinstance(given, Sequence) and not isinstance(given, str | nn.Module):
        of_seeds = [_as_representation(name, each, images) for each in given]
    else:
        of_seeds = [_as_representation(name, given, images)] * len(seeds)
    if len(of_seeds) != len(seeds):
        raise ArgumentError(
            f"{name!r} is a sequence of {len(of_seeds)} representations for {len(seeds)} seeds; pass one for each seed"
        )
    if len({each.untrained is None for each in of_seeds}) > 1:
        raise ArgumentError(
            f"some representations of {name!r} have an untrained twin and some have none; pass only one kind"
        )
    if len({each.before is None for each in of_seeds}) > 1:
        raise ArgumentError(
            f"some representations of {name!r} started from published weights and some did not; pass only one kind"
        )
    return list(of_seeds)


def _as_representation(name: str, given: object, images: ImageStore) -> Representation:
    """The output of a task or a network, or the representation that is given."""
    if isinstance(given, Representation):
        return given
    if isinstance(given, BackboneOwner):
        return given.representation()
    if isinstance(given, str):
        return FrozenNetwork(given).representation()
    if isinstance(given, nn.Module):
        if images.num_channels != 3:
            raise ArgumentError(
                f"{name!r} is a module, and which of the {images.num_channels} channels it sees is unknown; pass "
                "FrozenNetwork(module, channels=...)"
            )
        return FrozenNetwork(given).representation()
    raise ArgumentError(
        f"{name!r} must be a task, a network, the name of an encoder or a representation, or a sequence with one of "
        f"them for each seed; got {type(given).__name__}"
    )


def _check_networks(name: str, of_seeds: Sequence[Representation]) -> None:
    """Raises if a network is given for some seeds but not for all: they would count as independent pretrainings."""
    if all(each is of_seeds[0] for each in of_seeds):
        return
    different = len({json.dumps(describe(each), sort_keys=True, default=str) for each in of_seeds})
    if 1 < different < len(of_seeds):
        raise ArgumentError(
            f"{name!r} has {different} different networks for {len(of_seeds)} seeds; pass another one for each seed, "
            "so that the interval can cover the pretraining, or one for all"
        )


def check_images(train: ImageStore, test: ImageStore) -> None:
    """Raises unless there are training and test images of one shape."""
    for split, store in (("train", train), ("test", test)):
        if len(store) == 0:
            raise ArgumentError(f"evaluate() got no {split} images")
    shapes = [(store.num_channels, store.image_size) for store in (train, test)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            "train and test must have images of the same size and number of channels; train has {} channels and size "
            "{}, test has {} channels and size {}".format(*shapes[0], *shapes[1])
        )


def as_cache(folder: object) -> Cache | None:
    """Opens the cache in a folder, if one is given."""
    if folder is None:
        return None
    if not isinstance(folder, str | Path) or not str(folder) or "\0" in str(folder):
        raise ArgumentError(f"cache must be the path of a folder or None, got {folder!r}")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ArgumentError(f"cache must be a folder, but {folder} is a file")
    return Cache(folder)


def has_network(representation: Representation) -> bool:
    """Whether a representation is computed by a network, unlike pixels."""
    return any(part.backbone.module is not None for part in representation.parts)


def describe(representation: Representation) -> dict[str, Any]:
    """The description of a representation in the probe card, with hashes of the weights of its networks."""
    modules = [part.backbone.module for part in representation.parts]
    networks = [network_identity(module) for module in modules if module is not None]
    described = representation.describe or {"kind": "function", "name": representation.name}
    drawn = {} if representation.initialization is None else {"initialization": representation.initialization}
    return {**described, **drawn, **({"networks": networks} if networks else {})}
