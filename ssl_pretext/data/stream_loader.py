"""Loader of training batches from an image stream; a background thread prepares them during training."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ssl_pretext.augment.keyed_random import keys_of_names
from ssl_pretext.data.build import in_order
from ssl_pretext.data.loader import Loader
from ssl_pretext.data.stream import ImageStream
from ssl_pretext.system.processes import rank_and_world

__all__ = ["StreamLoader"]

PREFETCHED = 2  # batches that are prepared in advance


class _Batch(NamedTuple):
    """The part of a batch that belongs to one process."""

    names: list[str]
    images: Tensor
    share: float


class StreamLoader(Loader[ImageStream]):
    """Loader of an `ImageStream`; the arguments and attributes are those of `Loader`.

    Each process reads its part of a batch from its own shards. A run that resumes in the middle of an epoch reads the
    earlier images of the epoch again, because the order depends on which images can be read.
    """

    _names: Sequence[str] = ()

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start = self.start, 0
        prepared = self._batches(start)
        with (
            ThreadPoolExecutor(1) as background,
            closing(in_order(background, lambda _: next(prepared), range(start, len(self)), PREFETCHED)) as batches,
        ):
            for number, (names, images, share) in enumerate(batches, start=start + 1):
                self.batches_yielded, self._names, self.batch_weight = number, names, share
                yield self._augmented(self._to_device(images), keys_of_names(names))

    @override
    def last_names(self) -> list[str]:
        return list(self._names)

    def _batches(self, start: int) -> Iterator[_Batch]:
        rank, world = rank_and_world()
        read = self.images.read(seed=self.seed, epoch=self.epoch, rank=rank, world=world)
        for number, size in enumerate(self.batch_sizes()):
            dividing = self.dividing(size, world)
            own = len(range(rank, size, dividing)) if rank < dividing else 0
            named = [next(read) for _ in range(own or self.least_images(world))]
            if number >= start:
                names, pixels = zip(*named, strict=True)
                images = torch.from_numpy(np.stack(pixels))
                yield _Batch(list(names), images, own * world / size)
