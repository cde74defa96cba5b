"""The configuration of a pretraining run; importing it does not import Lightning."""

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError, UnknownNameError
from ssl_pretext.registry import did_you_mean, parse_spec
from ssl_pretext.system.compute_format import AUTO, BF16_MIXED, CONTIGUOUS, FLOAT32, MEMORY_FORMATS
from ssl_pretext.system.devices import check_device_name

__all__ = ["TF32", "FitConfig"]

TF32, HALF_MIXED, DOUBLE = "tf32", "16-mixed", "64-true"
PRECISIONS = (FLOAT32, TF32, BF16_MIXED, HALF_MIXED, DOUBLE, AUTO)  # all but tf32 and auto are Lightning's
NARROW = {  # Lightning has them too
    "bf16-true": "most updates of AdamW are lost in the rounding of weights in bfloat16",
    "16-true": "the epsilon of AdamW is 0 in float16, so that it divides by zero",
}
LARGEST = (2 - 2**-23) * 2.0**127  # of float32
MOST_LEARNING_RATE = LARGEST / 10  # AdamW divides it by 1 - 0.9 in its first step
SCHEDULES: dict[str, tuple[str, ...]] = {  # those of diffusers, and their options
    "constant": (),
    "cosine": (),
    "cosine_with_restarts": ("num_cycles",),
    "linear": (),
    "polynomial": ("power",),
}
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
MOST_MINUTES = timedelta.max / timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """Configuration of a pretraining run; the defaults are those of the documented experiment, where it states them.

    Attributes:
        out: Output folder of the run: checkpoints, logs, history and the trained task.
        epochs: Number of passes over the images.
        batch_size: Number of images per step, in total over all processes.
        optimizer: Optimizer with options in brackets, such as `"sgd[momentum=0.9;nesterov=true]"` or
            `"adamw[betas=0.9+0.95]"`. The names are those of `timm.optim.list_optimizers()`, which include most of
            `torch.optim`.
        learning_rate: Highest learning rate of the schedule.
        weight_decay: Weight decay of all trained parameters.
        layer_decay: Factor by which the learning rate falls from each layer of the encoder to the one below it, for
            networks of timm, such as 0.75. Heads and decoders have the full learning rate.
        schedule: Course of the learning rate after the warm-up: `"constant"`, `"cosine"`, `"linear"`,
            `"cosine_with_restarts[num_cycles=3]"` or `"polynomial[power=2]"`. All but the first fall to 0 over the run
            (polynomial to 1e-7). By default `"cosine"`, or a constant rate without warm-up if the number of steps is
            unknown.
        warmup: Fraction of the steps in which the learning rate rises linearly from 0.
        clip_norm: Largest norm of the gradients, which are scaled down to it; 0 does not clip them.
        accumulate: Number of batches per optimizer step, whose gradients are averaged over all of their images. The
            last step of an epoch may have fewer.
        max_steps: Number of optimizer steps after which the run ends, even in the middle of an epoch, if it has not
            ended after `epochs`.
        ema_decay: Decay per step of an exponential moving average of the weights, such as 0.999; 0 keeps none. The
            average is saved as a task of its own in `task-ema`.
        augment: Augmentation of the training images, by the names of its steps with options in brackets, such as
            `"random_resized_crop,horizontal_flip"` (see `list_augmentations`), or `"none"`. By default that of the task
            (`PretextTask.default_augmentation`). It differs from epoch to epoch.
        seed: Seed of the order of the images, of the augmentation and of random corruption. The command `pretrain`
            also draws the initial weights from it; `fit` trains the weights that the task has.
        precision: Numerical precision as Lightning names it: `"32-true"`, `"bf16-mixed"`, `"16-mixed"` (on a GPU) or
            `"64-true"`; or `"tf32"`, which is `"32-true"` with matrix products in TF32 on GPUs that have it (PyTorch
            computes convolutions in TF32 by default); or `"auto"`, the faster of `"32-true"` and `"bf16-mixed"`, which
            is found by timing a few steps and kept when the run is resumed. Weights are saved in float32.
        memory_format: Order of the values of images and weights in memory, `"contiguous"` or `"channels_last"`, which
            many convolutional networks compute faster in; or `"auto"` for the faster one. Results differ by rounding.
        compile: Whether the task's networks are compiled for the training steps (`torch.compile`). Losses and
            validation are not compiled. The first step of each batch size can then take minutes, and results differ
            by rounding. Weights are saved under the same names, and a resumed run may change this option.
        gradient_checkpointing: Whether activations are computed again in the backward pass instead of being kept, which
            needs less memory and more time. BatchNorm then counts each batch twice in its running statistics.
        device: Device to train on: `"auto"`, `"cpu"`, `"cuda"`, one of several GPUs such as `"cuda:1"`, or `"mps"`.
        strategy: Strategy of Lightning for several processes, such as `"ddp_find_unused_parameters_true"`. The default
            is `"ddp"` under `torchrun`, and looks for unused parameters by itself.
        checkpoint_minutes: Minutes between checkpoints, in addition to the checkpoint after each epoch.
        resume: Whether to resume from the last checkpoint in the output folder, if there is one.
    """

    out: Path | str
    epochs: int = 16
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 2e-5
    layer_decay: float = 1.0
    schedule: str | None = None
    warmup: float = 0.05
    clip_norm: float = 0.0
    accumulate: int = 1
    max_steps: int | None = None
    ema_decay: float = 0.0
    augment: str | None = None
    seed: int = 0
    precision: str = "32-true"
    memory_format: str = CONTIGUOUS
    compile: bool = False
    gradient_checkpointing: bool = False
    device: str = "auto"
    strategy: str = "auto"
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "accumulate", *(["max_steps"] if self.max_steps is not None else [])):
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
            ("layer_decay", "a positive number", 1.0),
            ("warmup", "a number of at least 0", 1.0),
            ("clip_norm", "a number of at least 0", LARGEST),
            ("checkpoint_minutes", "a positive number", MOST_MINUTES),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most or (value == 0 and needed == "a positive number"):
                raise ArgumentError(f"FitConfig.{name} must be {needed}, at most {most:.2g}, got {value!r}")
        if not 0 <= self.ema_decay < 1:
            raise ArgumentError(f"FitConfig.ema_decay must be at least 0 and less than 1, got {self.ema_decay!r}")
        self._check_schedule()
        if self.precision in NARROW:
            raise ArgumentError(
                f"FitConfig.precision cannot be {self.precision!r}, because {NARROW[self.precision]}; use 'bf16-mixed' "
                "or '16-mixed', whose weights are in float32"
            )
        choices = (("precision", PRECISIONS), ("memory_format", MEMORY_FORMATS), ("strategy", STRATEGIES))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ArgumentError(f"FitConfig.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        check_device_name(self.device, "FitConfig.device")

    def _check_schedule(self) -> None:
        if self.schedule is None:
            return
        name, options = parse_spec(self.schedule)
        if name not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise UnknownNameError(
                f"FitConfig.schedule must be one of {known}, got {name!r}.{did_you_mean(name, SCHEDULES)}"
            )
        for option, value in options.items():
            if option not in SCHEDULES[name]:
                takes = ", ".join(SCHEDULES[name]) or "no options"
                raise ArgumentError(f"the schedule {name!r} has no option {option!r}; it takes {takes}")
            kind = int if option == "num_cycles" else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
                number = "a whole number of at least 1" if kind is int else "a positive number"
                raise ArgumentError(f"{option} of the schedule {name!r} must be {number}, got {value!r}")

    def can_extend(self, epochs: int) -> bool:
        """Whether a run of fewer epochs with these settings began exactly like one of `self.epochs`.

        Args:
            epochs: Number of epochs of the run that was begun.
        """
        constant = self.schedule == "constant" and self.warmup == 0
        return constant and self.max_steps is None and epochs < self.epochs

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a resumed run may not change; see `can_extend` for `epochs`."""
        changeable = ("out", "compile", "device", "strategy", "checkpoint_minutes", "resume")
        return {name: value for name, value in self.to_dict().items() if name not in changeable}
