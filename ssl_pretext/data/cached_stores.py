"""The stores in a cache folder: what they are of, how large they are, when they were used, and how to delete them."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from ssl_pretext.data.build import INDEX_FILE
from ssl_pretext.errors import CheckpointError
from ssl_pretext.system.files import folder_size, read_json, storage_errors
from ssl_pretext.system.locks import exclusive_lock

__all__ = ["CachedStore", "age_in_days", "delete_stores", "list_stores"]

# The names that `build` and `stream` give to stores, unfinished stores, lists of unreadable images, and counts. Nothing
# else in the folder is listed or deleted.
STORE = re.compile(r"[0-9a-f]{24}(\.part(-[0-9a-f]{8})?|\.skipped\.json)?|shards-[0-9a-f]{24}\.json")
DAY = 24 * 60 * 60


class CachedStore(NamedTuple):
    """A store in a cache folder, or what is left of one.

    Attributes:
        path: Folder of the store, or the file.
        bytes: Size of its files.
        used: Time at which it was last opened or written, in seconds since 1970.
        content: What it is, such as `1,500 images of /data/photos, 64×64 px`.
        folder: Folder of the images; None if it is not known.
    """

    path: Path
    bytes: int
    used: float
    content: str
    folder: str | None


def list_stores(cache: Path) -> list[CachedStore]:
    """Lists the stores in a cache folder, and the files of unfinished and refused ones, the last used first."""
    paths = [path for path in (cache.iterdir() if cache.is_dir() else []) if STORE.fullmatch(path.name)]
    return sorted(map(_describe, paths), key=lambda store: (-store.used, store.path))


def delete_stores(cache: Path, stores: Iterable[CachedStore]) -> None:
    """Deletes stores of a cache folder; they are built again when they are needed.

    Args:
        cache: The cache folder.
        stores: Stores from `list_stores`.

    Raises:
        FolderInUseError: Another process is building a store in the folder.
        StorageError: A file cannot be deleted.
    """
    chosen = list(stores)
    with exclusive_lock(cache) if chosen else nullcontext():
        for store in chosen:
            with storage_errors(store.path):
                # Renamed first, so that a store is never seen in part; locks remove what is left under this name.
                part = store.path.with_name(f"{store.path.name[:24]}.part-{secrets.token_hex(4)}")
                store.path.rename(part)
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def age_in_days(store: CachedStore) -> float:
    """Returns the number of days since a store was last used."""
    return (time.time() - store.used) / DAY


def _describe(path: Path) -> CachedStore:
    index = path / INDEX_FILE if path.is_dir() else path
    folder = None
    used = (index if index.exists() else path).stat().st_mtime
    if not path.is_dir():
        counted = path.name.startswith("shards-")
        content = "the number of images in shards" if counted else "the reasons why a folder was refused"
    elif path.suffix.startswith(".part"):
        content = "an unfinished store"
        used = max(os.stat(file).st_mtime for file in (path, *path.iterdir()))
    else:
        try:
            found = read_json(index)
            folder, (_, height, width) = str(found["folder"]), found["shape"]
            content = f"{len(found['labels']):,} images of {folder}, {height}×{width} px"
        except (CheckpointError, LookupError, TypeError, ValueError):
            content = "a store of another version, or a damaged one"
    return CachedStore(path, folder_size(path), used, content, folder)
