"""The check for NaN and infinite losses or weights, which stops a run before a checkpoint contains them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_pretext.color import finish_range_checks
from ssl_pretext.errors import NotFiniteError
from ssl_pretext.system.devices import CopyToHost
from ssl_pretext.system.files import write_json
from ssl_pretext.tasks import TaskOutput

__all__ = ["REPORT_FILE", "FiniteCheck"]

REPORT_FILE = "not_finite.json"
MAX_NAMES = 5  # names of files in the message; the report lists all of them


@dataclass
class _PendingStep:
    """A step whose loss has not been checked yet, because it may still be on its way from the GPU."""

    number: int
    output: dict[str, Tensor]
    files: list[str]
    finite: CopyToHost


class FiniteCheck:
    """Checks the loss of every step without making the CPU wait for a GPU, and the weights before every checkpoint.

    On the CPU a loss is checked at once. On a GPU it is copied to pinned memory after the forward pass, and checked
    when the forward pass of the next step has been queued, so that the GPU always has work left. The weights are
    checked because the gradients of a finite loss can be NaN or infinite.

    Args:
        out: Folder of the run, for the report on a failure.
        checkpoint: File of the last checkpoint, which need not exist.

    Attributes:
        checkpoint_step: Number of steps that the last checkpoint has been trained for; None without a checkpoint.
    """

    def __init__(self, out: Path, checkpoint: Path) -> None:
        self.out, self.checkpoint = out, checkpoint
        self.checkpoint_step: int | None = None
        self._pending: _PendingStep | None = None

    def observe(self, number: int, output: TaskOutput, files: Sequence[str]) -> None:
        """Checks the loss of the previous step, and that of the given step at once or in the next call.

        Args:
            number: Number of the step; the first one is 1.
            output: What the task computed in this step.
            files: Names of the images in this step's batch.

        Raises:
            NotFiniteError: A loss is NaN or infinite.
        """
        self.check_pending()
        loss = output.loss.detach()
        terms = {name: value.detach() for name, value in output.terms.items()}
        self._pending = _PendingStep(number, {"loss": loss, **terms}, list(files), CopyToHost(loss.isfinite()))
        if loss.device.type != "cuda":
            self.check_pending()

    def check_pending(self) -> None:
        """Checks the loss of the last observed step, if that has not been done yet.

        Raises:
            NotFiniteError: The loss is NaN or infinite.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        if not step.finite.wait():
            values = {name: value.item() for name, value in step.output.items()}
            wrong = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
            self._stop(f"the loss of step {step.number} is not finite ({wrong})", step.number, values, step.files)

    def check_weights(self, step: int, networks: nn.Module, files: Sequence[str]) -> None:
        """Checks the weights that a checkpoint is about to store.

        Args:
            step: Number of the last step.
            networks: The module with the weights.
            files: Names of the images in the batch of that step.

        Raises:
            NotFiniteError: A weight, or the loss of the last step, is NaN or infinite.
            ArgumentError: RGB images of the last steps were outside `[0, 1]`.
        """
        self.check_pending()
        finish_range_checks()
        if wrong := _not_finite(networks.named_parameters()):
            shown = f"{wrong[0]} and {len(wrong) - 1} more" if len(wrong) > 1 else wrong[0]
            self._stop(
                f"weights are not finite after step {step} ({shown}), although the loss was finite", step, {}, files
            )
        self.checkpoint_step = step

    def _stop(self, problem: str, step: int, values: dict[str, float], files: Sequence[str]) -> None:
        checkpoint = f"{self.checkpoint}, after step {self.checkpoint_step}" if self.checkpoint.exists() else None
        report = {
            "step": step,
            "figures": {name: str(value) for name, value in values.items()},
            "files": list(files),
            "checkpoint": checkpoint,
        }
        write_json(self.out / REPORT_FILE, report)
        shown = ", ".join(files[:MAX_NAMES]) + (f" and {len(files) - MAX_NAMES} more" if len(files) > MAX_NAMES else "")
        images = f"The images of this step were {shown} ({self.out / REPORT_FILE} lists all of them); " if files else ""
        last_good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise NotFiniteError(
            f"{problem}. {images}{last_good}. Resuming the run would fail again at this step: start in another folder "
            "with a lower learning_rate, or without the images that cause the failure."
        )


def _not_finite(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the parameters that contain NaN or infinite values."""
    names, finite = [], []
    for name, values in parameters:
        names.append(name)
        finite.append(values.detach().isfinite().all())
    if not finite:
        return []
    # The results are copied from the device together, because each copy would wait for it.
    return [name for name, fine in zip(names, torch.stack(finite).tolist(), strict=True) if not fine]
