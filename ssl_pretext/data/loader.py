"""Loader of training batches from an image store; only the seed and the epoch determine their order."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from ssl_pretext.augment import Augment
from ssl_pretext.augment.keyed_random import keys_of_images
from ssl_pretext.data.store import ImageStore
from ssl_pretext.system.processes import rank_and_world

__all__ = ["BatchLoader", "Loader"]

log = logging.getLogger(__name__)

FREE_MEMORY_FRACTION = 0.25  # of the free GPU memory, for a store that is copied there; training needs the rest
PIECE = 1 << 28  # bytes of a store that are copied to the GPU at a time


Images = TypeVar("Images", bound=Sized)


class Loader(ABC, Generic[Images]):
    """Base class of the loaders. Only the seed and the epoch determine the order, so that a run can be resumed.

    Args:
        images: Images of one epoch, over all processes.
        batch_size: Number of images per batch, over all processes. The last batch may have fewer or one more.
        seed: Seed of the order and of the augmentation; None keeps the order of the images, and augments them equally
            in each epoch.
        augment: The augmentation; an image gets other random numbers in each epoch and view, which depend on nothing
            else than the seed, the epoch, the view and the image.
        views: Number of views of each image; more than one make batches `(B, views, C, H, W)`.
        device: Device that the batches are copied to.

    Attributes:
        batch_weight: Weight of the last yielded batch relative to those of the other processes: its number of images
            divided by the mean number over the processes. It is 0 if the batch has too few images for all processes
            and this process repeats images of another one.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        seed: int | None,
        augment: Augment | None = None,
        views: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.augment, self.views, self.device = augment, views, torch.device(device)
        # Lightning calls `set_epoch` on the object that it finds here.
        self.sampler, self.batch_sampler = self, None
        self.epoch, self.start, self.batches_yielded = 0, 0, 0
        self.batch_weight = 1.0

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """Yields the batches of one epoch on the device, `(B, C, H, W)` or `(B, views, C, H, W)`."""

    @abstractmethod
    def last_names(self) -> list[str]:
        """The names of the images in the last yielded batch that belong to this process."""

    def __len__(self) -> int:
        return len(self.batch_sizes())

    @property
    def images_per_epoch(self) -> int:
        """The number of images of an epoch."""
        return len(self.images)

    def batch_sizes(self) -> list[int]:
        """The number of images in each batch.

        A single remaining image is added to the last batch: if the feature maps have one pixel, BatchNorm could not
        compute a variance from one image.
        """
        full, left = divmod(len(self.images), self.batch_size)
        sizes = [self.batch_size] * full
        if left == 1 and full:
            sizes[-1] += 1
        elif left:
            sizes.append(left)
        return sizes

    def least_images(self, world: int) -> int:
        """The smallest number of images of a process in a step: 2, or 1 if full batches have no more per process.

        With a single image, BatchNorm could not compute a variance where the feature maps have one pixel.
        """
        return max(1, min(2, self.batch_size // world))

    def dividing(self, size: int, world: int) -> int:
        """The number of processes that divide a batch; the others take part in the step with a weight of zero."""
        return min(world, max(1, size // self.least_images(world)))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order of the next pass."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The number of batches of the current pass that have been yielded."""
        return {"batches_yielded": self.batches_yielded}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Makes the next pass start after the last batch of the saved pass."""
        self.start = state["batches_yielded"] % len(self)

    def _augmented(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Returns the views of images `(B, C, H, W)` that lie on the device; each has a number of its own."""
        if self.augment is None:
            views = [images] * self.views
        else:
            draw = (0, 0) if self.seed is None else (self.seed, self.epoch)
            keys = [keys_of_images(numbers, *draw, view) for view in range(self.views)]
            views = [self.augment(images, key) for key in keys]
        return views[0] if self.views == 1 else torch.stack(views, dim=1)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copies a tensor to the device; a copy to a GPU is asynchronous."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


class BatchLoader(Loader[ImageStore]):
    """Loader of an `ImageStore`; the arguments and attributes are those of `Loader`.

    There are no worker processes, because reading decoded images takes less time than passing them between processes.
    Each process of a distributed run reads its part of each batch. On a GPU, the entire store is copied to GPU memory
    if it fits into a quarter of the free memory; otherwise each batch is copied from pinned memory.
    """

    _own_indices = torch.empty(0, dtype=torch.int64)
    _on_device: Tensor | None = None
    _placed = False

    def __iter__(self) -> Iterator[Tensor]:
        rank, world = rank_and_world()
        self._place()
        order = self._order()
        start, self.start = self.start, 0
        for number, batch in enumerate(order.split(self.batch_sizes())[start:], start=start + 1):
            self.batches_yielded = number
            dividing = self.dividing(len(batch), world)
            self._own_indices = indices = batch[rank::dividing] if rank < dividing else batch[:0]
            self.batch_weight = len(indices) * world / len(batch)
            if not len(indices):  # this process must still take part in the step, which is synchronized
                indices = batch[: self.least_images(world)]
            yield self._augmented(self._read(indices), indices)

    @override
    def last_names(self) -> list[str]:
        return [self.images.names[i] for i in self._own_indices.tolist()]

    def _order(self) -> Tensor:
        """The order of the images in this epoch."""
        if self.seed is None:
            return torch.arange(len(self.images))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**64)
        return torch.randperm(len(self.images), generator=generator)

    def _place(self) -> None:
        """Decides before the first batch whether the store is copied to the GPU, and copies it if so."""
        free = _free_memory(self.device)
        if self._placed or free is None or not len(self.images):
            return
        self._placed = True
        one = self.images.images([0])
        needed = len(self.images) * one.nbytes
        fits = needed <= FREE_MEMORY_FRACTION * free
        log.info(
            "%.2f GiB of images are %s %s, which has %.1f GiB free",
            needed / 2**30,
            "stored on" if fits else "copied batch by batch to",
            self.device,
            free / 2**30,
        )
        if fits:
            self._on_device = torch.empty(len(self.images), *one.shape[1:], dtype=one.dtype, device=self.device)
            for rows in torch.arange(len(self.images)).split(max(1, PIECE // one.nbytes)):
                self._on_device[rows[0] : rows[-1] + 1] = self.images.images(rows)

    def _read(self, indices: Tensor) -> Tensor:
        if self._on_device is not None:
            return self._on_device[self._to_device(indices)]
        return self._to_device(self.images.images(indices))


def _free_memory(device: torch.device) -> int | None:
    """The number of free bytes on a GPU; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
