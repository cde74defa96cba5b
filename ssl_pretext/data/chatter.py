"""Silence of the libraries that decode images, which would write lines of their own for many files."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silenced"]

LIBRARIES = ("PIL", "tifffile", "rasterio", "nibabel", "pydicom", "h5py", "zarr")


@contextmanager
def silenced() -> Iterator[None]:
    """Silences the warnings and the log records of the libraries in the block; their errors are raised as before.

    The filters of warnings belong to all threads, so the block must contain the threads that decode.
    """
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
