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
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ssl_pretext.config import (
    check_regular,
    check_room,
    read_json,
    seal_holds,
    sealed,
    storing,
    whole_number,
    write_json,
)
from ssl_pretext.data.checksums import Checksums, checksum, damaged
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.piles import Pile, Piles
from ssl_pretext.data.scan import Listing
from ssl_pretext.errors import ArgumentError, CheckpointError, DataError
from ssl_pretext.folders import in_turn, shared

__all__ = ["AHEAD", "default_cache", "digest", "in_order", "open_or_build", "resize_rule"]

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


def open_or_build(
    listing: Listing, image_size: int | None, channels: int | None, cache: str | Path | None, max_unreadable: float
) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    """The memory-mapped pixels of listed files, `(N, C, H, W)`, the index beside them, and the checksums of all images.

    They are decoded on the first call.

    Raises:
        ArgumentError: The size or the number of channels is not positive, or `max_unreadable` is no share.
        DataError: Most images agree in nothing, too many cannot be read, or what was built before is damaged.
        StorageError: There is no room for them, or the folder cannot be written to.
    """
    for name, number in (("image_size", image_size), ("channels", channels)):
        if number is not None:
            whole_number(name, number)
    if not 0 <= max_unreadable <= 1:
        raise ArgumentError(f"max_unreadable is a share between 0 and 1, got {max_unreadable}")
    rule = resize_rule(image_size)
    key = hashlib.sha256(f"{FORMAT} {rule} {channels} {max_unreadable} {listing.fingerprint()}".encode())
    folder = Path(cache or default_cache()) / key.hexdigest()[:24]
    if not folder.exists():  # it appears whole, by renaming
        # In turn, since the processes of `torchrun` all want the same store at once.
        with shared(folder.parent), storing(folder), in_turn(folder.with_name(f"{folder.name}.lock")) as alone:
            if not folder.exists():  # else it was built while this process waited
                # One that several processes may be at, where there are no locks, is not gone on with.
                part = folder.with_name(f"{folder.name}.part" + ("" if alone else f"-{secrets.token_hex(4)}"))
                _build(listing, image_size, channels, folder, part, max_unreadable)
    return _open(folder)


def resize_rule(image_size: int | None) -> str:
    """How images are brought to a size, in words that are kept with them."""
    return "none" if image_size is None else f"shortest side to {image_size} px (bilinear, antialiased), centre crop"


def _open(folder: Path) -> tuple[npt.NDArray[Any], dict[str, Any], Checksums]:
    try:
        index = read_json(folder / INDEX_FILE)
        _check_index(index)
        shape, dtype = (len(index["labels"]), *index["shape"]), np.dtype(index["dtype"])
        file = folder / IMAGE_FILES[dtype.name]
        check_regular(file)
        if file.stat().st_size != dtype.itemsize * math.prod(shape):
            raise ValueError(f"{file.name} is not of the size that images {shape} have")
        return np.memmap(file, dtype, "r", shape=shape), index, Checksums(index["checksums"], folder)
    except (CheckpointError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise damaged(folder, error) from error


def _check_index(index: dict[str, Any]) -> None:
    """Raises one of several builtin errors, unless an index holds what `_build` wrote."""
    if index["format"] != FORMAT or not seal_holds(index):
        raise ValueError(f"{INDEX_FILE} is not as it was written")
    labels, classes, shape = index["labels"], index["classes"], index["shape"]
    alike = all(len(index[key]) == len(labels) for key in ("names", "digests", "checksums"))
    if not alike or len(shape) != 3 or min(shape) < 1 or not set(labels) <= set(range(len(classes))):
        raise ValueError(f"{INDEX_FILE} contradicts itself")


def _build(
    listing: Listing, image_size: int | None, channels: int | None, folder: Path, part: Path, max_unreadable: float
) -> None:
    """Decodes every image into a folder beside, or the rest of them, and renames it when it is whole."""
    part.mkdir(parents=True, exist_ok=True)  # `mkdtemp` would shut everybody else out, and the renamed folder too
    try:
        pile, index = _indexed(listing, _decode_all(listing, image_size, channels, part))
        if pile is None or index["unreadable"] > max_unreadable * len(listing.paths):
            raise _refusal(listing, index, max_unreadable, folder)
        if (left := len(listing.paths) - len(pile.places)) > WORTH_A_WARNING * len(listing.paths):
            shown = _shown(listing, index)
            log.warning(
                "%d of %d images are left out: %s; %s lists all", left, len(listing.paths), shown, folder / INDEX_FILE
            )
        write_json(part / INDEX_FILE, sealed({"format": FORMAT, "resize": resize_rule(image_size), **index}))
        images = pile.file.rename(part / IMAGE_FILES[pile.dtype])
        for other in {*part.iterdir()} - {part / INDEX_FILE, images}:
            other.unlink()
        try:
            part.replace(folder)
        except OSError:
            if not (folder / INDEX_FILE).exists():  # else another process was faster, with the same result
                raise
            shutil.rmtree(part)
    except Exception:  # after a kill or Ctrl-C it is gone on with
        shutil.rmtree(part, ignore_errors=True)
        raise


def _refusal(listing: Listing, index: Mapping[str, Any], max_unreadable: float, folder: Path) -> DataError:
    """The error of a folder of which too much cannot be read; all reasons are written beside."""
    count, unreadable = len(listing.paths), index["unreadable"]
    reasons = folder.with_name(f"{folder.name}.skipped.json")
    write_json(reasons, index["skipped"])
    share = f", more than {max_unreadable:.0%}" if unreadable > max_unreadable * count else ""
    error = DataError(
        f"{unreadable} of {count} images cannot be read{share}: {_shown(listing, index)}. {reasons} lists all. Mend or "
        "remove them."
    )
    error.skipped = index["skipped"]
    return error


def _shown(listing: Listing, index: Mapping[str, Any]) -> str:
    """The first few images that were opened in vain, with the reasons."""
    never_opened = {item["name"] for item in listing.skipped}
    opened = (item for item in index["skipped"] if item["name"] not in never_opened)
    return "; ".join(f"{item['name']}: {item['reason']}" for item in islice(opened, 3))


def _decode_all(listing: Listing, image_size: int | None, channels: int | None, part: Path) -> Piles:
    """Writes the pixels one after another, from where a killed process got to."""
    from tqdm import tqdm

    decode = decoder(image_size, channels)
    given_up = threading.Event()
    length = 1  # of a chunk, until it is known how large an image is

    def chunks() -> Iterator[list[int]]:
        indices = iter(range(piles.done, len(listing.paths)))
        while chunk := list(islice(indices, length)):
            yield chunk

    def work(chunk: list[int]) -> list[tuple[Decoded, str, int] | str]:
        images = (decode(listing.paths[i]) for i in chunk if not given_up.is_set())
        return [
            image if isinstance(image, str) else (image, digest(image.pixels), checksum(image.pixels))
            for image in images
        ]

    threads = 1 if _are_small(listing.paths) else os.cpu_count() or 1
    # Threads: Pillow, torch and tifffile work without Python's lock.
    with (
        Piles(part) as piles,
        ThreadPoolExecutor(threads) as pool,
        tqdm(initial=piles.done, total=len(listing.paths), desc="decoding images", unit="img", disable=None) as bar,
        closing(in_order(pool, work, chunks(), AHEAD * threads)) as results,
        ExitStack() as leaving,
    ):
        leaving.callback(given_up.set)  # or Ctrl-C would wait for whole chunks
        for i, result in enumerate(chain.from_iterable(results), start=piles.done):
            if isinstance(result, str):
                piles.leave_out(i, result)
            else:
                image, hashed, summed = result
                if length == 1:  # of the first one, and of such as fill a chunk each
                    check_room(part, (len(listing.paths) - i) * image.pixels.nbytes)
                length = min(CHUNK, max(1, CHUNK_BYTES // image.pixels.nbytes))
                if channels in (None, image.pixels.shape[0]):
                    piles.add(i, listing.names[i], image, hashed, summed)
                else:
                    piles.leave_out(i, f"it holds {image.about}, but channels={channels} was asked for")
            bar.update()
    return piles


def _indexed(listing: Listing, piles: Piles) -> tuple[Pile | None, dict[str, Any]]:
    """The pile that becomes a store, and what its index says."""
    pile, others = piles.most()
    reasons = [{"name": listing.names[i], "reason": why} for i, why in sorted((piles.unreadable | others).items())]
    skipped = sorted(listing.skipped + reasons, key=lambda item: item["name"])
    index = {"classes": listing.classes, "skipped": skipped, "unreadable": len(piles.unreadable), "labels": []}
    if pile is None:
        return None, index
    return pile, index | {
        "dtype": pile.dtype,
        "shape": pile.shape,
        "labels": [listing.labels[i] for i in pile.places],
        "names": [listing.names[i] for i in pile.places],
        "digests": pile.hashes,
        "checksums": pile.checksums,
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
