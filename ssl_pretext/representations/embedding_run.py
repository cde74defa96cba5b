"""Embedding of many images to a file: block by block, resumable, and shared by the processes of torchrun."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_pretext.data import ImageStore, ImageStream
from ssl_pretext.errors import CheckpointError, DataError
from ssl_pretext.representations.base import Representation
from ssl_pretext.representations.cache import Cache, network_identity
from ssl_pretext.representations.embedding import blocks_of, embed_block
from ssl_pretext.representations.feature_files import FeatureBlock, check_format, names_file, write_features
from ssl_pretext.representations.feature_formats import FeatureFormats
from ssl_pretext.system.compute_format import AUTO, CONTIGUOUS, FLOAT32
from ssl_pretext.system.files import atomic_write, read_json, write_json
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.team import Team
from ssl_pretext.version import __version__

__all__ = ["card_file", "embed_to_file"]

log = logging.getLogger(__name__)

IDENTITY_FILE = "identity.json"
LONG = 60.0  # seconds; the time that is left is only logged if it is longer
REPORTED = (1, 10, 100, 1000, 10_000)  # numbers of finished blocks after which it is logged


class _Result(NamedTuple):
    """The features of a block, and what could not be read since the block before it."""

    block: FeatureBlock
    skipped: list[dict[str, str]]


def card_file(path: Path) -> Path:
    """Returns the path of the JSON file that describes a file of features; it is written last."""
    return path.with_name(f"{path.name}.json")


def embed_to_file(
    representation: Representation,
    images: ImageStore | ImageStream,
    path: Path,
    *,
    settings: Mapping[str, Any],
    device: str = "cpu",
    precision: str = FLOAT32,
    memory_format: str = CONTIGUOUS,
) -> None:
    """Writes the feature vector of each image to a file, in the order of the images.

    Finished blocks are kept in the folder `PATH.parts` until the file is complete, so that the same call continues
    after an interruption. Memory does not grow with the number of images. Under `torchrun`, the processes share the
    blocks, and rank 0 writes the files.

    Args:
        representation: What is read from the network, such as `task.representation(pooling="gap")`.
        images: A store, or a stream, each shard of which is read once.
        path: Path of the file, which ends in `.npy`, `.parquet` or `.h5`; see `Embeddings.save`.
        settings: Where the images and the features come from, for the card beside the file, as values that JSON can
            hold.
        device: Device on which the network runs.
        precision: Precision in which the features are computed; see `BackboneOwner.embed`. What `"auto"` chose is kept
            when the work continues, and stands in the card.
        memory_format: Order of the values in memory, likewise.

    Raises:
        CheckpointError: The file or an unfinished run has other images, another network or other settings.
        ArgumentError: The features are not finite, or the images do not fit the network.
        DataError: No image of a stream can be read.
        StorageError: A file cannot be written.
    """
    check_format(path)
    identity = {
        "features": representation.describe,
        "network": network_identity(representation.parts[0].backbone.module),
        "images": images.sha256,
        "image_size": images.image_size,
        "precision": [precision, memory_format],
        "library": __version__,
    }
    blocks, parts = blocks_of(images), path.with_name(f"{path.name}.parts")
    team = Team()
    formats = FeatureFormats(
        precision, memory_format, num_images=len(images), device=device, cache=Cache(parts / "formats"), team=team
    )

    reported: set[str] = set()  # images that this process could not read, and has said so

    def compute(number: int) -> _Result:
        block = embed_block(representation, images, blocks[number], device=device, formats=formats)
        skipped = [item for item in images.skipped if item["name"] not in reported]
        reported.update(item["name"] for item in skipped)
        return _Result(block, skipped)

    def choose_formats() -> None:
        """Chooses before the processes share the blocks, because all of them have to take part in it."""
        if AUTO in (precision, memory_format):
            formats.choose(representation, images if isinstance(images, ImageStore) else images.sample())

    def work() -> None:
        if team.decide(lambda: _is_complete(path, parts, identity)):
            log.info("%s is complete; nothing is computed again", path)
            return
        with exclusive_lock(parts):
            remaining = team.decide(lambda: _remaining(parts, identity, len(blocks)))
            choose_formats()
            with _keeping(parts, remaining, len(blocks)) as keep:
                team.share(remaining, compute, keep)
            about = _publish(path, parts, len(blocks))
            computed_in = formats.describe(representation)
            write_json(card_file(path), {**about, **computed_in, **settings, "identity": identity})
            shutil.rmtree(parts)

    def help() -> None:
        if not team.decide(bool):
            remaining: list[int] = team.decide(list)
            choose_formats()
            team.share(remaining, compute, lambda *_: None)

    team.lead(work, help)


def _is_complete(path: Path, parts: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the file holds these features; it may be there without a card if a process was killed in between."""
    card = card_file(path)
    if not path.exists() or (not card.exists() and (parts / IDENTITY_FILE).exists()):
        return False
    if not card.exists() or read_json(card).get("identity") != _as_read(identity):
        raise CheckpointError(
            f"{path} exists and holds other features, of other images, another network or other settings; choose "
            "another file with --out, or remove it"
        )
    return True


def _remaining(parts: Path, identity: Mapping[str, Any], count: int) -> list[int]:
    """Returns the numbers of the blocks that are not finished, after creating the folder of the blocks."""
    file = parts / IDENTITY_FILE
    if not file.exists():
        write_json(file, identity)
    elif read_json(file) != _as_read(identity):
        raise CheckpointError(
            f"{parts} holds the unfinished features of other images, another network or other settings; run the same "
            "command as before to continue, choose another file with --out, or remove the folder"
        )
    return [number for number in range(count) if not _about(parts, number).exists()]


@contextmanager
def _keeping(parts: Path, remaining: Sequence[int], count: int) -> Iterator[Callable[[int, _Result], None]]:
    """Yields a function that stores a finished block and shows the progress."""
    from tqdm import tqdm

    start, done = time.monotonic(), 0
    with tqdm(total=count, initial=count - len(remaining), desc="embed", unit="block", disable=None) as bar:

        def keep(number: int, result: _Result) -> None:
            nonlocal done
            block = result.block
            with atomic_write(_features(parts, number), needed=block.features.nbytes) as part, part.open("wb") as file:
                np.lib.format.write_array(file, block.features, allow_pickle=False)
            # Written last, because it makes the block complete.
            write_json(_about(parts, number), {"names": block.names, "labels": block.labels, "skipped": result.skipped})
            bar.update()
            done += 1
            left = (time.monotonic() - start) / done * (len(remaining) - done)
            if done in REPORTED and left > LONG:
                log.info("%d of %d blocks are embedded; about %.0f minutes are left", done, len(remaining), left / 60)

        yield keep


def _publish(path: Path, parts: Path, count: int) -> dict[str, Any]:
    """Joins the blocks to one file; returns what the card says of it."""
    images, width, labeled = 0, 0, False
    for block in _blocks(parts, count):
        images, width, labeled = images + len(block.names), block.features.shape[1], block.labels is not None
    if images == 0:
        raise DataError(f"none of the images can be read; there is nothing to write to {path}")
    # Written in the folder of the blocks first, from which the next call removes what a killed process left.
    joined = parts / f"joined{path.suffix}"
    write_features(joined, _blocks(parts, count), count=images, width=width, labeled=labeled)
    if path.suffix == ".npy":
        names_file(joined).replace(names_file(path))
    joined.replace(path)
    skipped = {item["name"]: item for number in range(count) for item in read_json(_about(parts, number))["skipped"]}
    return {"images": images, "features": width, "skipped": [skipped[name] for name in sorted(skipped)]}


def _blocks(parts: Path, count: int) -> Iterator[FeatureBlock]:
    """Yields the finished blocks that have images, in order."""
    for number in range(count):
        about = read_json(_about(parts, number))
        if about["names"]:
            features = np.load(_features(parts, number), mmap_mode="r", allow_pickle=False)
            yield FeatureBlock(features, about["names"], about["labels"])


def _features(parts: Path, number: int) -> Path:
    return parts / f"{number:06}.npy"


def _about(parts: Path, number: int) -> Path:
    return parts / f"{number:06}.json"


def _as_read(value: Mapping[str, Any]) -> Any:
    """Returns a value as it is read from a JSON file, for instance with lists in place of tuples."""
    return json.loads(json.dumps(value))
