"""Training batches of an image store, in an order that only seed and epoch decide."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from typing_extensions import override

from ssl_pretext.data.augment import draw_flips_and_shifts, flip_and_shift
from ssl_pretext.data.store import ImageStore
from ssl_pretext.system.processes import rank_and_world

__all__ = ["BatchLoader", "Loader"]

log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.25  # of a GPU, for each store that is kept there; networks and their steps need the rest
PIECE = 1 << 28  # bytes of a store that are on their way to the GPU at a time


class Loader(ABC):
    """Batches for training, in an order that only seed and epoch decide, so that a resumed run finds its place.

    Args:
        batch_size: Images per batch, over all processes; the last batch has what is left.
        seed: Seed of the order; None keeps the order of the images.
        augment: Whether each image is flipped and shifted at random, differently in each epoch.
        device: The device that batches are sent to.

    Attributes:
        share: The weight of the batch that was yielded last among those of all processes: its number of images over
            their mean number. It is 0 for a batch that repeats another process's image because there are not enough
            for all processes.
    """

    def __init__(self, batch_size: int, *, seed: int | None, augment: bool, device: torch.device | str) -> None:
        self.batch_size, self.seed, self.augment, self.device = batch_size, seed, augment, torch.device(device)
        # Lightning looks here for the object that it tells the epoch to.
        self.sampler, self.batch_sampler = self, None
        self.epoch, self.start, self.yielded = 0, 0, 0
        self.share = 1.0

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """The batches of one epoch, `(B, C, H, W)` on the device."""

    @abstractmethod
    def last_names(self) -> list[str]:
        """Names of the images in the batch that was yielded last, as far as they are this process's share."""

    @property
    @abstractmethod
    def num_images(self) -> int:
        """Images per epoch, over all processes."""

    def __len__(self) -> int:
        return len(self.batch_sizes())

    def batch_sizes(self) -> list[int]:
        """The number of images in each batch.

        A single image that is left over joins the last batch: where feature maps have one pixel, BatchNorm could not
        compute a variance of it.
        """
        full, left = divmod(self.num_images, self.batch_size)
        sizes = [self.batch_size] * full
        if left == 1 and full:
            sizes[-1] += 1
        elif left:
            sizes.append(left)
        return sizes

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the present pass have been yielded."""
        return {"yielded": self.yielded}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Starts the next pass where the saved one stopped."""
        self.start = state["yielded"] % len(self)

    def _sent(self, tensor: Tensor) -> Tensor:
        """A tensor on the device; a copy to a GPU is not waited for."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


class BatchLoader(Loader):
    """Batches of an `ImageStore`; further arguments and attributes are those of `Loader`.

    There are no worker processes: reading decoded images takes less time than passing them between processes. Each
    process of a distributed run takes its share of each batch. On a GPU, the whole store is kept in GPU memory if it
    fits into a quarter of what is free; otherwise each batch is copied from pinned memory.

    Args:
        images: The store.
    """

    def __init__(
        self,
        images: ImageStore,
        batch_size: int,
        *,
        seed: int | None,
        augment: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(batch_size, seed=seed, augment=augment, device=device)
        self.images = images
        self._own_share = torch.empty(0, dtype=torch.int64)
        self._on_device: Tensor | None = None
        self._placed = False

    @override
    @property
    def num_images(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        rank, world = rank_and_world()
        self._place()
        order, draws = self._plan()
        start, self.start = self.start, 0
        for number, batch in enumerate(order.split(self.batch_sizes())[start:], start=start + 1):
            self.yielded = number
            self._own_share = indices = batch[rank::world]
            self.share = len(indices) * world / len(batch)
            if not len(indices):  # the other processes wait for this one at the end of the step
                indices = batch[:1]
            images = self._read(indices)
            yield images if draws is None else flip_and_shift(images, self._sent(draws[indices]))

    @override
    def last_names(self) -> list[str]:
        return [self.images.names[i] for i in self._own_share.tolist()]

    def _plan(self) -> tuple[Tensor, Tensor | None]:
        """The order of this epoch, and how each image of the store is moved in it."""
        generator = torch.Generator().manual_seed(((self.seed or 0) * 1_000_003 + self.epoch) % 2**64)
        count = len(self.images)
        order = torch.arange(count) if self.seed is None else torch.randperm(count, generator=generator)
        if not self.augment:
            return order, None
        height, width = self.images.images([0]).shape[-2:]
        return order, draw_flips_and_shifts(count, height, width, generator)

    def _place(self) -> None:
        """Decides, before the first batch, from where images are taken."""
        free = _free_memory(self.device)
        if self._placed or free is None or not len(self.images):
            return
        self._placed = True
        one = self.images.images([0])
        needed = len(self.images) * one.nbytes
        fits = needed <= SHARE_OF_FREE_MEMORY * free
        log.info(
            "%.2f GiB of images are %s %s, where %.1f GiB were free",
            needed / 2**30,
            "kept on" if fits else "copied batch by batch to",
            self.device,
            free / 2**30,
        )
        if fits:
            self._on_device = torch.empty(len(self.images), *one.shape[1:], dtype=one.dtype, device=self.device)
            for rows in torch.arange(len(self.images)).split(max(1, PIECE // one.nbytes)):
                self._on_device[rows[0] : rows[-1] + 1] = self.images.images(rows)

    def _read(self, indices: Tensor) -> Tensor:
        if self._on_device is not None:
            return self._on_device[self._sent(indices)]
        return self._sent(self.images.images(indices))


def _free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
