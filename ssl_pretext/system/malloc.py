"""Settings of glibc's memory allocator that speed up training on a CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from malloc.h of glibc
MMAPS = 65536  # glibc's default of M_MMAP_MAX
LARGEST = 2**25  # largest value to which glibc raises M_MMAP_THRESHOLD by itself on 64-bit systems


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Makes glibc reuse the memory that a training step frees, within the block.

    By default, glibc returns every block of more than 32 MiB to the operating system, which provides it again page by
    page. With larger images or batches, a step then takes up to twice as long. Other C libraries are not changed.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # glibc no longer adapts thresholds that were set, so they are set to the largest values it would choose
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
