"""Stream of images from WebDataset shards, in an order that only the seed and the epoch determine."""

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.arguments import whole_number
from ssl_pretext.data.build import CHUNKS_AHEAD, check_image_size, default_cache, in_order
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.listing import file_version
from ssl_pretext.data.photo import Content
from ssl_pretext.data.readers.registry import ReaderTable
from ssl_pretext.data.shards import Member, check_field, count_images, find_shards, is_remote, read_shard, size_of
from ssl_pretext.data.sources import Reading
from ssl_pretext.data.store import ImageStore
from ssl_pretext.errors import ArgumentError, DataError, ReadError
from ssl_pretext.system.cpus import available_cpus
from ssl_pretext.system.files import json_sha256, read_json, write_json
from ssl_pretext.system.processes import on_rank_zero, rank_info

__all__ = ["ImageStream"]

COUNT_RULE = 2  # changes when other files of a shard count as images
SAMPLE_SIZE = 2_048  # images from which statistics of the whole stream are estimated


class ImageStream:
    """Images of WebDataset shards (tar files), which are read again in each epoch and never stored.

    A sample consists of consecutive files whose names are the same up to the first dot, such as `0001.jpg`,
    `0001.seg.png` and `0001.cls`; the rest of a name is the field. One image is read for each sample: the file whose
    field is the suffix of an image alone (`jpg`, not `seg.png`). If there are several, a lossy format comes first and
    `.npy` last. `skipped` names the fields that were ignored.

    Shards are read in an order drawn from the seed and the epoch, and each process of a distributed run reads some of
    them. Each image is drawn from a buffer of encoded images and decoded in threads, like the files of a folder.

    Args:
        shards: One or several tar files, as paths or URLs. Braces, as in `"train-{0000..0009}.tar"`, are expanded; in
            paths, so are `*` and `?`.
        image_size: The shortest side is resized to this number of pixels and the center is cropped.
        channels: Number of channels; see `ImageStore.from_folder`. By default, it is that of the first readable
            image. Images with another number are skipped.
        image_field: Field of the images, such as `"rgb.png"`, if it is another one.
        epoch_images: Number of images per epoch. By default, it is the number of images in all shards, which is
            counted once from the headers of the shards.
        buffer: Number of encoded images in the shuffle buffer.
        missing: Value of the files that means missing; see `FolderOptions`.
        reader: Reader with options for the files of its suffixes, such as `ome.tif[z=max]`. A file must be one image.
        cache: Folder in which the count is stored; by default `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext`.

    Attributes:
        names: Paths or URLs of the shards.
        skipped: Images and shards that could not be read so far, as `{"name", "reason"}`.
        resize: Description of how the images are resized.

    Raises:
        ArgumentError: A number is not a positive integer, `image_field` does not name images, `missing` is no finite
            number, the reader does not take its options or reads no image of the first shard, or `epoch_images` is
            missing for shards at URLs.
        UnknownNameError: There is no such reader.
        DataError: There are no shards, a shard does not exist, or no image can be read.
    """

    def __init__(
        self,
        shards: str | Iterable[str],
        *,
        image_size: int,
        channels: int | None = None,
        image_field: str | None = None,
        epoch_images: int | None = None,
        buffer: int = 1_000,
        missing: float | Mapping[str, float] | None = None,
        reader: str | None = None,
        cache: str | Path | None = None,
    ) -> None:
        counts = {"image_size": image_size, "channels": channels, "epoch_images": epoch_images, "buffer": buffer}
        for name, number in counts.items():
            if number is not None:
                whole_number(name, number)
        check_image_size(image_size)
        if image_field is not None:
            check_field(image_field)
        self.names, self._field = find_shards(shards), image_field
        self._reading = Reading(image_size=image_size, channels=channels, missing=missing, reader=reader)
        self.image_size, self.buffer, self.resize = image_size, buffer, self._reading.description
        if reader is not None:
            members = (member.content for member in read_shard(self.names[0], image_field))
            ReaderTable(reader).check_use(file for file in members if isinstance(file, Content))
        if epoch_images is None and (remote := [shard for shard in self.names if is_remote(shard)]):
            raise ArgumentError(f"images are only counted in local shards; pass epoch_images for {remote[0]}")
        self._sizes = [size_of(shard) for shard in self.names]
        self._skipped: dict[str, str] = {}
        self._count = epoch_images or on_rank_zero("count", lambda: self._count_images(Path(cache or default_cache())))
        self._first: Decoded | None = None
        _, self._first = next(self._read(seed=None, epoch=0, rank=0, world=1))

    def __len__(self) -> int:
        return self._count

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The images and shards that could not be read so far, sorted by name."""
        return [{"name": name, "reason": reason} for name, reason in sorted(self._skipped.items())]

    @property
    def sha256(self) -> str:
        """A hash of the names and sizes of the shards and of the arguments; file contents are not hashed."""
        given = (self._field, self._reading.missing, self._reading.reader)
        options = "".join(f" {option}" for option in given if option is not None)
        return hashlib.sha256(f"{self._count} {self.buffer}{options}\n{self._shard_list()}".encode()).hexdigest()

    def digests(self) -> list[str]:
        """Returns the size of each shard in place of a hash, which would require reading the shard."""
        return [str(size) for size in self._sizes]

    def sample(self) -> ImageStore:
        """Returns the first 2,048 images of a shuffled pass in memory, as a sample of the stream."""
        named = self.read(seed=0, epoch=0, rank=0, world=1)
        names, pixels = zip(*islice(named, min(SAMPLE_SIZE, len(self))), strict=True)
        store = ImageStore.from_arrays(np.stack(pixels), [0] * len(names), names=names)
        store.resize = self.resize
        return store

    def read(self, *, seed: int | None, epoch: int, rank: int, world: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yields the names and pixels `(C, H, W)` of the images of one process, endlessly.

        After its last shard the process starts again with its first one.

        Args:
            seed: Seed of the order of shards and images; None keeps their order.
            epoch: Number of the epoch, which also determines the order.
            rank: Rank of the process.
            world: Number of processes, which divide the shards among them.

        Raises:
            ArgumentError: There are fewer shards than processes.
            DataError: No image in the shards of this process can be read.
        """
        return ((name, image.pixels) for name, image in self._read(seed=seed, epoch=epoch, rank=rank, world=world))

    def read_once(self, shard: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yields the names and pixels `(C, H, W)` of the images of one shard, one of `names`, in order and once."""
        return ((name, image.pixels) for name, image in self._decoded(read_shard(shard, self._field)))

    def _read(self, *, seed: int | None, epoch: int, rank: int, world: int) -> Iterator[tuple[str, Decoded]]:
        if len(self.names) < world:
            raise ArgumentError(
                f"{world} processes need at least {world} shards, got {len(self.names)}; write more shards"
            )
        order = list(self.names)
        if seed is not None:
            random.Random(f"{seed} {epoch}").shuffle(order)
        draw = None if seed is None else random.Random(f"{seed} {epoch} {rank}")
        while True:
            members = chain.from_iterable(read_shard(shard, self._field) for shard in order[rank::world])
            empty = True
            for named in self._decoded(members if draw is None else self._shuffled(members, draw)):
                empty = False
                yield named
            if empty:
                reasons = "; ".join(f"{item['name']}: {item['reason']}" for item in self.skipped[:3])
                raise DataError(f"no image can be read from {order[rank]} or the other shards: {reasons}")

    def _shuffled(self, members: Iterator[Member], draw: random.Random) -> Iterator[Member]:
        """Yields the members in a random order, drawing each from a buffer of the next ones."""
        buffer = list(islice(members, self.buffer))
        for member in members:
            chosen = draw.randrange(len(buffer))
            yield buffer[chosen]
            buffer[chosen] = member
        draw.shuffle(buffer)
        yield from buffer

    def _decoded(self, members: Iterator[Member]) -> Iterator[tuple[str, Decoded]]:
        threads = max(1, available_cpus() // rank_info().local)
        decode = partial(self._decode_one, decoder(self._reading))
        with (
            ThreadPoolExecutor(threads) as pool,
            closing(in_order(pool, decode, members, CHUNKS_AHEAD * threads)) as results,
        ):
            for name, result in results:
                if isinstance(result, str):
                    self._skipped[name] = result
                else:
                    yield name, result

    def _decode_one(self, decode: Callable[[Content], Decoded | str], member: Member) -> tuple[str, Decoded | str]:
        try:
            result = member.content if isinstance(member.content, str) else decode(member.content)
        except ReadError as error:  # the next epoch reads the image again
            result = str(error)
        if isinstance(result, str):
            return member.name, result
        if (channels := self._reading.channels) not in (None, len(result.pixels)):
            return member.name, f"the image has {result.description}, but channels={channels} was requested"
        if self._first is None or result.description == self._first.description:
            return member.name, result
        return member.name, f"the image has {result.description}, but the first image has {self._first.description}"

    def _count_images(self, cache: Path) -> int:
        # Sizes of tar files are multiples of 10 KiB, so name and size alone could confuse a shard with an earlier one.
        counted = [(os.path.realpath(name), file_version(name)) for name in self.names]
        file = cache / f"shards-{json_sha256([COUNT_RULE, self._field, counted])[:24]}.json"
        if not file.exists():
            with ThreadPoolExecutor(available_cpus()) as pool:
                write_json(file, {"images": sum(pool.map(count_images, self.names, repeat(self._field)))})
        return int(read_json(file)["images"])

    def _shard_list(self) -> str:
        named = zip(self.names, self._sizes, strict=True)
        return "\n".join(f"{name.rpartition('/')[2]} {size}" for name, size in named)
