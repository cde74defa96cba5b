"""Training images from a loader or an iterable dataset from elsewhere, which is read again in each epoch."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from ssl_pretext.data.datasets import Sample, Samples
from ssl_pretext.data.decode import Decoded
from ssl_pretext.data.loader import Loader
from ssl_pretext.data.sources import Reading
from ssl_pretext.data.store import ImageStore
from ssl_pretext.data.stream import SAMPLE_SIZE
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.files import json_sha256
from ssl_pretext.system.processes import rank_info

__all__ = ["SampleLoader", "SampleStream"]

log = logging.getLogger(__name__)


class SampleStream:
    """The images of a DataLoader or of an iterable dataset, which `fit` reads again in each epoch.

    Args:
        samples: The samples; their source must be iterable more than once.

    Attributes:
        samples: The samples.
        names: Names of the images, of which there are none.
        resize: Description of how the images are resized.

    Raises:
        ArgumentError: The source can be iterated only once, there are no samples, or there are several processes, which
            would all read the same images.
    """

    def __init__(self, samples: Samples) -> None:
        if isinstance(samples.source, Iterator):
            raise ArgumentError(
                f"a {samples.name} can be read only once, and fit() reads the images again in each epoch; pass an "
                "IterableDataset, or another object whose __iter__ starts again"
            )
        if rank_info().world > 1:
            raise ArgumentError(
                f"fit() reads a {samples.name} in one process only, because it cannot divide what it yields; for "
                "several processes pass an ImageStore, such as ImageStore.from_dataset(), or an ImageStream"
            )
        self.samples, self.resize = samples, Reading(image_size=samples.image_size).description
        self.names: list[str] = []
        self._sample: ImageStore | None = None
        self._format: str | None = None
        log.info(
            "%s is read again in each epoch, in its own order: a run that is resumed may see the images in another "
            "order than a run that was not interrupted",
            samples.name,
        )

    @property
    def num_batches(self) -> int | None:
        """The number of batches per epoch, if it is known in advance."""
        source = self.samples.source
        indexed = isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset)
        return len(source) if indexed else None

    @property
    def image_size(self) -> int | tuple[int, int]:
        """The height and width of the images in pixels: one number if they are square, else `(H, W)`."""
        return self.sample().image_size

    @property
    def sha256(self) -> str:
        """A hash of the class of the source and of the format of its images; their content is not known in advance."""
        self.sample()
        return json_sha256([self.samples.name, self._format])

    def digests(self) -> list[str]:
        """Returns a hash of each name, of which there are none."""
        return []

    def sample(self) -> ImageStore:
        """Returns the first 2,048 images, in memory; they are read once."""
        if self._sample is None:
            images = list(islice(chain.from_iterable(self._decoded(1)), SAMPLE_SIZE))
            if not images:
                raise ArgumentError(f"fit() needs at least one image, and {self.samples.name} has no samples")
            self._sample = ImageStore.from_arrays(np.stack([image.pixels for image in images]))
            self._sample.resize = self.resize
        return self._sample

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yields the batches of one epoch, `(B, C, H, W)`: those of a DataLoader, else of the given size.

        Raises:
            ArgumentError: An image has another form, or another format than the first one.
        """
        return map(_stacked, self._decoded(size))

    def _decoded(self, size: int) -> Iterator[list[Decoded]]:
        if not isinstance(self.samples.source, DataLoader):
            samples = self.samples.read(target=None)
            yield from _batched((self._decode(sample, i) for i, sample in enumerate(samples)), size)
            return
        position = 0
        for given in self.samples.source:
            batch = self.samples.split_batch(given, None)
            yield [self._decode(sample, i) for i, sample in enumerate(batch, start=position)]
            position += len(batch)

    def _decode(self, sample: Sample, position: int) -> Decoded:
        image = self.samples.decode(sample.image, position)
        self._format = self._format or image.description
        self.samples.check_format(image, position, self._format)
        return image


class SampleLoader(Loader[Any]):
    """Loader of a `SampleStream`; the arguments and attributes are those of `Loader`.

    The number of batches is known for a DataLoader of an indexed dataset. Otherwise, Lightning asks for each batch
    before it trains on the one before, to learn which is the last one.
    """

    _ranges = (range(0), range(0))  # positions of the images in the last two batches

    def __iter__(self) -> Iterator[Tensor]:
        start, self.start, end = self.start, 0, 0
        for number, images in enumerate(self.images.batches(self.batch_size)):
            begin, end = end, end + len(images)
            if number >= start:
                self.batches_yielded, self._ranges = number + 1, (self._ranges[1], range(begin, end))
                yield self._augmented(self._to_device(images), torch.arange(begin, end))
        self.batches_yielded, self._ranges = 0, (self._ranges[1], self._ranges[1])

    @override
    def __len__(self) -> int:
        if self.images.num_batches is None:
            raise TypeError(f"the number of batches of {self.images.samples.name} is not known in advance")
        return int(self.images.num_batches)

    @property
    @override
    def images_per_epoch(self) -> int:
        return self._ranges[1].stop

    @override
    def last_names(self) -> list[str]:
        trained = self._ranges[0 if self.images.num_batches is None else 1]
        return [f"sample {i} of the epoch" for i in trained]

    @override
    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.images.samples.set_epoch(epoch)

    @override
    def state_dict(self) -> dict[str, int]:
        ahead = self.images.num_batches is None
        return {"batches_yielded": max(0, self.batches_yielded - ahead)}

    @override
    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.start = state["batches_yielded"] % (self.images.num_batches or sys.maxsize)


def _stacked(images: Sequence[Decoded]) -> Tensor:
    return torch.from_numpy(np.stack([image.pixels for image in images]))


def _batched(images: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Yields batches of a size; a single remaining image is added to the last one, as by `Loader.batch_sizes`."""
    waiting: list[Decoded] = []
    while batch := list(islice(images, size)):
        if len(batch) == 1 < size and waiting:
            waiting += batch
        else:
            if waiting:
                yield waiting
            waiting = batch
    if waiting:
        yield waiting
