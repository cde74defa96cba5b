"""Building of image stores: images are decoded once into a folder that appears atomically and is memory-mapped."""

import hashlib
import logging
import math
import os
import secrets
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.chatter import silenced
from ssl_pretext.data.checksums import Checksums, checksum, damaged_store_error
from ssl_pretext.data.decode import Decoded, LeftOut, decoder
from ssl_pretext.data.expand import Expanded, expand
from ssl_pretext.data.listing import Listing
from ssl_pretext.data.opening import OpenFiles
from ssl_pretext.data.photo import MAX_PIXELS
from ssl_pretext.data.plain_jpeg import may_be_plain_jpeg
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.sources import Reading, Source
from ssl_pretext.data.staging import StagedGroup, Staging
from ssl_pretext.data.temporary import temporary_error
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError, MissingDependencyError, ReadError
from ssl_pretext.system.cpus import available_cpus
from ssl_pretext.system.files import (
    check_free_space,
    check_regular_file,
    checksum_matches,
    folder_size,
    format_size,
    read_json,
    storage_errors,
    with_checksum,
    write_json,
)
from ssl_pretext.system.locks import shared_lock, waiting_lock

__all__ = [
    "CHUNKS_AHEAD",
    "INDEX_FILE",
    "StoreSpec",
    "check_image_size",
    "default_cache",
    "digest",
    "in_order",
    "open_or_build",
    "open_or_build_folder",
    "publish",
]

FORMAT = 6
INDEX_FILE = "index.json"
IMAGE_FILES = {"uint8": "images.u8", "float32": "images.f32"}  # raw pixels without a header, by their dtype
CHUNK = 16  # images that a thread returns at once: returning a small one costs a third of the time to decode it
CHUNK_BYTES = 2**19  # a chunk of large images has fewer of them, so that it stays below this size
CHUNKS_AHEAD = 4  # chunks in progress per thread; the limit keeps memory independent of the number of images
SMALL_FILE = 2**13  # bytes; threads that decode smaller files with Pillow mostly wait for Python's global lock
WARNING_FRACTION = 0.01  # a larger fraction of skipped images is logged as a warning

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def default_cache() -> Path:
    """The folder of image stores: `$SSL_PRETEXT_CACHE`, or `ssl_pretext` in `$XDG_CACHE_HOME` or `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SSL_PRETEXT_CACHE") or Path(home) / "ssl_pretext")


def digest(pixels: npt.NDArray[Any]) -> str:
    """Computes a hash of the bytes of one image."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Specification of an image store.

    Attributes:
        listing: The image files.
        reading: How the images are read; if it states a number of channels, images with another one are skipped.
        cache: Folder of the stores, or None for `default_cache()`.
        max_unreadable: Fraction of unreadable images above which building the store fails.

    Raises:
        ArgumentError: The size is too large, the fraction is not between 0 and 1, or the reader does not take its
            options or reads none of the files.
        UnknownNameError: There is no such reader.
    """

    listing: Listing
    reading: Reading
    cache: str | Path | None = None
    max_unreadable: float = 0.9

    def __post_init__(self) -> None:
        check_image_size(self.reading.image_size)
        files = (file for source in self.listing.sources for file in source.files)
        ReaderTable(self.reading.reader).check_use(files)
        if not 0 <= self.max_unreadable <= 1:
            raise ArgumentError(f"max_unreadable must be a fraction between 0 and 1, got {self.max_unreadable}")

    @property
    def folder(self) -> Path:
        """The folder of the store, which is named after everything that determines its content."""
        wanted = f"{self.reading.description} {self.reading} {self.max_unreadable} {self.listing.fingerprint()}"
        key = hashlib.sha256(f"{FORMAT} {wanted}".encode()).hexdigest()
        return Path(self.cache or default_cache()) / key[:24]


def open_or_build(spec: StoreSpec) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    """Opens an image store; the first call decodes the images and builds it.

    Args:
        spec: Specification of the store.

    Returns:
        The memory-mapped pixels `(N, C, H, W)`, the index of the store, and the checksums of the images.

    Raises:
        DataError: No format is shared by more than half of the images, too many images are unreadable, or the store
            is damaged.
        MissingDependencyError: A package that decodes an image is missing.
        ReadError: An image cannot be read now, but may be readable later. The next call continues with it.
        StorageError: The disk has too little space for the store, or its folder is not writable.
    """
    folder = spec.folder  # computed once: the files may change, and each of them is asked for its version
    return open_or_build_folder(folder, lambda part: _build(spec, folder, part))


def open_or_build_folder(
    folder: Path, build: Callable[[Path], None]
) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    """Opens the store in a folder; if there is none, builds it first, in one process at a time.

    Args:
        folder: The folder of the store.
        build: Function that builds the store in another folder, which a killed build may have left behind, and then
            calls `publish`.

    Raises:
        PretextError: As `open_or_build`.
    """
    if not folder.exists():  # a store appears by renaming a complete folder, so an existing one is complete
        # Only one process builds at a time, because all processes of `torchrun` open the same store at once.
        lock = folder.with_name(f"{folder.name}.lock")
        with shared_lock(folder.parent), storage_errors(folder), waiting_lock(lock) as locked:
            if not folder.exists():  # otherwise another process built it while this one waited
                # Without file locks a partial build is discarded, because another process may still be writing to it.
                part = folder.with_name(f"{folder.name}.part" + ("" if locked else f"-{secrets.token_hex(4)}"))
                build(part)
    return _open(folder)


def check_image_size(image_size: int | None) -> None:
    """Raises unless images of this height and width are within the limit for a photograph.

    Raises:
        ArgumentError: The size is larger.
    """
    if image_size is not None and image_size > (largest := math.isqrt(MAX_PIXELS)):
        raise ArgumentError(f"image_size must be at most {largest} pixels, got {image_size}")


def _open(folder: Path) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    try:
        index = read_json(folder / INDEX_FILE)
        _check_index(index)
        shape, dtype = (len(index["labels"]), *index["shape"]), np.dtype(index["dtype"])
        file = folder / IMAGE_FILES[dtype.name]
        check_regular_file(file)
        if file.stat().st_size != dtype.itemsize * math.prod(shape):
            raise ValueError(f"{file.name} does not have the size of images {shape}")
        pixels, checksums = np.memmap(file, dtype, "r", shape=shape), Checksums(index["checksums"], folder)
        with suppress(OSError):  # in a cache that this process may not write to
            os.utime(folder / INDEX_FILE)  # the time of the last use, after which stores can be deleted
        return pixels, index, checksums
    except (CheckpointError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        if failure := temporary_error(error.__cause__ or error, folder):
            raise failure from error
        raise damaged_store_error(folder, error) from error


def _check_index(index: dict[str, Any]) -> None:
    """Raises one of several built-in errors unless the index has the form that `_build` writes."""
    if index["format"] != FORMAT or not checksum_matches(index):
        raise ValueError(f"{INDEX_FILE} has changed since it was written")
    labels, classes, shape = index["labels"], index["classes"], index["shape"]
    same_length = all(len(index[key]) == len(labels) for key in ("names", "rows", "digests", "checksums"))
    same_length &= index["channel_names"] is None or len(index["channel_names"]) == shape[0]
    if not same_length or len(shape) != 3 or min(shape) < 1 or not set(labels) <= set(range(len(classes))):
        raise ValueError(f"{INDEX_FILE} is inconsistent")


def _build(spec: StoreSpec, folder: Path, part: Path) -> None:
    """Decodes all images, or those that a killed build did not reach, into a folder that is renamed when complete."""
    part.mkdir(parents=True, exist_ok=True)  # not `mkdtemp`, which would deny other users access to the store
    try:
        with silenced():
            expanded = expand(spec.listing, spec.reading)
            files, spec = spec.listing, replace(spec, listing=expanded.listing)
            listing = spec.listing
            staging = _decode_all(spec, part)
        group, index = _make_index(files, expanded, staging)
        if group is None and staging.left_out:
            raise _no_valid_tiles(spec, staging)
        if group is None or index["unreadable"] > spec.max_unreadable * len(listing.sources):
            raise _too_many_unreadable(spec, index, folder)
        count = len(listing.sources)
        if group.disagreement:
            log.warning(
                "the files disagree on the names of their channels, so the store has none: %s", group.disagreement
            )
        if staging.left_out:
            log.info("%d of %d tiles have too many missing pixels and are left out", len(staging.left_out), count)
        if (skipped := count - len(group.positions) - len(staging.left_out)) > WARNING_FRACTION * count:
            reasons = _first_reasons(listing, index)
            log.warning("%d of %d images were skipped: %s; %s lists all", skipped, count, reasons, folder / INDEX_FILE)
        about = {"folder": os.path.realpath(listing.folder), "resize": spec.reading.description}
        publish(part, folder, group, about | index)
        log.info(
            "%d images of %s are stored in %s (%s); ssl-pretext cache lists and deletes such stores",
            *(len(group.positions), listing.folder, folder, format_size(folder_size(folder))),
        )
    except (MissingDependencyError, ReadError):  # like a kill or Ctrl-C, they leave a partial build that is resumed
        raise
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _no_valid_tiles(spec: StoreSpec, staging: Staging) -> DataError:
    tiles = spec.reading.tiles
    return DataError(
        f"{len(staging.left_out)} of {len(spec.listing.sources)} tiles of {spec.listing.folder} have less than "
        f"{tiles.min_valid if tiles else 0:.0%} valid pixels, and no tile is left; lower min_valid, or check the value "
        "that means missing"
    )


def publish(
    part: Path, folder: Path, group: StagedGroup, index: Mapping[str, Any], *, keep: Sequence[Path] = ()
) -> None:
    """Turns a staging folder into a store, which appears in its place at once.

    Args:
        part: The staging folder.
        folder: The folder of the store.
        group: The images of the store.
        index: The index of the store.
        keep: Other files in the staging folder that belong to the store.
    """
    write_json(part / INDEX_FILE, with_checksum({"format": FORMAT, **index}))
    images = group.file.rename(part / IMAGE_FILES[group.dtype])
    for other in {*part.iterdir()} - {part / INDEX_FILE, images, *keep}:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    try:
        part.replace(folder)
    except OSError:
        if not (folder / INDEX_FILE).exists():  # otherwise another process has just built the same store
            raise
        shutil.rmtree(part)


def _too_many_unreadable(spec: StoreSpec, index: Mapping[str, Any], folder: Path) -> DataError:
    """Writes all reasons to a file and returns the error for a folder with too many unreadable images."""
    count, unreadable = len(spec.listing.sources), index["unreadable"]
    if not count:  # the files were read, but none of them is an image
        first = index["skipped"][0]
        error = DataError(f"{spec.listing.folder} holds no image that can be used; {first['name']}: {first['reason']}")
        error.skipped = index["skipped"]
        return error
    reasons = folder.with_name(f"{folder.name}.skipped.json")
    write_json(reasons, index["skipped"])
    limit = f", more than {spec.max_unreadable:.0%}" if unreadable > spec.max_unreadable * count else ""
    error = DataError(
        f"{unreadable} of {count} images cannot be read{limit}: {_first_reasons(spec.listing, index)}. {reasons} lists "
        "all of them. Repair, convert or remove these files, or give the options that the reasons name."
    )
    error.skipped = index["skipped"]
    return error


def _first_reasons(listing: Listing, index: Mapping[str, Any]) -> str:
    """The first few images that could not be used after opening, with the reasons."""
    never_opened = {item["name"] for item in listing.skipped}
    opened = (item for item in index["skipped"] if item["name"] not in never_opened)
    return "; ".join(f"{item['name']}: {item['reason']}" for item in islice(opened, 3))


def _decode_all(spec: StoreSpec, part: Path) -> Staging:
    """Decodes the images into a staging folder, starting after the last image of a build that was killed."""
    from tqdm.auto import tqdm

    listing, channels = spec.listing, spec.reading.channels
    at_most = max((len(source.files) for source in listing.sources), default=1)
    files = OpenFiles(spec.reading, ReaderTable(spec.reading.reader), at_most)
    decode = decoder(spec.reading, files)
    stopped = threading.Event()
    length = 1  # images per chunk; 1 until the size of an image is known

    def chunks() -> Iterator[list[int]]:
        indices = iter(range(staging.done, len(listing.sources)))
        while chunk := list(islice(indices, length)):
            yield chunk

    def work(chunk: list[int]) -> list[tuple[Decoded, str, int] | str]:
        images = (decode(listing.sources[i]) for i in chunk if not stopped.is_set())
        return [
            (image, digest(image.pixels), checksum(image.pixels)) if isinstance(image, Decoded) else image
            for image in images
        ]

    threads = 1 if _hold_the_lock(listing.sources) else available_cpus()
    # Threads suffice, because Pillow, torch, torchvision, tifffile and rasterio release Python's global lock.
    with (
        closing(files),
        Staging(part) as staging,
        ThreadPoolExecutor(threads) as pool,
        tqdm(initial=staging.done, total=len(listing.sources), desc="decoding images", unit="img", disable=None) as bar,
        closing(in_order(pool, work, chunks(), CHUNKS_AHEAD * threads)) as results,
        ExitStack() as at_exit,
    ):
        at_exit.callback(stopped.set)  # without it, Ctrl-C would wait until the threads have decoded their chunks
        for i, result in enumerate(chain.from_iterable(results), start=staging.done):
            if isinstance(result, LeftOut):
                staging.leave_out(i)
            elif isinstance(result, str):
                staging.skip(i, result)
            else:
                image, hashed, crc = result
                # The first image, or images so large that each fills a chunk. How many tiles are left out is not known.
                if length == 1 and spec.reading.tiles is None:
                    check_free_space(part, (len(listing.sources) - i) * image.pixels.nbytes)
                length = min(CHUNK, max(1, CHUNK_BYTES // image.pixels.nbytes))
                if channels in (None, image.pixels.shape[0]):
                    staging.add(i, listing.names[i], image, hashed, crc)
                else:
                    staging.skip(i, f"the image has {image.description}, but channels={channels} was requested")
            bar.update()
    return staging


def _make_index(files: Listing, expanded: Expanded, staging: Staging) -> tuple[StagedGroup | None, dict[str, Any]]:
    """The group of images that becomes the store, and the index of the store."""
    listing, rows = expanded.listing, expanded.rows
    group, others = staging.majority()
    reasons = [{"name": listing.names[i], "reason": why} for i, why in sorted((staging.unreadable | others).items())]
    tiles = Counter(rows)
    for row, count in Counter(rows[i] for i in staging.left_out).items():
        why = f"{count} of {tiles[row]} tiles are left out, because too many of their pixels are missing"
        reasons.append({"name": files.names[row], "reason": why})
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
        "rows": [rows[i] for i in group.positions],
        "channel_names": None if group.disagreement else group.channel_names,
    }


def _hold_the_lock(sources: Sequence[Source]) -> bool:
    """Whether the files are small on average, and not decoded by torchvision; estimated from a few of them."""
    few = [file for source in sources[:: max(1, len(sources) // CHUNK)] for file in source.files]
    few = [file for file in few if not may_be_plain_jpeg(file)]
    sizes = [file.stat().st_size for file in few if os.path.isfile(file)]
    return sum(sizes) < SMALL_FILE * len(sizes)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Generator[R, None, None]:
    """Maps a function over items in threads and yields the results in order, as `pool.map` does.

    Args:
        pool: The threads.
        function: The function that is called with each item.
        items: The items, which are read only as far as needed.
        ahead: Number of items that may be started before the result that is requested. No item is started after the
            generator is closed.
    """
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
