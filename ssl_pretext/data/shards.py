"""Reading of WebDataset shards: finds tar files of images and reads them sequentially.

Shards are read with Python's `tarfile`, and with fsspec from places such as `https://` and `s3://`; PyTorch depends on
fsspec already. The package `webdataset` is not used: the order of its pipelines depends on the number of workers, and
its decoders load pickles.
"""

import glob
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, product
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from typing_extensions import Self

from ssl_pretext.data.decode import MAX_BYTES
from ssl_pretext.data.listing import SUFFIXES as IMAGE_SUFFIXES
from ssl_pretext.data.photo import Content
from ssl_pretext.errors import DataError

__all__ = ["Member", "are_shards", "count_images", "find_shards", "is_remote", "read_shard", "size_of"]

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_SHARDS = 10**6  # four times as many as the largest public data set has


class Member(NamedTuple):
    """A file in a shard, or the reason why it cannot be read.

    Attributes:
        name: Name of the shard and of the file in it.
        content: The file, or the reason.
    """

    name: str
    content: Content | str


class _StrictHeader(tarfile.TarInfo):
    """A tar header that raises if it is damaged or missing; `tarfile` takes both, except at the start, for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends without the end-of-archive mark, so files may be missing") from error


def are_shards(data: str) -> bool:
    """Whether a string names tar shards rather than a folder."""
    return data.endswith(SUFFIXES)


def find_shards(shards: str | Iterable[str]) -> list[str]:
    """Expands patterns to a list of shards.

    Args:
        shards: One or several paths or URLs, with braces as in `train-{0000..0009}.tar`; paths may also contain `*`
            and `?`.

    Raises:
        DataError: There are no shards, a pattern stands for more than a million, or a local shard does not exist.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    found: list[str] = []
    for shard in chain.from_iterable(map(_expand_braces, patterns)):
        matching = [shard] if is_remote(shard) or os.path.exists(shard) else sorted(glob.glob(shard))
        if not matching:
            raise DataError(f"there is no shard {shard}; pass tar files, such as 'train-{{0000..0009}}.tar'")
        found += matching
    if not found:
        raise DataError("there are no shards; pass tar files, such as 'train-{0000..0009}.tar'")
    return found


def is_remote(shard: str) -> bool:
    """Whether a shard is at a URL."""
    return "://" in shard


def size_of(shard: str) -> int:
    """Returns the size of a shard in bytes.

    Raises:
        DataError: The shard does not exist or cannot be reached.
    """
    return int(_call_fsspec(shard, lambda files, path: files.info(path)["size"]) or 0)


def read_shard(shard: str) -> Iterator[Member]:
    """Yields the images of a shard in its order; a damaged shard ends with a `Member` that has the reason.

    Raises:
        DataError: The shard cannot be opened.
    """
    file = _call_fsspec(shard, lambda files, path: files.open(path, "rb"))
    try:
        with file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictHeader) as archive:
            for info in filter(_holds_image, archive):
                name = f"{shard.rpartition('/')[2]}/{info.name}"
                if info.size > MAX_BYTES:
                    yield Member(name, f"the file has {info.size:,} bytes, above the limit of {MAX_BYTES:,}")
                elif (opened := archive.extractfile(info)) is not None:
                    yield Member(name, Content(info.name, opened.read()))
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Member(shard.rpartition("/")[2], f"the shard is damaged or truncated: {type(error).__name__}: {error}")


def count_images(shard: str) -> int:
    """Counts the images in a local shard from its headers; in a damaged shard, those before the damage."""
    count = 0
    try:
        with tarfile.open(shard, tarinfo=_StrictHeader) as archive:
            for info in archive:
                count += _holds_image(info)
    except (tarfile.TarError, OSError, EOFError):
        pass  # `read_shard` reports the reason
    return count


def _holds_image(info: tarfile.TarInfo) -> bool:
    name = PurePosixPath(info.name)
    return info.isfile() and name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")


def _call_fsspec(shard: str, function: Callable[[Any, str], Any]) -> Any:
    """Calls a function with the file system and the path of a shard."""
    import fsspec

    try:
        return function(*fsspec.core.url_to_fs(shard))
    except (OSError, ValueError, ImportError) as error:  # the last two for unknown or uninstalled protocols
        raise DataError(f"the shard {shard} cannot be read: {type(error).__name__}: {error}") from error


def _expand_braces(pattern: str) -> list[str]:
    """Expands braces like the shell: `{a,b}` and `{08..11}`.

    Raises:
        DataError: The pattern stands for more than a million shards.

    Examples:
        >>> _expand_braces("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)  # text and the insides of braces take turns
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MAX_SHARDS:
        raise DataError(
            f"the pattern {pattern} stands for more than {MAX_SHARDS:,} shards; write the numbers of the shards that "
            "exist"
        )
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(braces: str) -> list[str]:
    """What the inside of a pair of braces stands for, but at most one choice more than there may be shards."""
    if span := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", braces):
        width = len(span[1])
        numbers = range(int(span[1]), int(span[2]) + 1)[: MAX_SHARDS + 1]
        return [str(number).zfill(width) for number in numbers]
    return braces.split(",")
