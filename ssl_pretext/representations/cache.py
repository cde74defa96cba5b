"""A folder of features and finished probes, each with all that it came from, so that none is taken for another."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import PretextError
from ssl_pretext.representations.base import Backbone, Representation
from ssl_pretext.representations.extraction import layers_by_backbone, run_backbone
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

__all__ = ["Cache", "cached_features", "code_identity", "is_cacheable", "is_library_code", "network_identity"]

FEATURES = "features"  # NumPy's format, but no .npy: in a folder of images that would be an image
PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "torchmetrics")  # whose code a network may consist of


class Cache:
    """A folder of results by identity: a JSON-ready mapping of everything that decides them.

    An entry is used only for an equal identity; one that is not whole counts as not there.

    Args:
        folder: Made when the first entry is written. It may be deleted at any time.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def features(self, identity: Mapping[str, Any]) -> Tensor | None:
        """The features `(N, ...)` kept under an identity, memory-mapped."""
        entry, file = self._entry(identity), self._file(identity, FEATURES)
        try:
            check_regular_file(file)
            return self._mapped(file) if entry and entry["result"] == file_sha256(file) else None
        except (PretextError, OSError):
            return None

    def store_features(self, identity: Mapping[str, Any], features: Tensor) -> Tensor:
        """Keeps features, and returns them memory-mapped."""
        path, array = self._file(identity, FEATURES), np.ascontiguousarray(features.numpy())
        with shared_lock(self.folder), atomic_write(path, needed=array.nbytes) as part, part.open("wb") as file:
            # Not `np.save`, which does not say why a disk takes no more.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        self.store_result(identity, file_sha256(path))  # last: an entry is whole once it has this
        return self._mapped(path)

    def result(self, identity: Mapping[str, Any]) -> Any:
        """The JSON-ready result kept under an identity; None if there is none."""
        entry = self._entry(identity)
        return None if entry is None else entry["result"]

    def store_result(self, identity: Mapping[str, Any], result: Any) -> None:
        """Keeps a JSON-ready result."""
        entry = json.loads(json.dumps(finite_json({"identity": identity, "result": result})))  # as it will be read
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
        # Copy on write: torch wants memory that it may write to, and the file stays as it is.
        return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))

    def _file(self, identity: Mapping[str, Any], ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(_canonical(identity).encode()).hexdigest()[:32]}.{ending}"


def cached_features(
    representations: Iterable[Representation],
    images: ImageStore,
    cache: Cache,
    *,
    device: str | torch.device,
    sha256: str,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[tuple[Backbone, str], Tensor]:
    """`extract_features`, with features looked up in a cache and stored there.

    Features of functions and of modules from other packages are not stored, because a change of their code would go
    unnoticed.

    Args:
        representations: The representations; layers of one backbone share a pass.
        images: The images, all of which are used, in order.
        cache: The cache.
        device: The device where the networks run.
        sha256: The hash of the images.
        reduce: A function of this library from each batch of maps to what is kept of it, such as `shrink`.

    Raises:
        ArgumentError: The features are not maps, or not finite.
    """
    found: dict[tuple[Backbone, str], Tensor] = {}
    for backbone, layers in layers_by_backbone(representations).items():
        if not is_cacheable(backbone):
            maps = run_backbone(backbone, layers, images, device=device, reduce=reduce)
        else:
            common = {
                "backbone": backbone.describe,
                "network": network_identity(backbone.module),
                "images": sha256,
                "reduce": None if reduce is None else reduce.__qualname__,
                "code": code_identity(),
                "device": torch.device(device).type,  # a GPU convolves in TF32 unless it is told otherwise
            }
            identities = {layer: {**common, "layer": layer} for layer in layers}
            known = {layer: cache.features(identity) for layer, identity in identities.items()}
            maps = {layer: features for layer, features in known.items() if features is not None}
            missing = {layer: name for layer, name in layers.items() if layer not in maps}
            computed = run_backbone(backbone, missing, images, device=device, reduce=reduce)
            maps |= {layer: cache.store_features(identities[layer], values) for layer, values in computed.items()}
        found |= {(backbone, layer): features for layer, features in maps.items()}
    return found


def code_identity() -> Mapping[str, str]:
    """The code that results come from: a hash of this library's, whose version stays while it is worked on."""
    return {"ssl_pretext": CODE, **{library: version(library) for library in LIBRARIES}}


def is_library_code(*parts: object) -> bool:
    """Whether functions or classes are this library's, so that `code_identity` sees a change of them."""
    return all(_home(part) == PACKAGE.name for part in parts)


def is_cacheable(backbone: Backbone) -> bool:
    """Whether all that decides the features is known: described, and made of code that `code_identity` covers."""
    if backbone.describe is None or not is_library_code(backbone.feature_maps):
        return False
    modules = list((backbone.module or nn.Identity()).modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return not hooked and {_home(type(module)) for module in modules} <= {*LIBRARIES, PACKAGE.name}


def network_identity(module: nn.Module | None) -> dict[str, str] | None:
    """What a network is: its structure, and a hash of all parameters and buffers with their names."""
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


CODE = _hash_of_code()  # of what was imported, even if the files change while a long run goes on


def _home(part: object) -> str:
    return str(getattr(part, "__module__", "")).partition(".")[0]


def _canonical(identity: Any) -> str:
    return json.dumps(identity, sort_keys=True)
