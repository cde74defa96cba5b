"""What this machine can do at best: operations of a matrix product and bytes of a copy per second, as measured."""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_flop", "seconds_at_bandwidth", "seconds_at_peak"]

SIDE, VALUES, ROUNDS = 2_048, 2**25, 7  # of a product of square matrices, and float32 values of a copy


def count_flop(work: Callable[[], object]) -> int:
    """Counts the floating-point operations of the matrix products and convolutions in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def seconds_at_peak(flop: float) -> float:
    """Seconds that operations take at the speed of the fastest float32 matrix product."""
    return flop / _flop_per_second()


def seconds_at_bandwidth(moved: float) -> float:
    """Seconds in which bytes are read and written at the speed of the fastest copy."""
    return moved / _bytes_per_second()


@cache
def _flop_per_second() -> float:
    matrix = torch.rand(SIDE, SIDE)
    product = torch.empty_like(matrix)
    return 2 * SIDE**3 / _shortest(lambda: torch.mm(matrix, matrix, out=product))


@cache
def _bytes_per_second() -> float:
    values = torch.rand(VALUES)
    copied = torch.empty_like(values)
    return 2 * values.nbytes / _shortest(lambda: copied.copy_(values))


def _shortest(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
