"""The numerical precision and the memory format that networks compute in, and the choice of the fastest by timing."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import torch
from torch import nn

__all__ = [
    "AUTO",
    "BF16_MIXED",
    "CHANNELS_LAST",
    "CONTIGUOUS",
    "FLOAT32",
    "MEMORY_FORMATS",
    "PLAIN",
    "ComputeFormat",
    "autocast",
    "fastest_format",
    "in_memory_format",
    "possible_formats",
    "set_memory_format",
]

log = logging.getLogger(__name__)

AUTO, FLOAT32, BF16_MIXED = "auto", "32-true", "bf16-mixed"
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
MEMORY_FORMATS = (CONTIGUOUS, CHANNELS_LAST, AUTO)
TORCH_FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
MOST_SECONDS = 20.0  # after which no further round is started
GAIN = 1.02  # by how much another format must be faster than float32 in the usual memory format
HOPELESS = 1.25  # a format that takes this many times as long as the fastest one is not tried again


class ComputeFormat(NamedTuple):
    """How networks compute.

    Attributes:
        precision: Precision as Lightning names it, such as `"32-true"` or `"bf16-mixed"`.
        memory_format: Order of the values of images and weights in memory, `"contiguous"` or `"channels_last"`.
    """

    precision: str
    memory_format: str

    def __str__(self) -> str:
        precision = {FLOAT32: "float32", BF16_MIXED: "bfloat16"}.get(self.precision, self.precision)
        return precision + (", channels last" if self.memory_format == CHANNELS_LAST else "")


PLAIN = ComputeFormat(FLOAT32, CONTIGUOUS)


def possible_formats(precision: str, memory_format: str) -> list[ComputeFormat]:
    """Returns the formats that are left open by `"auto"`, the usual one first."""
    pairs = product(
        [FLOAT32, BF16_MIXED] if precision == AUTO else [precision],
        [CONTIGUOUS, CHANNELS_LAST] if memory_format == AUTO else [memory_format],
    )
    return [ComputeFormat(*pair) for pair in pairs]


def fastest_format(
    formats: Sequence[ComputeFormat],
    module: nn.Module,
    step: Callable[[ComputeFormat], object],
    device: torch.device,
    *,
    rounds: int,
) -> ComputeFormat:
    """Returns the format in which a step is fastest; the first one, unless another is faster by more than the noise.

    The formats take turns, so that other work on the machine affects all of them alike, and the shortest time of each
    counts. A format in which the step fails is left out.

    Args:
        formats: The formats to try, of which the first is the usual one.
        module: Module whose weights are arranged in the memory format of each step; they keep the one of the last.
        step: Function that computes a step in a format.
        device: Device that computes it.
        rounds: How often each format is timed, after a step that is not.

    Raises:
        RuntimeError: The step fails in all formats.
    """
    seconds: dict[ComputeFormat, float] = {}
    remaining, start = list(formats), time.perf_counter()
    failure = RuntimeError("there is no format")
    for number in range(rounds + 1):
        for one in tuple(remaining):
            set_memory_format(module, one.memory_format)
            try:
                took = _seconds(step, one, device)
            except RuntimeError as error:  # a view of a network of the user, or an operation without bfloat16
                failure = error
                remaining.remove(one)
                seconds.pop(one, None)
            else:
                seconds[one] = min(took, seconds.get(one, took)) if number > 1 else took
        if not seconds:
            raise failure
        best = min(seconds.values())
        if number:
            remaining = [one for one in remaining if seconds[one] < HOPELESS * best]
        if number and (time.perf_counter() - start) * (number + 2) / (number + 1) > MOST_SECONDS:
            break  # another round would take too long
    chosen = min(seconds, key=lambda one: seconds[one])
    if formats[0] in seconds and seconds[formats[0]] < GAIN * seconds[chosen]:
        chosen = formats[0]
    tried = ", ".join(f"{one} {1000 * value:.0f} ms" for one, value in seconds.items())
    log.info("computes in %s (per step: %s)", chosen, tried)
    return chosen


def _seconds(step: Callable[[ComputeFormat], object], one: ComputeFormat, device: torch.device) -> float:
    """Computes a step, and returns the seconds that it took."""
    _wait(device)
    start = time.perf_counter()
    step(one)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Returns the context in which networks compute in bfloat16, if the precision says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16_MIXED)


def set_memory_format(module: nn.Module, memory_format: str) -> None:
    """Arranges the weights of a module in a memory format, which convolutions pass on to what they compute."""
    module.to(memory_format=TORCH_FORMATS[memory_format])


@contextmanager
def in_memory_format(module: nn.Module | None, memory_format: str) -> Iterator[None]:
    """Arranges the weights of a module in a memory format within the block, and puts them back as they were.

    `"contiguous"` changes nothing, because that is the usual format.
    """
    if module is None or memory_format == CONTIGUOUS:
        yield
        return
    tensors = [*module.parameters(), *module.buffers()]
    before = [tensor.data for tensor in tensors]
    set_memory_format(module, memory_format)
    try:
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            tensor.data = data
