"""Batches of a stream, made in the background while the ones before are learned from."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_pretext.data.batches import BatchLoader
from ssl_pretext.data.build import in_order
from ssl_pretext.data.moves import draw_moves, moved
from ssl_pretext.data.stream import ImageStream
from ssl_pretext.processes import rank_and_world

__all__ = ["StreamLoader"]

READY = 2  # batches that wait to be taken


class Batch(NamedTuple):
    """What a process is given of a batch."""

    names: list[str]
    images: Tensor
    moves: Tensor | None
    share: float


class StreamLoader(BatchLoader):
    """Batches of a stream; arguments and attributes are those of `BatchLoader`.

    Each process makes its share of a batch of its own shards. One that goes on in the middle of an epoch reads it
    again up to there, since the order depends on which images can be read.
    """

    images: ImageStream  # type: ignore[assignment]  # read from front to back, where a store is read anywhere

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start = self.start, 0
        made = self._batches(start)
        with (
            ThreadPoolExecutor(1) as background,
            closing(in_order(background, lambda _: next(made), range(start, len(self)), READY)) as batches,
        ):
            for number, (names, images, moves, share) in enumerate(batches, start=start + 1):
                self.given, self._names, self.share = number, names, share
                images = self._sent(images)
                yield images if moves is None else moved(images, self._sent(moves))

    def names_given(self) -> list[str]:
        return self._names

    def _batches(self, start: int) -> Iterator[Batch]:
        rank, world = rank_and_world()
        read = self.images.read(seed=self.seed, epoch=self.epoch, rank=rank, world=world)
        for number, of_all in enumerate(self._sizes()):
            mine = len(range(rank, of_all, world))
            named = [next(read) for _ in range(max(1, mine))]
            if number >= start:
                names, pixels = zip(*named, strict=True)
                images = torch.from_numpy(np.stack(pixels))
                yield Batch(list(names), images, self._moves(images, number, rank), mine * world / of_all)

    def _moves(self, images: Tensor, number: int, rank: int) -> Tensor | None:
        if not self.augment:
            return None
        seed = 0
        for part in (self.seed or 0, self.epoch, number, rank):
            seed = (seed * 1_000_003 + part) % 2**63
        return draw_moves(len(images), images.shape[-2], images.shape[-1], torch.Generator().manual_seed(seed))
