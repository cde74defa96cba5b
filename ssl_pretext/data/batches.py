"""Batches of a store, in an order and with changes that seed and epoch alone decide."""

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ssl_pretext.data.moves import draw_moves, moved
from ssl_pretext.data.store import ImageStore
from ssl_pretext.processes import rank_and_world

__all__ = ["BatchLoader"]

log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.25  # of a GPU, for each store that is kept there; networks and their steps need the rest
PIECE = 1 << 28  # bytes of a store that are on their way to the GPU at a time


class BatchLoader:
    """Batches of a store in an order that seed and epoch alone decide, so that a resumed run finds its place.

    There are no workers: reading decoded images takes less time than handing them over. Each process of a
    distributed run takes its own share of each batch. On a GPU the whole store is kept in the GPU's memory if it
    fits into a quarter of what is free; otherwise each batch is copied there from pinned memory.

    Args:
        images: The store.
        batch_size: Images per batch, over all processes; the last one has what is left.
        seed: Shuffles; None keeps the order of the store.
        augment: Flips and shifts each image at random, anew in each epoch.
        device: Where the batches are wanted.

    Attributes:
        share: How much the batch handed out last counts among those of all processes: its images over their mean
            number. 0 for an image of others that a process is given where there are not enough for all.
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
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.augment, self.device = augment, torch.device(device)
        # Where Lightning looks for someone to tell which epoch it is.
        self.sampler, self.batch_sampler = self, None
        self.epoch, self.start, self.given = 0, 0, 0
        self.share = 1.0
        self._mine = torch.empty(0, dtype=torch.int64)
        self._kept: Tensor | None = None
        self._placed = False

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """Images of each batch. A single one that is left joins the last: where maps are one pixel, it has no variance
        for BatchNorm."""
        full, left = divmod(len(self.images), self.batch_size)
        sizes = [self.batch_size] * full
        if left == 1 and full:
            sizes[-1] += 1
        elif left:
            sizes.append(left)
        return sizes

    def __iter__(self) -> Iterator[Tensor]:
        rank, world = rank_and_world()
        self._place()
        order, moves = self._plan()
        start, self.start = self.start, 0
        for number, batch in enumerate(order.split(self._sizes())[start:], start=start + 1):
            self.given = number
            self._mine = mine = batch[rank::world]
            self.share = len(mine) * world / len(batch)
            if not len(mine):  # the others wait for this process at the end of the step
                mine = batch[:1]
            images = self._read(mine)
            yield images if moves is None else moved(images, self._sent(moves[mine]))

    def names_given(self) -> list[str]:
        """Names of the images in the batch that was handed out last, as far as they are this process's share."""
        return [self.images.names[i] for i in self._mine.tolist()]

    def state_dict(self) -> dict[str, int]:
        """How many batches of the present pass were handed out."""
        return {"given": self.given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Starts the next pass where the saved one stopped."""
        self.start = state["given"] % len(self)

    def _plan(self) -> tuple[Tensor, Tensor | None]:
        """The order of this epoch, and how each image of the store is moved in it."""
        generator = torch.Generator().manual_seed(((self.seed or 0) * 1_000_003 + self.epoch) % 2**64)
        count = len(self.images)
        order = torch.arange(count) if self.seed is None else torch.randperm(count, generator=generator)
        if not self.augment:
            return order, None
        height, width = self.images.images([0]).shape[-2:]
        return order, draw_moves(count, height, width, generator)

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
            self._kept = torch.empty(len(self.images), *one.shape[1:], dtype=one.dtype, device=self.device)
            for rows in torch.arange(len(self.images)).split(max(1, PIECE // one.nbytes)):
                self._kept[rows[0] : rows[-1] + 1] = self.images.images(rows)

    def _read(self, indices: Tensor) -> Tensor:
        if self._kept is not None:
            return self._kept[self._sent(indices)]
        return self._sent(self.images.images(indices))

    def _sent(self, tensor: Tensor) -> Tensor:
        """A tensor on the device; to a GPU without waiting until it has come."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
