"""What this machine can do at best: operations of a matrix product and bytes of a copy per second, as measured."""

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_flop", "seconds_at_bandwidth", "seconds_at_peak"]

SIDE, VALUES, ROUNDS = 2_048, 2**25, 7  # of a product of square matrices, and float32 values of a copy


def count_flop(work: Callable[[], object]) -> int:
    """Counts the floating-point operations of the matrix products and convolutions in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def seconds_at_peak(flop: float, dtype: torch.dtype = torch.float32) -> float:
    """Seconds that operations take at the speed of the fastest matrix product of a type."""
    return flop / _flop_per_second(dtype)


def seconds_at_bandwidth(moved: float) -> float:
    """Seconds in which bytes are read and written at the speed of the fastest copy."""
    return moved / _bytes_per_second()


@cache
def _flop_per_second(dtype: torch.dtype) -> float:
    """The speed of a matrix product, or of the same product as a convolution, whichever is faster.

    PyTorch computes them with different libraries, of which one may not use the widest instructions of a processor.
    """
    matrix = torch.rand(SIDE, SIDE).to(dtype)
    pixels = torch.rand(1, SIDE, 1, SIDE).to(dtype, memory_format=torch.channels_last)
    weight = matrix[:, :, None, None].to(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = min(_shortest(lambda: torch.mm(matrix, matrix)), _shortest(lambda: F.conv2d(pixels, weight)))
    return 2 * SIDE**3 / seconds


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
