"""The list of images that a run was started with, so that later images can be compared with them.

Resuming with others is an error that says what changed, and probes count the test images that repeat some of them.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.data.duplicates import KnownImages
from ssl_pretext.data.sample_stream import SampleStream
from ssl_pretext.errors import CheckpointError
from ssl_pretext.saving.weights import read_tensors, save_tensors
from ssl_pretext.system.files import read_json, write_text

__all__ = ["Images", "manifest_changes", "read_known_images", "write_manifest"]

Images = ImageStore | ImageStream | SampleStream

IMAGES_FILE, HASHES_FILE = "images.json", "hashes.safetensors"
DIFFERENCES = 112  # of a channel at 8×8 pixels
MAX_NAMES = 3  # names of files that a message shows of each kind of change

log = logging.getLogger(__name__)


def write_manifest(out: Path, images: Images) -> None:
    """Writes name, hash of the pixels and label of each image to `images.json`; for shards, those of the shards.

    The perceptual hashes of the images are written to `hashes.safetensors`, unless the images are streamed: those of a
    stream are not known before they have been read.
    """
    (out / HASHES_FILE).unlink(missing_ok=True)  # of images of an earlier run
    if isinstance(images, ImageStore):
        known = KnownImages.of(images)
        tensors = {"hashes": known.hashes, "scale": known.scale, "mean": known.mean}
        save_tensors({**tensors, "are_photos": torch.tensor(known.are_photos)}, out / HASHES_FILE)
    # Written in ASCII, because the escapes of JSON can also represent names that are not valid UTF-8.
    write_text(out / IMAGES_FILE, json.dumps(_entries(images), separators=(",", ":")))


def read_known_images(out: Path) -> KnownImages | None:
    """Reads what `write_manifest` kept of the images of a run; None if there is nothing, or if they were streamed.

    Raises:
        CheckpointError: The files are damaged.
    """
    if not (out / IMAGES_FILE).exists():
        return None
    if not (out / HASHES_FILE).exists():
        log.info("%s was trained on streamed images, which are not compared with the test images", out)
        return None
    tensors, entries = read_tensors(out / HASHES_FILE, "the hashes of images"), read_json(out / IMAGES_FILE)
    names, digests = [name for name, *_ in entries], [digest for _, digest, _ in entries]
    try:
        known = KnownImages(names, digests, **{**tensors, "are_photos": bool(tensors["are_photos"])})
        is_whole = known.hashes.shape == (len(names), 8) and known.hashes.dtype == torch.uint8
        is_whole &= known.mean.shape == (DIFFERENCES * len(known.scale),)
    except (KeyError, TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{out / HASHES_FILE} does not fit {out / IMAGES_FILE}; delete it to probe without it")
    return known


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
