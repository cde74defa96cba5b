"""Stops a run whose numbers went wrong: at the step where it happened, and before a checkpoint holds them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_pretext.errors import NotFiniteError
from ssl_pretext.system.files import write_json
from ssl_pretext.tasks import TaskOutput

__all__ = ["REPORT_FILE", "FiniteCheck"]

REPORT_FILE = "not_finite.json"
NAMED = 5  # files in the message; the report holds them all


@dataclass
class _Step:
    """A step whose loss has been asked for, and may still be on its way from the GPU."""

    number: int
    output: dict[str, Tensor]
    files: list[str]
    finite: Tensor
    ready: torch.cuda.Event | None


class FiniteCheck:
    """Looks at the loss of every step without making a GPU wait.

    On a processor a loss is judged at once. On a GPU it is copied to pinned memory behind the step's forward pass and
    judged in the next step, after that one's forward pass was queued: the GPU then has work left, and nothing waits.
    The weights are looked at before each checkpoint, since a finite loss can have gradients that are not.

    Args:
        out: Folder of the run.
        checkpoint: What holds the last state to go on from, if it is there.
    """

    def __init__(self, out: Path, checkpoint: Path) -> None:
        self.out, self.checkpoint = out, checkpoint
        self.kept_step: int | None = None  # of the checkpoint
        self._last: _Step | None = None

    def see(self, number: int, output: TaskOutput, files: Sequence[str]) -> None:
        """Notes the loss of a step that was computed on these files, and judges the one before, or both.

        Raises:
            NotFiniteError: One of them is NaN or infinite.
        """
        self.settle()
        loss = output.loss.detach()
        finite, ready = loss.isfinite(), None
        if loss.device.type == "cuda":
            finite = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        terms = {name: value.detach() for name, value in output.terms.items()}
        self._last = _Step(number, {"loss": loss, **terms}, list(files), finite, ready)
        if ready is None:
            self.settle()

    def settle(self) -> None:
        """Judges the loss that was noted last.

        Raises:
            NotFiniteError: It is NaN or infinite.
        """
        step, self._last = self._last, None
        if step is None:
            return
        if step.ready is not None:
            step.ready.synchronize()
        if not step.finite:
            figures = {name: value.item() for name, value in step.output.items()}
            wrong = ", ".join(f"{name} {value}" for name, value in figures.items() if not math.isfinite(value))
            self._stop(f"the loss of step {step.number} is not finite ({wrong})", step.number, figures, step.files)

    def check_weights(self, step: int, networks: nn.Module, files: Sequence[str]) -> None:
        """Judges what a checkpoint is about to hold, after a step that was computed on these files.

        Raises:
            NotFiniteError: The loss of the step, or a weight, is NaN or infinite.
        """
        self.settle()
        if wrong := _not_finite(networks.named_parameters()):
            shown = f"{wrong[0]} and {len(wrong) - 1} more" if len(wrong) > 1 else wrong[0]
            self._stop(f"after step {step} weights are not finite ({shown}), though its loss was", step, {}, files)
        self.kept_step = step

    def _stop(self, what: str, step: int, figures: dict[str, float], files: Sequence[str]) -> None:
        kept = f"{self.checkpoint}, after step {self.kept_step}" if self.checkpoint.exists() else None
        report = {
            "step": step,
            "figures": {name: str(value) for name, value in figures.items()},
            "files": list(files),
            "checkpoint": kept,
        }
        write_json(self.out / REPORT_FILE, report)
        shown = ", ".join(files[:NAMED]) + (f" and {len(files) - NAMED} more" if len(files) > NAMED else "")
        good = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        raise NotFiniteError(
            f"{what}. Its images were {shown} ({self.out / REPORT_FILE} lists all); {good}. Going on from it ends here "
            "again: start in another folder with a lower learning_rate, or without images that are at fault."
        )


def _not_finite(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    names, finite = [], []
    for name, values in parameters:
        names.append(name)
        finite.append(values.detach().isfinite().all())
    if not finite:
        return []
    # One copy from the device for all of them.
    return [name for name, fine in zip(names, torch.stack(finite).tolist(), strict=True) if not fine]
