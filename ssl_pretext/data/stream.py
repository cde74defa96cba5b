"""Images streamed from WebDataset shards: in an order that seed and epoch decide, and kept nowhere."""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_pretext.arguments import whole_number
from ssl_pretext.data.build import AHEAD, default_cache, in_order, resize_rule
from ssl_pretext.data.decode import Decoded, decoder
from ssl_pretext.data.shards import Member, count_images, find_shards, is_remote, read_shard, size_of
from ssl_pretext.data.store import ImageStore
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.system.files import json_sha256, read_json, write_json
from ssl_pretext.system.processes import on_rank_zero, rank_info

__all__ = ["ImageStream"]

SAMPLE = 2_048  # images that stand for all where something is measured


class ImageStream:
    """Images of WebDataset shards (tar files), read anew in each epoch; nothing is kept of them.

    Shards come in an order drawn from seed and epoch, and each process of a distributed run takes its share of them.
    The next image is drawn from a buffer of those that were read, and decoded by threads, as files of a folder are.

    Args:
        shards: Tar files: a path or URL with braces, such as `"train-{0000..0009}.tar"`, or on this machine `*`; or
            several.
        image_size: The shortest side is resized to it, and the center cut out.
        channels: As for `ImageStore.from_folder`; the first image that can be read decides if it is left out, and
            others than it are left out.
        epoch_images: How many images make an epoch, of those that the shards hold; all if left out, which are counted
            by the headers of the shards, once.
        buffer: Images, still encoded, of which the next is drawn.
        cache: Folder where the count is kept; `$SSL_PRETEXT_CACHE` or `~/.cache/ssl_pretext` if left out.

    Attributes:
        names: The shards.
        skipped: What could not be read so far, `{"name", "reason"}` each.
        resize: How the images are resized.

    Raises:
        ArgumentError: A number is not positive, or `epoch_images` is left out for shards that lie elsewhere.
        DataError: There are no shards, one is not there, or no image can be read.
    """

    def __init__(
        self,
        shards: str | Iterable[str],
        *,
        image_size: int,
        channels: int | None = None,
        epoch_images: int | None = None,
        buffer: int = 1_000,
        cache: str | Path | None = None,
    ) -> None:
        counts = {"image_size": image_size, "channels": channels, "epoch_images": epoch_images, "buffer": buffer}
        for name, number in counts.items():
            if number is not None:
                whole_number(name, number)
        self.names = find_shards(shards)
        self.image_size, self.buffer, self.resize = image_size, buffer, resize_rule(image_size)
        if epoch_images is None and (far := [shard for shard in self.names if is_remote(shard)]):
            raise ArgumentError(f"images are counted in shards on this machine; for {far[0]} give epoch_images")
        self._sizes = [size_of(shard) for shard in self.names]
        self._decode, self._channels = decoder(image_size, channels), channels
        self._skipped: dict[str, str] = {}
        self._count = epoch_images or on_rank_zero("count", lambda: self._counted(Path(cache or default_cache())))
        self._like: Decoded | None = None
        _, self._like = next(self._read(seed=None, epoch=0, rank=0, world=1))

    def __len__(self) -> int:
        return self._count

    @property
    def skipped(self) -> list[dict[str, str]]:
        """What could not be read so far, sorted by name."""
        return [{"name": name, "reason": reason} for name, reason in sorted(self._skipped.items())]

    @property
    def sha256(self) -> str:
        """A hash of names and sizes of the shards and of how they are read, not of what they hold."""
        return hashlib.sha256(f"{self._count} {self.buffer}\n{self._listed()}".encode()).hexdigest()

    def digests(self) -> list[str]:
        """What tells shards apart without reading them: the size of each."""
        return [str(size) for size in self._sizes]

    def sample(self) -> ImageStore:
        """Some images that stand for all, in memory: the first 2,048 of a shuffled pass."""
        named = self.read(seed=0, epoch=0, rank=0, world=1)
        names, pixels = zip(*islice(named, min(SAMPLE, len(self))), strict=True)
        store = ImageStore.from_arrays(np.stack(pixels), [0] * len(names), names=names)
        store.resize = self.resize
        return store

    def read(self, *, seed: int | None, epoch: int, rank: int, world: int) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Names and pixels `(C, H, W)` of one process's images, beginning again where its shards end.

        Args:
            seed: Shuffles shards and images; None keeps their order.
            epoch: Another one gives another order.
            rank: Which process.
            world: Of how many; they share the shards.

        Raises:
            ArgumentError: There are fewer shards than processes.
            DataError: No image in this process's shards can be read.
        """
        return ((name, image.pixels) for name, image in self._read(seed=seed, epoch=epoch, rank=rank, world=world))

    def _read(self, *, seed: int | None, epoch: int, rank: int, world: int) -> Iterator[tuple[str, Decoded]]:
        if len(self.names) < world:
            raise ArgumentError(f"{world} processes share {len(self.names)} shards; write the images into more of them")
        order = list(self.names)
        if seed is not None:
            random.Random(f"{seed} {epoch}").shuffle(order)
        draw = None if seed is None else random.Random(f"{seed} {epoch} {rank}")
        while True:
            members = chain.from_iterable(read_shard(shard) for shard in order[rank::world])
            empty = True
            for named in self._decoded(members if draw is None else self._mixed(members, draw)):
                empty = False
                yield named
            if empty:
                reasons = "; ".join(f"{one['name']}: {one['reason']}" for one in self.skipped[:3])
                raise DataError(f"no image in {order[rank]} and other shards can be read. {reasons}")

    def _mixed(self, members: Iterator[Member], draw: random.Random) -> Iterator[Member]:
        """Each member drawn from a buffer of those that follow."""
        held = list(islice(members, self.buffer))
        for member in members:
            chosen = draw.randrange(len(held))
            yield held[chosen]
            held[chosen] = member
        draw.shuffle(held)
        yield from held

    def _decoded(self, members: Iterator[Member]) -> Iterator[tuple[str, Decoded]]:
        threads = max(1, (os.cpu_count() or 1) // rank_info().local)
        with (
            ThreadPoolExecutor(threads) as pool,
            closing(in_order(pool, self._decode_one, members, AHEAD * threads)) as results,
        ):
            for name, result in results:
                if isinstance(result, str):
                    self._skipped[name] = result
                else:
                    yield name, result

    def _decode_one(self, member: Member) -> tuple[str, Decoded | str]:
        result = member.content if isinstance(member.content, str) else self._decode(member.content)
        if isinstance(result, str):
            return member.name, result
        if self._channels not in (None, len(result.pixels)):
            return member.name, f"it holds {result.about}, but channels={self._channels} was asked for"
        if self._like is None or result.about == self._like.about:
            return member.name, result
        return member.name, f"it holds {result.about}, and the first image {self._like.about}"

    def _counted(self, cache: Path) -> int:
        # Sizes come in steps of 10 KiB: with the name alone they would take another shard for one that was counted.
        counted = [(os.path.abspath(name), os.stat(name).st_size, os.stat(name).st_mtime_ns) for name in self.names]
        file = cache / f"shards-{json_sha256(counted)[:24]}.json"
        if not file.exists():
            with ThreadPoolExecutor() as pool:
                write_json(file, {"images": sum(pool.map(count_images, self.names))})
        return int(read_json(file)["images"])

    def _listed(self) -> str:
        named = zip(self.names, self._sizes, strict=True)
        return "\n".join(f"{name.rpartition('/')[2]} {size}" for name, size in named)
