"""Images in tar files, as WebDataset writes them: found, read from front to back, and each with its name.

By Python's `tarfile`, and fsspec for places such as `https://` and `s3://`; both are there with torch. The package
`webdataset` would add its pipelines, whose order depends on the number of workers, and decoders that take pickles.
"""

import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from typing_extensions import Self

from ssl_pretext.data.decode import MOST_BYTES
from ssl_pretext.data.listing import SUFFIXES as IMAGE_SUFFIXES
from ssl_pretext.data.photo import Content
from ssl_pretext.errors import DataError

__all__ = ["Member", "are_shards", "count_images", "find_shards", "is_remote", "read_shard", "size_of"]

SUFFIXES = (".tar", ".tar.gz", ".tgz")


class Member(NamedTuple):
    """A file in a shard, or the reason why it could not be read."""

    name: str
    content: Content | str


class _Header(tarfile.TarInfo):
    """A header that must be whole: `tarfile` takes a damaged one, unless it is the first, for the end of the file."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error


def are_shards(data: str) -> bool:
    """Whether a text names shards rather than a folder."""
    return data.endswith(SUFFIXES)


def find_shards(shards: str | Iterable[str]) -> list[str]:
    """The shards of patterns: braces as in `train-{0000..0009}.tar`, and on this machine `*` and `?`.

    Raises:
        DataError: There are none, or one of those on this machine is not there.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    found: list[str] = []
    for shard in chain.from_iterable(map(_expanded, patterns)):
        matching = [shard] if is_remote(shard) or os.path.exists(shard) else sorted(glob.glob(shard))
        if not matching:
            raise DataError(f"there is no shard {shard}; shards are tar files, such as 'train-{{0000..0009}}.tar'")
        found += matching
    if not found:
        raise DataError("there are no shards; name tar files, such as 'train-{0000..0009}.tar'")
    return found


def is_remote(shard: str) -> bool:
    """Whether a shard lies elsewhere, at a URL."""
    return "://" in shard


def size_of(shard: str) -> int:
    """Bytes of a shard.

    Raises:
        DataError: It is not there.
    """
    return int(_asked(shard, lambda files, path: files.info(path)["size"]) or 0)


def read_shard(shard: str) -> Iterator[Member]:
    """The images of a shard in its order; a damaged one ends with the reason.

    Raises:
        DataError: It cannot be opened.
    """
    file = _asked(shard, lambda files, path: files.open(path, "rb"))
    try:
        with file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as archive:
            for info in filter(_holds_image, archive):
                name = f"{shard.rpartition('/')[2]}/{info.name}"
                if info.size > MOST_BYTES:
                    yield Member(name, f"it holds {info.size:,} bytes, more than the {MOST_BYTES:,} of an image")
                elif (opened := archive.extractfile(info)) is not None:
                    yield Member(name, Content(info.name, opened.read()))
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Member(shard.rpartition("/")[2], f"the shard ends early: {type(error).__name__}: {error}")


def count_images(shard: str) -> int:
    """How many images a shard on this machine holds, by its headers; of a damaged one, up to the damage."""
    count = 0
    try:
        with tarfile.open(shard, tarinfo=_Header) as archive:
            for info in archive:
                count += _holds_image(info)
    except (tarfile.TarError, OSError, EOFError):
        pass  # reading it says why
    return count


def _holds_image(info: tarfile.TarInfo) -> bool:
    name = PurePosixPath(info.name)
    return info.isfile() and name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")


def _asked(shard: str, question: Callable[[Any, str], Any]) -> Any:
    import fsspec

    try:
        return question(*fsspec.core.url_to_fs(shard))
    except (OSError, ValueError, ImportError) as error:  # a protocol that is unknown, or whose library is not there
        raise DataError(f"the shard {shard} cannot be read: {type(error).__name__}: {error}") from error


def _expanded(pattern: str) -> list[str]:
    """Braces as the shell expands them: `{a,b}` and `{08..11}`.

    Examples:
        >>> _expanded("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        width = len(span[1])
        choices = [str(number).zfill(width) for number in range(int(span[1]), int(span[2]) + 1)]
    else:
        choices = braces[1].split(",")
    ends = _expanded(pattern[braces.end() :])
    return [pattern[: braces.start()] + choice + end for choice in choices for end in ends]
