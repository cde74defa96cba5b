"""A cache folder for features and finished probes, each stored with everything that determines it."""

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import PretextError
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.extraction import Formats, in_float32, layers_by_backbone, run_backbone
from ssl_pretext.system.compute_format import ComputeFormat
from ssl_pretext.system.files import (
    atomic_write,
    check_regular_file,
    checksum_matches,
    file_sha256,
    finite_json,
    read_json,
    with_checksum,
    write_json,
)
from ssl_pretext.system.locks import shared_lock
from ssl_pretext.system.team import Team

__all__ = [
    "Cache",
    "are_cached",
    "cached_features",
    "code_identity",
    "is_cacheable",
    "is_library_code",
    "network_identity",
]

FEATURES = "features"  # file suffix; the format is that of .npy, which would count as an image in a folder of images
PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "torchmetrics")  # other libraries whose code networks may use


class Cache:
    """A folder of results, each stored under an identity: a mapping of everything that determines the result.

    Identities are mappings that JSON can hold. An entry is used only if its identity is equal to the given one. An
    entry that is incomplete or damaged counts as missing.

    Args:
        folder: Path of the folder, which is created when the first entry is stored. It can be deleted at any time.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def features(self, identity: Mapping[str, Any]) -> Tensor | None:
        """Returns the features `(N, ...)` stored under an identity, memory-mapped, or None if there are none."""
        entry, file = self._entry(identity), self._file(identity, FEATURES)
        try:
            check_regular_file(file)
            return self._mapped(file) if entry and entry["result"] == file_sha256(file) else None
        except (PretextError, OSError):
            return None

    def store_features(self, identity: Mapping[str, Any], features: Tensor) -> Tensor:
        """Stores features under an identity, and returns them memory-mapped."""
        path, array = self._file(identity, FEATURES), np.ascontiguousarray(features.numpy())
        with shared_lock(self.folder), atomic_write(path, needed=array.nbytes) as part, part.open("wb") as file:
            # `np.save` is not used, because its error for a full disk does not give the reason.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        self.store_result(identity, file_sha256(path))  # written last, because it makes the entry complete
        return self._mapped(path)

    def result(self, identity: Mapping[str, Any]) -> Any:
        """Returns the result stored under an identity, or None if there is none."""
        entry = self._entry(identity)
        return None if entry is None else entry["result"]

    def store_result(self, identity: Mapping[str, Any], result: Any) -> None:
        """Stores a result that JSON can hold under an identity."""
        # The checksum is computed on the values as they will be read, for instance lists in place of tuples.
        entry = json.loads(json.dumps(finite_json({"identity": identity, "result": result})))
        with shared_lock(self.folder):
            write_json(self._file(identity, "json"), with_checksum(entry))

    def _entry(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            entry = read_json(self._file(identity, "json"))
        except (PretextError, OSError):
            return None
        if not isinstance(entry, dict) or entry.keys() != {"identity", "result", "sha256"}:
            return None
        return entry if checksum_matches(entry) and _canonical(entry["identity"]) == _canonical(identity) else None

    @staticmethod
    def _mapped(file: Path) -> Tensor:
        # Copy on write, because PyTorch needs writable memory and the file must not change.
        return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))

    def _file(self, identity: Mapping[str, Any], ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(_canonical(identity).encode()).hexdigest()[:32]}.{ending}"


def cached_features(
    representations: Iterable[Representation],
    images: ImageStore,
    cache: Cache | None,
    *,
    device: str | torch.device,
    sha256: str,
    reduce: Callable[[Tensor], Tensor] | None = None,
    team: Team | None = None,
    formats: Formats = in_float32,
) -> dict[tuple[Backbone, str], Tensor]:
    """Computes features as `extract_features` does, or reads them from a cache, in which new features are stored.

    Features of functions and of modules from other packages are not stored, because a change of their code would go
    unnoticed.

    Args:
        representations: The representations; layers of one backbone are computed in one pass.
        images: The images, all of which are used, in order.
        cache: The cache to read features from and to store them in; None computes all of them.
        device: The device on which the networks run.
        sha256: The hash of the images.
        reduce: A function of this library that is applied to each batch of feature maps before it is stored, such as
            `shrink`.
        team: Processes that share the images, as for `extract_features`. The cache of its leader counts.
        formats: The precision and memory format of each network, as for `extract_features`.

    Returns:
        Features by backbone and layer, as from `extract_features`.

    Raises:
        ArgumentError: A representation returns something other than feature maps, or values that are not finite.
    """
    team = team or Team()
    found: dict[tuple[Backbone, str], Tensor] = {}
    for backbone, layers in layers_by_backbone(representations).items():
        computed_in = formats(backbone, list(layers), images)
        run = partial(run_backbone, backbone, device=device, reduce=reduce, team=team, computed_in=computed_in)
        if cache is None or not is_cacheable(backbone):
            maps = run(layers, images)
        else:
            identities = _feature_identities(backbone, layers, sha256, device, reduce, computed_in)
            known = {layer: cache.features(identity) for layer, identity in identities.items() if team.is_leader}
            maps = {layer: features for layer, features in known.items() if features is not None}
            missing = team.decide(partial(_without, layers, maps))
            computed = run(missing, images)
            maps |= {layer: cache.store_features(identities[layer], values) for layer, values in computed.items()}
        found |= {(backbone, layer): features for layer, features in maps.items()}
    return found


def are_cached(
    backbone: Backbone,
    layers: Iterable[str],
    cache: Cache,
    *,
    device: str | torch.device,
    sha256: str,
    reduce: Callable[[Tensor], Tensor] | None,
    computed_in: ComputeFormat,
) -> bool:
    """Whether `cached_features` would read the features of all these layers of images from the cache."""
    if not is_cacheable(backbone):
        return False
    identities = _feature_identities(backbone, layers, sha256, device, reduce, computed_in)
    return all(cache.result(identity) is not None for identity in identities.values())


def _feature_identities(
    backbone: Backbone,
    layers: Iterable[str],
    sha256: str,
    device: str | torch.device,
    reduce: Callable[[Tensor], Tensor] | None,
    computed_in: ComputeFormat,
) -> dict[str, dict[str, Any]]:
    common = {
        "backbone": backbone.describe,
        "network": network_identity(backbone.module),
        "images": sha256,
        "reduce": None if reduce is None else reduce.__qualname__,
        "code": code_identity(),
        "device": torch.device(device).type,  # by default, GPUs compute convolutions in TF32
        "computed_in": computed_in,
    }
    return {layer: {**common, "layer": layer} for layer in layers}


def _without(layers: Mapping[str, str], known: Container[str]) -> dict[str, str]:
    return {layer: name for layer, name in layers.items() if layer not in known}


@cache
def code_identity() -> Mapping[str, str]:
    """Identifies the code that results depend on: a hash of this library's source, and versions of other libraries."""
    return {"ssl_pretext": CODE, **{library: version(library) for library in LIBRARIES}}


def is_library_code(*parts: object) -> bool:
    """Whether functions or classes are defined in this library, so that `code_identity` changes when they change."""
    return all(_top_package(part) == PACKAGE.name for part in parts)


def is_cacheable(backbone: Backbone) -> bool:
    """Whether features can be cached: the backbone is described, and `code_identity` covers all of its code."""
    if backbone.describe is None or not is_library_code(backbone.feature_maps):
        return False
    modules = list((backbone.module or nn.Identity()).modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return not hooked and {_top_package(type(module)) for module in modules} <= {*LIBRARIES, PACKAGE.name}


def network_identity(module: nn.Module | None) -> dict[str, str] | None:
    """Identifies a network by hashes of its structure and of all parameters and buffers with their names."""
    if module is None:
        return None
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    structure = hashlib.sha256(str(module).encode()).hexdigest()
    return {"structure": structure, "weights": total.hexdigest()}


def _hash_of_code() -> str:
    files = sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


CODE = _hash_of_code()  # computed on import, since the files may change during a long run


def _top_package(part: object) -> str:
    return str(getattr(part, "__module__", "")).partition(".")[0]


def _canonical(identity: Any) -> str:
    return json.dumps(identity, sort_keys=True)
