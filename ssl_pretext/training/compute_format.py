"""Choice of the numerical precision and the memory format of a run, by timing steps of a copy of the task."""

import copy

import torch

from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.compute_format import ComputeFormat, autocast, fastest_format, possible_formats
from ssl_pretext.tasks import PretextTask

__all__ = ["choose_format"]

ROUNDS = 4


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

    Neither the task nor the random state changes. A format in which the task cannot compute is left out.

    Args:
        task: The task, on any device.
        images: Training images, of which a batch is used.
        batch_size: Number of images in the batch.
        device: Device of the run.
        precision: `"auto"` to choose from `"32-true"` and `"bf16-mixed"`, or a precision that is given.
        memory_format: `"auto"` to choose, or a memory format that is given.

    Raises:
        ArgumentError: The task cannot compute a training step in any format.
    """
    formats = possible_formats(precision, memory_format)
    if len(formats) == 1:
        return formats[0]
    copied = copy.deepcopy(task).to(device).train()
    copied.prepare(images)  # some losses need statistics of the images
    batch = copied.repeat_as_views(images.images(range(min(len(images), batch_size))).to(device))

    def step(one: ComputeFormat) -> None:
        copied.zero_grad(set_to_none=True)
        with autocast(one.precision, device):
            loss = copied(batch).loss
        loss.backward()

    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            return fastest_format(formats, copied, step, device, rounds=ROUNDS)
        except RuntimeError as error:
            raise ArgumentError(f"the task cannot compute a training step: {error}") from error
