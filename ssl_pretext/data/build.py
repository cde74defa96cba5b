"""Decoded images on disk: built once, whole or not there at all, and opened memory-mapped."""

import hashlib
import logging
import math
import os
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ssl_pretext.arguments import (
    whole_number,
)
from ssl_pretext.data.checksums import Checksums, checksum, damaged
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.listing import Listing
from ssl_pretext.data.staging import StagedGroup, Staging
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError
from ssl_pretext.system.files import (
    check_free_space,
    check_regular_file,
    checksum_matches,
    read_json,
    storage_errors,
    with_checksum,
    write_json,
)
from ssl_pretext.system.locks import shared_lock, waiting_lock

__all__ = ["AHEAD", "StoreSpec", "default_cache", "digest", "in_order", "open_or_build", "resize_rule"]

FORMAT = 3
INDEX_FILE = "index.json"
IMAGE_FILES = {"uint8": "images.u8", "float32": "images.f32"}  # by the dtype of the pixels, which they are bare of
CHUNK = 16  # images that a thread hands over at once: handing over a small one costs a third of decoding it
CHUNK_BYTES = 2**19  # ... or fewer large ones
AHEAD = 4  # chunks in flight per thread while building, so that memory does not grow with the number of images
SMALL_FILE = 2**13  # bytes; threads that decode smaller ones mostly wait for each other, for Python's lock
WORTH_A_WARNING = 0.01  # share of images that are left out

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def default_cache() -> Path:
    """Where decoded images are kept unless a call says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SSL_PRETEXT_CACHE") or Path(home) / "ssl_pretext")


def digest(pixels: npt.NDArray[Any]) -> str:
    """A hash of the bytes of one image."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Which image store is wanted.

    Attributes:
        listing: The image files.
        image_size: The side that images are resized and cropped to, or None to keep their size.
        channels: The number of channels that images must have, or None to take that of most images.
        cache: The folder of stores; None for `default_cache()`.
        max_unreadable: The fraction of unreadable images above which the folder is refused.

    Raises:
        ArgumentError: The size or the number of channels is not positive, or the fraction is not between 0 and 1.
    """

    listing: Listing
    image_size: int | None = None
    channels: int | None = None
    cache: str | Path | None = None
    max_unreadable: float = 0.9

    def __post_init__(self) -> None:
        for name, number in (("image_size", self.image_size), ("channels", self.channels)):
            if number is not None:
                whole_number(name, number)
        if not 0 <= self.max_unreadable <= 1:
            raise ArgumentError(f"max_unreadable is a fraction between 0 and 1, got {self.max_unreadable}")

    @property
    def folder(self) -> Path:
        """The folder of the store, which is named after everything that determines its content."""
        wanted = f"{resize_rule(self.image_size)} {self.channels} {self.max_unreadable} {self.listing.fingerprint()}"
        key = hashlib.sha256(f"{FORMAT} {wanted}".encode()).hexdigest()
        return Path(self.cache or default_cache()) / key[:24]


def open_or_build(spec: StoreSpec) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    """Opens a store, whose images are decoded on the first call.

    Returns:
        The memory-mapped pixels `(N, C, H, W)`, the index beside them, and the checksums of the images.

    Raises:
        DataError: No format is that of most images, too many images are unreadable, or the store is damaged.
        StorageError: The disk has no room for the store, or its folder is not writable.
    """
    folder = spec.folder
    if not folder.exists():  # it appears when it is complete, by renaming
        # One process at a time, since all processes of `torchrun` want the same store at once.
        lock = folder.with_name(f"{folder.name}.lock")
        with shared_lock(folder.parent), storage_errors(folder), waiting_lock(lock) as locked:
            if not folder.exists():  # else it was built while this process waited
                # Without file locks a partial build is discarded, because another process may still be writing to it.
                part = folder.with_name(f"{folder.name}.part" + ("" if locked else f"-{secrets.token_hex(4)}"))
                _build(spec, folder, part)
    return _open(folder)


def resize_rule(image_size: int | None) -> str:
    """How images are brought to a size, in words that are kept with them."""
    return "none" if image_size is None else f"shortest side to {image_size} px (bilinear, antialiased), center crop"


def _open(folder: Path) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    try:
        index = read_json(folder / INDEX_FILE)
        _check_index(index)
        shape, dtype = (len(index["labels"]), *index["shape"]), np.dtype(index["dtype"])
        file = folder / IMAGE_FILES[dtype.name]
        check_regular_file(file)
        if file.stat().st_size != dtype.itemsize * math.prod(shape):
            raise ValueError(f"{file.name} is not of the size that images {shape} have")
        return np.memmap(file, dtype, "r", shape=shape), index, Checksums(index["checksums"], folder)
    except (CheckpointError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise damaged(folder, error) from error


def _check_index(index: dict[str, Any]) -> None:
    """Raises one of several builtin errors, unless an index holds what `_build` wrote."""
    if index["format"] != FORMAT or not checksum_matches(index):
        raise ValueError(f"{INDEX_FILE} is not as it was written")
    labels, classes, shape = index["labels"], index["classes"], index["shape"]
    alike = all(len(index[key]) == len(labels) for key in ("names", "digests", "checksums"))
    if not alike or len(shape) != 3 or min(shape) < 1 or not set(labels) <= set(range(len(classes))):
        raise ValueError(f"{INDEX_FILE} contradicts itself")


def _build(spec: StoreSpec, folder: Path, part: Path) -> None:
    """Decodes all images, or those that a killed build has left, into a folder that is renamed when it is complete."""
    listing = spec.listing
    part.mkdir(parents=True, exist_ok=True)  # `mkdtemp` would deny access to other users, also to the renamed folder
    try:
        group, index = _indexed(listing, _decode_all(spec, part))
        if group is None or index["unreadable"] > spec.max_unreadable * len(listing.paths):
            raise _refusal(spec, index, folder)
        if (left := len(listing.paths) - len(group.positions)) > WORTH_A_WARNING * len(listing.paths):
            shown = _shown(listing, index)
            log.warning(
                "%d of %d images are left out: %s; %s lists all", left, len(listing.paths), shown, folder / INDEX_FILE
            )
        content = {"format": FORMAT, "resize": resize_rule(spec.image_size), **index}
        write_json(part / INDEX_FILE, with_checksum(content))
        images = group.file.rename(part / IMAGE_FILES[group.dtype])
        for other in {*part.iterdir()} - {part / INDEX_FILE, images}:
            other.unlink()
        try:
            part.replace(folder)
        except OSError:
            if not (folder / INDEX_FILE).exists():  # else another process was faster, with the same result
                raise
            shutil.rmtree(part)
    except Exception:  # not after a kill or Ctrl-C, from which the build is resumed
        shutil.rmtree(part, ignore_errors=True)
        raise


def _refusal(spec: StoreSpec, index: Mapping[str, Any], folder: Path) -> DataError:
    """The error of a folder of which too much is unreadable; all reasons are written to a file."""
    count, unreadable = len(spec.listing.paths), index["unreadable"]
    reasons = folder.with_name(f"{folder.name}.skipped.json")
    write_json(reasons, index["skipped"])
    limit = f", more than {spec.max_unreadable:.0%}" if unreadable > spec.max_unreadable * count else ""
    error = DataError(
        f"{unreadable} of {count} images cannot be read{limit}: {_shown(spec.listing, index)}. {reasons} lists all. "
        "Repair or remove them."
    )
    error.skipped = index["skipped"]
    return error


def _shown(listing: Listing, index: Mapping[str, Any]) -> str:
    """The first few images that were opened in vain, with the reasons."""
    never_opened = {item["name"] for item in listing.skipped}
    opened = (item for item in index["skipped"] if item["name"] not in never_opened)
    return "; ".join(f"{item['name']}: {item['reason']}" for item in islice(opened, 3))


def _decode_all(spec: StoreSpec, part: Path) -> Staging:
    """Writes the pixels one after another, continuing where a killed process stopped."""
    from tqdm import tqdm

    listing, channels = spec.listing, spec.channels
    decode = decoder(spec.image_size, channels)
    given_up = threading.Event()
    length = 1  # of a chunk, until it is known how large an image is

    def chunks() -> Iterator[list[int]]:
        indices = iter(range(staging.done, len(listing.paths)))
        while chunk := list(islice(indices, length)):
            yield chunk

    def work(chunk: list[int]) -> list[tuple[Decoded, str, int] | str]:
        images = (decode(listing.paths[i]) for i in chunk if not given_up.is_set())
        return [
            image if isinstance(image, str) else (image, digest(image.pixels), checksum(image.pixels))
            for image in images
        ]

    threads = 1 if _are_small(listing.paths) else os.cpu_count() or 1
    # Threads, not processes: Pillow, torch and tifffile work without Python's lock.
    with (
        Staging(part) as staging,
        ThreadPoolExecutor(threads) as pool,
        tqdm(initial=staging.done, total=len(listing.paths), desc="decoding images", unit="img", disable=None) as bar,
        closing(in_order(pool, work, chunks(), AHEAD * threads)) as results,
        ExitStack() as leaving,
    ):
        leaving.callback(given_up.set)  # or Ctrl-C would wait for whole chunks
        for i, result in enumerate(chain.from_iterable(results), start=staging.done):
            if isinstance(result, str):
                staging.skip(i, result)
            else:
                image, hashed, summed = result
                if length == 1:  # for the first image, and for images that fill a chunk each
                    check_free_space(part, (len(listing.paths) - i) * image.pixels.nbytes)
                length = min(CHUNK, max(1, CHUNK_BYTES // image.pixels.nbytes))
                if channels in (None, image.pixels.shape[0]):
                    staging.add(i, listing.names[i], image, hashed, summed)
                else:
                    staging.skip(i, f"it holds {image.about}, but channels={channels} was asked for")
            bar.update()
    return staging


def _indexed(listing: Listing, staging: Staging) -> tuple[StagedGroup | None, dict[str, Any]]:
    """The group of images that becomes a store, and the index of the store."""
    group, others = staging.majority()
    reasons = [{"name": listing.names[i], "reason": why} for i, why in sorted((staging.unreadable | others).items())]
    skipped = sorted(listing.skipped + reasons, key=lambda item: item["name"])
    index = {"classes": listing.classes, "skipped": skipped, "unreadable": len(staging.unreadable), "labels": []}
    if group is None:
        return None, index
    return group, index | {
        "dtype": group.dtype,
        "shape": group.shape,
        "labels": [listing.labels[i] for i in group.positions],
        "names": [listing.names[i] for i in group.positions],
        "digests": group.hashes,
        "checksums": group.checksums,
    }


def _are_small(paths: Sequence[Path]) -> bool:
    """Whether files are small on average, by a few of them."""
    sizes = [path.stat().st_size for path in paths[:: max(1, len(paths) // CHUNK)] if os.path.isfile(path)]
    return sum(sizes) < SMALL_FILE * len(sizes)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Generator[R, None, None]:
    """`pool.map` that starts at most `ahead` items before the result that is asked for, and none once it is closed."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
