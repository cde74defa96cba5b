"""Which images a run began with, so that one that goes on with others can say what changed."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.system.files import read_json, write_text

__all__ = ["manifest_changes", "write_manifest"]

IMAGES_FILE = "images.json"
NAMED = 3  # files of each kind in a message


def write_manifest(out: Path, images: ImageStore | ImageStream) -> None:
    """Writes the names of the images, each with a hash of its pixels and its label; of a stream those of the shards."""
    # In ASCII, which holds names of bytes that are no text, too.
    write_text(out / IMAGES_FILE, json.dumps(_noted(images), separators=(",", ":")))


def manifest_changes(out: Path, images: ImageStore | ImageStream) -> str:
    """What differs between the images that were noted and these, in words."""
    before, now = _by_name(read_json(out / IMAGES_FILE)), _by_name(_noted(images))
    kinds = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "altered": [name for name in now if name in before and before[name][0] != now[name][0]],
        "relabeled": [name for name in now if name in before and before[name][1] != now[name][1]],
    }
    said = [_named(kind, names) for kind, names in kinds.items() if names]
    return "; ".join(said) or "their order, their size or the kind of their numbers"


def _noted(images: ImageStore | ImageStream) -> list[tuple[str, str, int]]:
    labels = images.labels.tolist() if isinstance(images, ImageStore) else [0] * len(images.names)
    return list(zip(images.names, images.digests(), labels, strict=True))


def _by_name(noted: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: rest for name, *rest in noted}


def _named(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})"
