"""Stores of the samples of a dataset: they are read once into the same kind of folder as the images of files."""

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.build import FORMAT, default_cache, digest, open_or_build_folder, publish
from ssl_pretext.data.checksums import Checksums, checksum, damaged_store_error
from ssl_pretext.data.datasets import Key, Samples, target_array
from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.resizing import resize_mask
from ssl_pretext.data.sources import Reading
from ssl_pretext.data.staging import StagedGroup, Staging
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.files import check_free_space, write_text
from ssl_pretext.system.locks import shared_lock

__all__ = ["StoredSamples", "store_samples"]

NAMES = "names.jsonl"  # of classes, in the staging folder
TARGETS = "targets"  # staging folder of the targets, and later their file
TARGET_BUFFER = 2**12  # bytes; a larger one would hold the numbers of so many samples that much was read again

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredSamples:
    """The samples of a dataset after they were stored.

    Attributes:
        pixels: Memory-mapped pixels, `(N, C, H, W)`.
        index: Index of the store.
        checksums: Checksums of the images.
        targets: Targets `(N,)`, `(N, K)` or `(N, H, W)`, or None if the samples have none.
        names: Names of the classes by number, if the targets were names; else empty.
    """

    pixels: npt.NDArray[Any]
    index: dict[str, Any]
    checksums: Checksums | None
    targets: npt.NDArray[Any] | None
    names: list[str]


def store_samples(samples: Samples, *, target: Key | None, name: str | None, cache: str | Path | None) -> StoredSamples:
    """Reads the samples of a dataset one after another, and stores them in a mapped file.

    Args:
        samples: The samples.
        target: Key of the targets in dicts if `samples` names none; None stores no targets.
        name: Name of the dataset, for which the store is kept. By default, it is that of a Hugging Face dataset, which
            depends on its content; other stores are deleted when they are no longer used.
        cache: Folder of the stores, or None for `default_cache()`.

    Raises:
        ArgumentError: There are no samples, or they cannot be stored together.
        StorageError: The disk has too little space for the store, or its folder is not writable.
    """
    root = Path(cache or default_cache())
    identity = name or (f"{samples.name} {samples.fingerprint}" if samples.fingerprint else None)
    about = {
        "folder": f"the dataset {name or samples.name}",
        "resize": Reading(image_size=samples.image_size).description,
    }
    if identity is None:
        # Both are named like partial stores, which the locks of the folder remove after this process was killed.
        key = secrets.token_hex(12)
        folder, temporary = (root / f"{key}.part-{secrets.token_hex(4)}" for _ in range(2))
    else:
        count = len(samples.source) if samples.is_indexed else None
        wanted = [FORMAT, identity, count, samples.image, samples.target, target, samples.image_size]
        folder = root / hashlib.sha256(repr(wanted).encode()).hexdigest()[:24]

    def build(part: Path) -> None:
        if identity is None:
            part = temporary
        elif not samples.is_indexed:  # only what can be read from its middle can be resumed
            shutil.rmtree(part, ignore_errors=True)
        with _removing(part, kept=identity is not None):
            _publish(part, folder, *_stage(samples, target, part), about)
        if identity is not None:
            log.info("%s is stored in %s; ssl-pretext cache lists and deletes such stores", about["folder"], folder)

    with shared_lock(root):
        pixels, index, checksums = open_or_build_folder(folder, build)
        targets = _read_targets(folder, index)
        if identity is None:
            pixels.filename = None  # type: ignore[attr-defined]  # the file exists as long as it is mapped
            shutil.rmtree(folder)
    return StoredSamples(pixels, index, checksums, targets, index["samples"]["names"] if index["samples"] else [])


@contextmanager
def _removing(part: Path, *, kept: bool) -> Iterator[None]:
    """Removes a staging folder after an error; if `kept`, only after one that repeating the call will not change."""
    part.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        if isinstance(error, ArgumentError) or not kept:
            shutil.rmtree(part, ignore_errors=True)
        raise


class _ClassNames:
    """The numbers of the classes that targets name by text, in the order in which they first occur.

    Args:
        file: File of the names, from which a killed build is resumed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._numbers: dict[str, int] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            with suppress(ValueError):  # a line that was not written to its end
                self._numbers.setdefault(json.loads(line), len(self._numbers))
        write_text(file, "".join(map(_as_line, self._numbers)))

    @property
    def names(self) -> list[str]:
        """The names by their numbers."""
        return [*self._numbers]

    def number(self, target: Any, position: int) -> Any:
        """Returns the number of the class that a target names; a target that is no text as it is.

        Raises:
            ArgumentError: Only some targets are texts.
        """
        if isinstance(target, str) != bool(self._numbers) and position:
            raise ArgumentError(
                f"the target of sample {position} is {target!r}, and others are "
                f"{'names' if self._numbers else 'numbers'}; targets must all be names of classes, or all be numbers"
            )
        if not isinstance(target, str):
            return target
        if target not in self._numbers:
            self._numbers[target] = len(self._numbers)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_as_line(target))
        return self._numbers[target]


def _as_line(name: str) -> str:
    return json.dumps(name) + "\n"


def _stage(samples: Samples, target: Key | None, part: Path) -> tuple[StagedGroup, StagedGroup | None, list[str]]:
    """Reads all samples, or those that a killed build did not reach, into a staging folder."""
    from tqdm.auto import tqdm

    (part / TARGETS).mkdir(exist_ok=True)
    names = _ClassNames(part / NAMES)
    count = len(samples.source) if samples.is_indexed else None
    with Staging(part) as images, Staging(part / TARGETS, buffer=TARGET_BUFFER) as targets:
        start = min(images.done, targets.done)
        formats = [_format(staging) for staging in (images, targets)]
        progress = {"desc": "reading samples", "unit": "img", "initial": start, "total": count, "disable": None}
        for i, (given, given_target) in enumerate(tqdm(samples.read(start, target=target), **progress), start=start):
            image = samples.decode(given, i)
            samples.check_format(image, i, formats[0] or image)
            if count is not None and (formats[0] is None or i == start):
                check_free_space(part, (count - i) * image.pixels.nbytes)
            formats[0] = formats[0] or image.description
            if i >= images.done:
                images.add(i, str(i), image, digest(image.pixels), checksum(image.pixels))
            if i >= targets.done and given_target is None:
                targets.skip(i, "no target")
            elif i >= targets.done:
                array = target_array(names.number(given_target, i), i)
                if samples.image_size is not None and len(array) < array.size:
                    samples.check_mask(given, array, i)
                    array = resize_mask(array, samples.image_size)
                known = Decoded(array, array.dtype.name)
                formats[1] = formats[1] or known.description
                if known.description != formats[1]:
                    raise ArgumentError(
                        f"the target of sample {i} of {samples.name} has the shape {array.shape} and dtype "
                        f"{array.dtype}, and others are {formats[1]}; all targets need one shape and dtype"
                    )
                targets.add(i, str(i), known, digest(array), checksum(array))
    group, _ = images.majority()
    if group is None:
        raise ArgumentError(f"{samples.name} has no samples; pass a dataset or a loader with at least one image")
    group_of_targets, _ = targets.majority()
    if group_of_targets is not None and targets.unreadable:
        first = min(targets.unreadable)
        raise ArgumentError(f"sample {first} of {samples.name} has no target, and others have one")
    return group, group_of_targets, names.names


def _format(staging: Staging) -> str | None:
    group, _ = staging.majority()
    return None if group is None else group.description


def _publish(
    part: Path,
    folder: Path,
    images: StagedGroup,
    targets: StagedGroup | None,
    names: list[str],
    about: dict[str, Any],
) -> None:
    count = len(images.positions)
    index = about | {
        "classes": ["unlabeled"],
        "skipped": [],
        "unreadable": 0,
        "dtype": images.dtype,
        "shape": images.shape,
        "labels": [0] * count,
        "names": [str(i) for i in range(count)],
        "rows": list(range(count)),
        "channel_names": None,
        "digests": images.hashes,
        "checksums": images.checksums,
        "samples": None,
    }
    keep = []
    if targets is not None:
        described = {"dtype": targets.dtype, "shape": targets.shape, "checksums": targets.checksums}
        index["samples"] = described | {"names": names}
        keep = [targets.file.rename(part / f"{TARGETS}.raw")]
    publish(part, folder, images, index, keep=keep)


def _read_targets(folder: Path, index: dict[str, Any]) -> npt.NDArray[Any] | None:
    """Reads the targets of a store into memory."""
    described = index["samples"]
    if described is None:
        return None
    shape = len(index["labels"]), *described["shape"]
    try:
        found = np.fromfile(folder / f"{TARGETS}.raw", np.dtype(described["dtype"])).reshape(shape)
    except (OSError, ValueError) as error:
        raise damaged_store_error(folder, error) from error
    Checksums(described["checksums"], folder).check(found, np.arange(len(found)))
    # A number for each image, several numbers, a mask, or several maps; see `target_array`.
    if found.shape[1] == 1:
        found = found.squeeze(1)
    return found.squeeze((-2, -1)) if found.shape[-2:] == (1, 1) else found
