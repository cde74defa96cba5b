"""Work that rank 0 leads, and in which the other processes of `torchrun` help with some steps."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

from ssl_pretext.errors import PretextError
from ssl_pretext.system.processes import key_value_store, on_rank_zero, rank_info

__all__ = ["Team"]

STEP = "step of a team"

_numbers = count()

T = TypeVar("T")
S = TypeVar("S")


class _FinishedError(PretextError):
    """The work of rank 0 has ended."""


class Team:
    """The processes of `torchrun`, which follow the decisions of rank 0 and share work on items.

    Without `torchrun`, or outside of `lead`, there is one process, which does all of the work.
    """

    def __init__(self) -> None:
        self._rank, self._world = 0, 1
        self._group: Any = None

    @property
    def is_leader(self) -> bool:
        """Whether this process has the results; the others only help."""
        return self._rank == 0

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._world

    def lead(self, work: Callable[[], T], help: Callable[[], None]) -> T:
        """Calls `work` on rank 0 and returns its result on all ranks; the other ranks help meanwhile.

        Args:
            work: The work of rank 0. Its result must be picklable.
            help: What the other ranks do: the same calls of `decide` and `shared`, in the same order.

        Raises:
            PretextError: `work` raised this error; it is raised on all ranks.
        """
        info = rank_info()
        if info.world == 1:
            return work()
        with self._formed(info.rank, info.world):
            if not self.is_leader:
                with suppress(_FinishedError):
                    help()
                    self.decide(_finish)

            def work_and_finish() -> T:
                try:
                    return work()
                finally:
                    with suppress(_FinishedError):
                        self.decide(_finish)

            return on_rank_zero("result of a team", work_and_finish)

    def decide(self, decision: Callable[[], T]) -> T:
        """Returns on all ranks what the function returns on rank 0."""
        return decision() if self._world == 1 else on_rank_zero(STEP, decision)

    def share(self, items: Sequence[S], function: Callable[[S], T], use: Callable[[S, T], None]) -> None:
        """Computes a result for each item, every `world`-th one in each process, and uses all of them on rank 0.

        Args:
            items: The items, the same on all ranks.
            function: Function from an item to a picklable result.
            use: Function that is called on rank 0 with each item and its result, in order.

        Raises:
            PretextError: One of the functions raised this error on any rank. It is raised on rank 0, after all ranks
                have come to the end, so that none waits for another one.
        """
        if self._world == 1:
            for item in items:
                use(item, function(item))
            return
        import torch.distributed

        failures: list[PretextError] = []
        for start in range(0, len(items), self._world):
            chosen = items[start : start + self._world]
            result: Any = None
            if not failures and self._rank < len(chosen):
                try:
                    result = function(chosen[self._rank])
                except PretextError as error:
                    failures.append(error)
                    result = error
            results: list[Any] | None = [None] * self._world if self.is_leader else None
            torch.distributed.gather_object(result, results, group=self._group)
            for item, found in zip(chosen, results or [], strict=False):
                try:
                    if isinstance(found, PretextError):
                        raise found
                    if not failures:
                        use(item, found)
                except PretextError as error:
                    failures.append(error)
        if failures and self.is_leader:  # which passes it on to the others when its work ends
            raise failures[0]

    @contextmanager
    def _formed(self, rank: int, world: int) -> Iterator[None]:
        """Connects the processes, also if no process group exists or only one for GPUs, and assigns a GPU to each."""
        import torch
        import torch.distributed
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        existed = torch.distributed.is_initialized()
        if not existed:
            # Each group has keys of its own in the store of `torchrun`, where those of an earlier one remain.
            store = PrefixStore(f"team {next(_numbers)}", key_value_store())
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
        self._rank, self._world, self._group = rank, world, torch.distributed.new_group(backend="gloo")
        try:
            with torch.cuda.device(_own_gpu()):
                yield
        finally:
            self._rank, self._world, self._group = 0, 1, None
            if not existed:
                torch.distributed.destroy_process_group()


def _own_gpu() -> int:
    """The number of this process's GPU, or -1, which changes nothing, without GPUs."""
    import torch

    gpus = torch.cuda.device_count()
    return int(os.environ["LOCAL_RANK"]) % gpus if gpus else -1


def _finish() -> None:
    raise _FinishedError("the work is finished")
