"""Choice of the numerical precision and the memory format of a run, by timing steps of a copy of the task."""

import copy
import logging
import time
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.tasks import PretextTask
from ssl_pretext.training.config import AUTO, BF16_MIXED, CHANNELS_LAST, CONTIGUOUS, FLOAT32

__all__ = ["ComputeFormat", "choose_format", "set_memory_format"]

log = logging.getLogger(__name__)

TORCH_FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}
ROUNDS = 4  # steps per format that are timed, after one that is not
MOST_SECONDS = 20.0  # after which no further round is started
GAIN = 1.02  # by how much another format must be faster than float32 in the usual memory format


class ComputeFormat(NamedTuple):
    """How the networks of a run compute.

    Attributes:
        precision: Precision as Lightning names it, `"32-true"` or `"bf16-mixed"`.
        memory_format: Order of the values of images and weights in memory, `"contiguous"` or `"channels_last"`.
    """

    precision: str
    memory_format: str


def choose_format(
    task: PretextTask,
    images: ImageStore,
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
    memory_format: str,
) -> ComputeFormat:
    """Chooses what a run leaves open by timing forward and backward steps of a copy of the task.

    Neither the task nor the random state changes. The formats take turns, so that other work on the machine affects
    all of them alike. A format in which the task cannot compute is left out.

    Args:
        task: The task, on any device.
        images: Training images, of which a batch is used.
        batch_size: Number of images in the batch.
        device: Device of the run.
        precision: `"auto"` to choose from `"32-true"` and `"bf16-mixed"`, or a precision that is given.
        memory_format: `"auto"` to choose, or a memory format that is given.
    """
    formats = [
        ComputeFormat(*pair)
        for pair in product(
            [FLOAT32, BF16_MIXED] if precision == AUTO else [precision],
            [CONTIGUOUS, CHANNELS_LAST] if memory_format == AUTO else [memory_format],
        )
    ]
    if len(formats) == 1:
        return formats[0]
    copied = copy.deepcopy(task).to(device).train()
    copied.prepare(images)  # some losses need statistics of the images
    batch = images.images(range(min(len(images), batch_size))).to(device)
    seconds = _seconds_per_step(copied, task.repeat_as_views(batch), formats)
    chosen = min(seconds, key=lambda one: seconds[one])
    if formats[0] in seconds and seconds[formats[0]] < GAIN * seconds[chosen]:
        chosen = formats[0]
    tried = ", ".join(f"{_name(one)} {1000 * value:.0f} ms" for one, value in seconds.items())
    log.info("computes in %s (per step: %s)", _name(chosen), tried)
    return chosen


def set_memory_format(module: nn.Module, memory_format: str) -> None:
    """Arranges the weights of a module in a memory format, which convolutions pass on to what they compute."""
    module.to(memory_format=TORCH_FORMATS[memory_format])


def _seconds_per_step(task: PretextTask, batch: Tensor, formats: Sequence[ComputeFormat]) -> dict[ComputeFormat, float]:
    """Returns the median duration of a step in each format that the task can compute in."""
    device = batch.device
    seconds: dict[ComputeFormat, list[float]] = {one: [] for one in formats}
    failure: Exception | None = None
    start = time.perf_counter()
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for number in range(ROUNDS + 1):
            for one in list(seconds):
                try:
                    took = _step(task, batch, one)
                except RuntimeError as error:  # a view of a network of the user, or an operation without bfloat16
                    failure = error
                    del seconds[one]
                else:
                    seconds[one] += [took] if number else []
            if number and (time.perf_counter() - start) * (number + 2) / (number + 1) > MOST_SECONDS:
                break  # another round would take too long
    if not seconds:
        raise ArgumentError(f"the task cannot compute a training step: {failure}") from failure
    return {one: median(values) for one, values in seconds.items()}


def _step(task: PretextTask, batch: Tensor, one: ComputeFormat) -> float:
    """Computes the gradients of a batch, and returns the seconds that it took."""
    set_memory_format(task, one.memory_format)
    task.zero_grad(set_to_none=True)
    _wait(batch.device)
    start = time.perf_counter()
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=one.precision == BF16_MIXED):
        loss = task(batch).loss
    loss.backward()
    _wait(batch.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _name(one: ComputeFormat) -> str:
    precision = {FLOAT32: "float32", BF16_MIXED: "bfloat16"}.get(one.precision, one.precision)
    return precision + (", channels last" if one.memory_format == CHANNELS_LAST else "")
