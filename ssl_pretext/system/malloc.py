"""How long work on a processor uses its memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc
MMAPS = 65536  # its default
LARGEST = 2**25  # what its own threshold grows to at most, on 64 bits


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within the block, glibc keeps what one training step frees for the next.

    By default it returns every block of more than 32 MiB to the system, which hands it back page by page: a step on
    larger images or batches takes up to twice as long. Other C libraries are left as they are.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # thresholds that were set once no longer grow by themselves, so they stand where they would have ended
        libc.mallopt(M_MMAP_MAX, MMAPS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except OSError:
        return None
