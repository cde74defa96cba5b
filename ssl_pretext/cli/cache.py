"""The command `ssl-pretext cache`, which lists or deletes the stores of decoded images."""

import logging
import os
from datetime import datetime

from ssl_pretext.cli.options import Cache
from ssl_pretext.data.build import default_cache
from ssl_pretext.data.cached_stores import CachedStore, age_in_days, delete_stores, list_stores
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.files import format_size

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(options: Cache) -> None:
    """Prints one line per store with its size and the time of its last use, or deletes stores.

    Raises:
        ArgumentError: The number of days is negative.
        PretextError: Another process is building a store, or a file cannot be deleted.
    """
    if options.older_than is not None and not options.older_than >= 0:
        raise ArgumentError(f"--older-than must be a number of days of at least 0, got {options.older_than}")
    cache = options.cache or default_cache()
    stores = [store for store in list_stores(cache) if _is_chosen(store, options)]
    if options.action == "clear":
        delete_stores(cache, stores)
    for store in stores:
        used = datetime.fromtimestamp(store.used).strftime("%Y-%m-%d %H:%M")
        log.info("%10s  %s  %s  %s", format_size(store.bytes), used, store.path.name, store.content)
    total = format_size(sum(store.bytes for store in stores))
    log.info("%s %s in %s", "deleted" if options.action == "clear" else "total:", total, cache)


def _is_chosen(store: CachedStore, options: Cache) -> bool:
    is_old = options.older_than is None or age_in_days(store) >= options.older_than
    return is_old and (options.data is None or store.folder == os.path.realpath(options.data))
