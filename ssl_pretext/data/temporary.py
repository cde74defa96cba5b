"""Errors of reading that say nothing about the file, such as missing memory, in contrast to those of a damaged file."""

import errno
import os
import re

from ssl_pretext.errors import MissingDependencyError, PretextError, ReadError

__all__ = ["is_readable", "temporary_error"]

# The errors of the operating system that do say something about the file: it is gone, it is not a file, or its content
# points to an impossible position. All others, such as those of a disk, a network or a limit, may be gone next time.
ABOUT_THE_FILE = {
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EOVERFLOW,
}
# Pillow and torch report a lack of memory with an OSError without a number, and with a RuntimeError.
OUT_OF_MEMORY = re.compile(r"out of memory|(can't|cannot|unable to) allocate|not enough memory", re.IGNORECASE)


def temporary_error(error: BaseException, name: object) -> PretextError | None:
    """Returns the error to raise instead of an error that says nothing about the file that was read.

    Such a file must not be treated as damaged, because it can be read when the cause is gone.

    Args:
        error: The error that was raised while the file was read.
        name: Name of the file, for the message.

    Returns:
        A `MissingDependencyError` or a `ReadError`; None if the error is one of the file.
    """
    if isinstance(error, MissingDependencyError):
        return error
    if isinstance(error, ImportError):
        return MissingDependencyError(f"reading {name} needs a package that cannot be imported: {error}")
    memory = isinstance(error, MemoryError) or (
        isinstance(error, OSError | RuntimeError) and OUT_OF_MEMORY.search(str(error))
    )
    system = isinstance(error, OSError) and error.errno not in {None, *ABOUT_THE_FILE}
    if not memory and not system:
        return None
    reason = "there is not enough memory" if memory else getattr(error, "strerror", None) or error
    failure = ReadError(
        f"{name} cannot be read now: {reason}. This says nothing about the file, so it is not left out. Remove the "
        "cause and repeat the call, or move the file elsewhere."
    )
    failure.errno = getattr(error, "errno", None)
    return failure


def is_readable(path: str | os.PathLike[str]) -> bool:
    """Whether this process has the right to read a path."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
