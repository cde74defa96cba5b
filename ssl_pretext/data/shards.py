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
from functools import partial
from itertools import chain, groupby, product
from typing import IO, Any, NamedTuple, cast

from typing_extensions import Self

from ssl_pretext.data.listing import image_suffixes, why_not_read
from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.base import MAX_BYTES
from ssl_pretext.data.temporary import temporary_error
from ssl_pretext.errors import ArgumentError, DataError

__all__ = ["Member", "are_shards", "check_field", "count_images", "find_shards", "is_remote", "read_shard", "size_of"]

SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Of a sample's photographs, one in a lossy format is preferred: masks and depth maps are stored without loss.
LOSSY = {".avif", ".jfif", ".jpe", ".jpeg", ".jpg", ".webp"}
MAX_SHARDS = 10**6  # four times as many as the largest public data set has


class Member(NamedTuple):
    """An image in a shard, or the reason why something in it is not read.

    Attributes:
        name: Name of the shard and of the file in it, of the shard alone, or pattern of the files that are ignored.
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


def check_field(field: str) -> None:
    """Raises unless a field names image files.

    Raises:
        ArgumentError: The field does not end in the suffix of an image.
    """
    if os.path.splitext(f"name.{field}")[1].lower() not in image_suffixes():
        raise ArgumentError(
            "image_field must be what follows the first dot in the names of the images, such as 'jpg' or 'rgb.png', "
            f"got {field!r}"
        )


def read_shard(shard: str, field: str | None = None) -> Iterator[Member]:
    """Yields the images of a shard in its order, one for each sample.

    After the images, a `Member` with a reason stands for each field that was ignored or whose format is not read, and
    for damage of the shard.

    Args:
        shard: Path or URL of the shard.
        field: Field of the images; see `ImageStream`.

    Raises:
        DataError: The shard cannot be opened.
    """
    file = _call_fsspec(shard, lambda files, path: files.open(path, "rb"))
    name, samples = shard.rpartition("/")[2], _Samples(field)
    with file:
        for image in samples.images(partial(tarfile.open, fileobj=file, mode="r|*", tarinfo=_StrictHeader), _load):
            yield Member(f"{name}/{image.name}", image.content)
    for ignored in sorted(samples.ignored):
        yield Member(
            f"*.{ignored}",
            "one image is read for each sample, the files whose names are the same up to the first dot; these files "
            f"of {name} are ignored, unless image_field is {ignored!r}",
        )
    for unread, reason in sorted(samples.not_read.items()):
        yield Member(f"*.{unread}", reason)
    if (error := samples.damage) is not None:
        yield Member(name, f"the shard is damaged or truncated: {type(error).__name__}: {error}")


def count_images(shard: str, field: str | None = None) -> int:
    """Counts the images in a local shard from its headers; in a damaged shard, those before the damage.

    Raises:
        ReadError: The shard cannot be read now.
    """
    opener, samples = partial(tarfile.open, shard, tarinfo=_StrictHeader), _Samples(field)
    count = sum(1 for _ in samples.images(opener, lambda archive, info: ""))
    # The reason for other damage is reported by `read_shard`.
    if samples.damage is not None and (failure := temporary_error(samples.damage, shard)):
        raise failure from samples.damage
    return count


class _File(NamedTuple):
    sample: str
    rank: int
    field: str
    name: str
    content: Content | str


class _Samples:
    """The image of each sample of an archive.

    Args:
        field: Field of the images, or None to choose one by its suffix.

    Attributes:
        ignored: Fields with the suffix of an image that were not read.
        not_read: Fields with images in formats that are not read, each with the reason.
        damage: The error that ended the archive, if there was one.
    """

    def __init__(self, field: str | None) -> None:
        self.field, self.suffixes = field, image_suffixes()
        self.ignored: set[str] = set()
        self.not_read: dict[str, str] = {}
        self.damage: Exception | None = None

    def images(
        self, open_archive: Callable[[], tarfile.TarFile], load: Callable[[tarfile.TarFile, tarfile.TarInfo], Any]
    ) -> Iterator[_File]:
        """Yields the image of each sample, which may be damaged; nothing that follows damage of the archive."""
        for _, files in groupby(self._files(open_archive, load), key=lambda file: file.sample):
            image, *others = sorted(files, key=lambda file: file.rank)
            self.ignored.update(other.field for other in others)
            yield image

    def _files(self, open_archive: Callable[[], tarfile.TarFile], load: Callable[..., Any]) -> Iterator[_File]:
        try:
            with open_archive() as archive:
                for info in archive:
                    folder, _, name = info.name.rpartition("/")
                    stem, _, field = name.partition(".")
                    if not info.isfile() or not stem:  # the name of a hidden file begins with a dot
                        continue
                    rank = self._rank(field.lower())
                    if rank is not None:
                        yield _File(f"{folder}/{stem}", rank, field, info.name, load(archive, info))
                    elif self.field is None and os.path.splitext(name)[1].lower() in self.suffixes:
                        self.ignored.add(field)
                    elif self.field is None and (reason := why_not_read(name)):
                        self.not_read[field] = reason
        except (tarfile.TarError, OSError, EOFError) as error:
            self.damage = error

    def _rank(self, field: str) -> int | None:
        """The place of a field in the order of preference; None if it is not read."""
        if self.field is not None:
            return 0 if field == self.field.lower() else None
        suffix = f".{field}"
        if suffix not in self.suffixes:
            return None
        return 0 if suffix in LOSSY else 2 if suffix == ".npy" else 1


def _load(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Content | str:
    if info.size > MAX_BYTES:
        return f"the file has {info.size:,} bytes, above the limit of {MAX_BYTES:,}"
    return Content(info.name, cast(IO[bytes], archive.extractfile(info)).read())  # None only for folders and links


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
