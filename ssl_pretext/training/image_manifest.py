"""The list of images that a run was started with, so that resuming it with others can report what changed."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.data.sample_stream import SampleStream
from ssl_pretext.system.files import read_json, write_text

__all__ = ["Images", "manifest_changes", "read_digests", "write_manifest"]

Images = ImageStore | ImageStream | SampleStream

IMAGES_FILE = "images.json"
MAX_NAMES = 3  # names of files that a message shows of each kind of change


def write_manifest(out: Path, images: Images) -> None:
    """Writes name, hash of the pixels and label of each image to `images.json`; for shards, those of the shards."""
    # Written in ASCII, because the escapes of JSON can also represent names that are not valid UTF-8.
    write_text(out / IMAGES_FILE, json.dumps(_entries(images), separators=(",", ":")))


def read_digests(out: Path) -> dict[str, str]:
    """Returns the names of the images that `write_manifest` listed, by the hashes of their pixels; empty if none."""
    file = out / IMAGES_FILE
    return {digest: name for name, digest, _ in read_json(file)} if file.exists() else {}


def manifest_changes(out: Path, images: Images) -> str:
    """Describes how these images differ from those that `write_manifest` listed in the same folder."""
    before, now = _by_name(read_json(out / IMAGES_FILE)), _by_name(_entries(images))
    changes = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "altered": [name for name in now if name in before and before[name][0] != now[name][0]],
        "relabeled": [name for name in now if name in before and before[name][1] != now[name][1]],
    }
    described = [_describe(kind, names) for kind, names in changes.items() if names]
    return "; ".join(described) or "their order, size or dtype has changed"


def _entries(images: Images) -> list[tuple[str, str, int]]:
    labels = images.labels.tolist() if isinstance(images, ImageStore) else [0] * len(images.names)
    return list(zip(images.names, images.digests(), labels, strict=True))


def _by_name(entries: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: rest for name, *rest in entries}


def _describe(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)} {kind} ({', '.join(names[:MAX_NAMES])}{more})"
