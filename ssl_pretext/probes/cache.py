"""A folder of features and finished probes, each with all that it came from, so that none is taken for another."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ssl_pretext
from ssl_pretext.config import (
    check_regular,
    finite,
    hash_of_file,
    read_json,
    replacing,
    seal_holds,
    sealed,
    write_json,
)
from ssl_pretext.errors import PretextError
from ssl_pretext.folders import shared
from ssl_pretext.representations import Backbone

__all__ = ["Cache", "code_identity", "network_identity", "own_code", "traceable"]

FEATURES = "features"  # NumPy's format, but no .npy: in a folder of images that would be an image
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
            check_regular(file)
            return self._mapped(file) if entry and entry["result"] == hash_of_file(file) else None
        except (PretextError, OSError):
            return None

    def keep_features(self, identity: Mapping[str, Any], features: Tensor) -> Tensor:
        """Keeps features, and returns them memory-mapped."""
        path, array = self._file(identity, FEATURES), np.ascontiguousarray(features.numpy())
        with shared(self.folder), replacing(path, needed=array.nbytes) as part, part.open("wb") as file:
            # Not `np.save`, which does not say why a disk takes no more.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
        self.keep_result(identity, hash_of_file(path))  # last: an entry is whole once it has this
        return self._mapped(path)

    def result(self, identity: Mapping[str, Any]) -> Any:
        """The JSON-ready result kept under an identity; None if there is none."""
        entry = self._entry(identity)
        return None if entry is None else entry["result"]

    def keep_result(self, identity: Mapping[str, Any], result: Any) -> None:
        """Keeps a JSON-ready result."""
        entry = json.loads(json.dumps(finite({"identity": identity, "result": result})))  # as it will be read
        with shared(self.folder):
            write_json(self._file(identity, "json"), sealed(entry))

    def _entry(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            entry = read_json(self._file(identity, "json"))
        except (PretextError, OSError):
            return None
        if not isinstance(entry, dict) or entry.keys() != {"identity", "result", "sha256"}:
            return None
        return entry if seal_holds(entry) and _canonical(entry["identity"]) == _canonical(identity) else None

    @staticmethod
    def _mapped(file: Path) -> Tensor:
        # Copy on write: torch wants memory that it may write to, and the file stays as it is.
        return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))

    def _file(self, identity: Mapping[str, Any], ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(_canonical(identity).encode()).hexdigest()[:32]}.{ending}"


def code_identity() -> Mapping[str, str]:
    """The code that results come from: a hash of this library's, whose version stays while it is worked on."""
    return {"ssl_pretext": CODE, **{library: version(library) for library in LIBRARIES}}


def own_code(*parts: object) -> bool:
    """Whether functions or classes are this library's, so that `code_identity` sees a change of them."""
    return all(_home(part) == ssl_pretext.__name__ for part in parts)


def traceable(backbone: Backbone) -> bool:
    """Whether all that decides the features is known: described, and made of code that `code_identity` covers."""
    if backbone.describe is None or not own_code(backbone.maps):
        return False
    modules = list((backbone.module or nn.Identity()).modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return not hooked and {_home(type(module)) for module in modules} <= {*LIBRARIES, ssl_pretext.__name__}


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
    files = sorted(Path(ssl_pretext.__path__[0]).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


CODE = _hash_of_code()  # of what was imported, even if the files change while a long run goes on


def _home(part: object) -> str:
    return str(getattr(part, "__module__", "")).partition(".")[0]


def _canonical(identity: Any) -> str:
    return json.dumps(identity, sort_keys=True)
