"""The configuration of a pretraining run; importing it does not import Lightning."""

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.devices import check_device_name

__all__ = ["TF32", "FitConfig"]

TF32, HALF_MIXED, DOUBLE = "tf32", "16-mixed", "64-true"
PRECISIONS = ("32-true", TF32, "bf16-mixed", HALF_MIXED, DOUBLE)  # all but tf32 are Lightning's
NARROW = {  # Lightning has them too
    "bf16-true": "most updates of AdamW are lost in the rounding of weights in bfloat16",
    "16-true": "the epsilon of AdamW is 0 in float16, so that it divides by zero",
}
LARGEST = (2 - 2**-23) * 2.0**127  # of float32
MOST_LEARNING_RATE = LARGEST / 10  # AdamW divides it by 1 - 0.9 in its first step
MOST_MINUTES = timedelta.max / timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """Configuration of a pretraining run; the defaults are those of the documented experiment, where it states them.

    Attributes:
        out: Output folder of the run: checkpoints, logs, history and the trained task.
        epochs: Number of passes over the images.
        batch_size: Number of images per step, in total over all processes.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        augment: Augmentation of the training images, by the names of its steps with options in brackets, such as
            `"random_resized_crop,horizontal_flip"` (see `list_augmentations`), or `"none"`. By default that of the task
            (`PretextTask.default_augmentation`). It differs from epoch to epoch.
        seed: Seed of the order of the images, of the augmentation and of random corruption. The command `pretrain`
            also draws the initial weights from it; `fit` trains the weights that the task has.
        precision: Numerical precision as Lightning names it: `"32-true"`, `"bf16-mixed"`, `"16-mixed"` (on a GPU) or
            `"64-true"`; or `"tf32"`, which is `"32-true"` with matrix products in TF32 on GPUs that have it (PyTorch
            computes convolutions in TF32 by default). Weights are saved in float32.
        compile: Whether the task's networks are compiled for the training steps (`torch.compile`). Losses and
            validation are not compiled. The first step of each batch size can then take minutes, and results differ
            by rounding. Weights are saved under the same names, and a resumed run may change this option.
        device: Device to train on: `"auto"`, `"cpu"`, `"cuda"`, one of several GPUs such as `"cuda:1"`, or `"mps"`.
        checkpoint_minutes: Minutes between checkpoints, in addition to the checkpoint after each epoch.
        resume: Whether to resume from the last checkpoint in the output folder, if there is one.
    """

    out: Path | str
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 2e-5
    augment: str | None = None
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    device: str = "auto"
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size"):
            whole_number(f"FitConfig.{name}", getattr(self, name))
        if not -(2**63) <= self.seed < 2**63:
            raise ArgumentError(f"FitConfig.seed must be a whole number of 64 bits, got {self.seed}")
        for name, needed, most in (
            ("learning_rate", "a positive number", MOST_LEARNING_RATE),
            (
                "weight_decay",
                "a number of at least 0",
                LARGEST / self.learning_rate if self.learning_rate else math.inf,
            ),
            ("checkpoint_minutes", "a positive number", MOST_MINUTES),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most or (value == 0 and name != "weight_decay"):
                raise ArgumentError(f"FitConfig.{name} must be {needed}, at most {most:.2g}, got {value!r}")
        if self.precision in NARROW:
            raise ArgumentError(
                f"FitConfig.precision cannot be {self.precision!r}, because {NARROW[self.precision]}; use 'bf16-mixed' "
                "or '16-mixed', whose weights are in float32"
            )
        if self.precision not in PRECISIONS:
            raise ArgumentError(f"FitConfig.precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_device_name(self.device, "FitConfig.device")

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run may not change."""
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "augment", "seed", "precision")
        return {name: getattr(self, name) for name in names}
