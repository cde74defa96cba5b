"""The processes of a `torchrun` command: their ranks, functions that only rank 0 calls, and gathered values."""

import os
import pickle
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from ssl_pretext.errors import ArgumentError, PretextError

__all__ = [
    "RankInfo",
    "check_launcher",
    "gather_from_all",
    "key_value_store",
    "on_rank_zero",
    "rank_and_world",
    "rank_info",
]

POLL = 0.05  # seconds
LAUNCHERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}

T = TypeVar("T")

_calls: Counter[str] = Counter()


class RankInfo(NamedTuple):
    """The place of this process among those of `torchrun`.

    Attributes:
        rank: Rank of this process over all machines.
        world: Number of processes on all machines.
        local: Number of processes on this machine.
    """

    rank: int
    world: int
    local: int


def rank_info() -> RankInfo:
    """Returns the place of this process among those of `torchrun`; without `torchrun`, there is one process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return RankInfo(0, 1, 1)
    return RankInfo(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


def check_launcher() -> None:
    """Checks that no other launcher than `torchrun` has started several processes, which would all do the same work.

    The number of tasks of a job of Slurm does not matter, only that of the step in which `srun` started this process.

    Raises:
        ArgumentError: Another launcher has started several processes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    for variable, launcher in LAUNCHERS.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise ArgumentError(
                f"{launcher} has started {count} processes ({variable}={count}), which would not share the work. Start "
                "one process per machine, which is torchrun: srun --ntasks-per-node=1 torchrun --nproc_per_node=GPUS "
                f"... For {count} runs that are independent of each other, start each process without {variable}: "
                f"env -u {variable} ..."
            )


def on_rank_zero(name: str, function: Callable[[], T]) -> T:
    """Calls a function on rank 0 only and returns its result on all ranks, which wait for it.

    The result is passed through the key-value store of `torchrun`. A collective operation would time out after half an
    hour, and would need a process group.

    Args:
        name: Name of the collective call. All ranks must make the calls with one name in the same order.
        function: The function. Its result must be picklable.

    Raises:
        PretextError: The function raised this error on rank 0; it is raised on all ranks.
    """
    rank, world, _ = rank_info()
    if world == 1:
        return function()
    _calls[name] += 1
    key, store = f"ssl_pretext/{name}/{_calls[name]}", key_value_store()
    if rank == 0:
        try:
            result = function()
        except PretextError as error:
            store.set(key, pickle.dumps((None, error)))
            raise
        store.set(key, pickle.dumps((result, None)))
        return result
    while not store.check([key]):
        time.sleep(POLL)  # Ctrl-C interrupts this, but not `store.get`
    received: T
    received, failure = pickle.loads(store.get(key))
    if failure is not None:
        raise failure
    return received


def gather_from_all(value: T) -> list[T]:
    """Returns the values of all processes by rank; must be called within a Lightning run, which creates the group."""
    import torch.distributed

    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values


def rank_and_world() -> tuple[int, int]:
    """Returns the rank and the number of processes in PyTorch's process group; without a group, `(0, 1)`."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@lru_cache
def key_value_store() -> Any:
    """The key-value store of `torchrun`."""
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))[0]
