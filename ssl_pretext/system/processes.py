"""The processes of one command that `torchrun` started: which is the first, and what it found out for all."""

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from ssl_pretext.errors import PretextError

__all__ = ["RankInfo", "gather_from_all", "on_rank_zero", "rank_and_world", "rank_info"]

POLL = 0.05  # seconds

T = TypeVar("T")

_questions: Counter[str] = Counter()


class RankInfo(NamedTuple):
    """Which process of how many this is, of all machines together, and how many of them run on this one."""

    rank: int
    world: int
    local: int


def rank_info() -> RankInfo:
    """This process among those of `torchrun`; the only one where something else started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return RankInfo(0, 1, 1)
    return RankInfo(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


def on_rank_zero(what: str, work: Callable[[], T]) -> T:
    """What the first process makes of `work`, in all of them; it alone does it, and the others wait for it.

    They ask the store of `torchrun`: a collective operation gives up after half an hour, and needs a process group.

    Args:
        what: Of which kind the work is. Processes that ask equally often for a kind get the same answers.
        work: What it returns can be pickled.

    Raises:
        PretextError: That of the first process.
    """
    rank, world, _ = rank_info()
    if world == 1:
        return work()
    _questions[what] += 1
    key, store = f"ssl_pretext/{what}/{_questions[what]}", _store()
    if rank == 0:
        try:
            found = work()
        except PretextError as error:
            store.set(key, pickle.dumps((None, error)))
            raise
        store.set(key, pickle.dumps((found, None)))
        return found
    while not store.check([key]):
        time.sleep(POLL)  # where Ctrl-C is heard, as it is not within `store.get`
    answer: T
    answer, refusal = pickle.loads(store.get(key))
    if refusal is not None:
        raise refusal
    return answer


def gather_from_all(value: T) -> list[T]:
    """What each process has, by rank; within a run of Lightning, which makes them a group."""
    import torch.distributed

    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values


def rank_and_world() -> tuple[int, int]:
    """Which process of how many this is in a group, as a run of Lightning makes one; the only one without."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@lru_cache
def _store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))[0]
