"""How to pretrain: a configuration that is there without Lightning."""

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ssl_pretext.arguments import whole_number
from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.system.devices import DEVICES

__all__ = ["TF32", "FitConfig"]

TF32 = "tf32"
PRECISIONS = ("32-true", TF32, "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")  # but for one, Lightning's


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """How to pretrain; the defaults are those of the documented experiment where it states them.

    Attributes:
        out: Folder of the run: checkpoints, logs, history and the trained task.
        epochs: Passes over the images.
        batch_size: Images per step, over all processes together.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        augment: Flips each training image at random, and shifts it by up to an eighth of its side, mirrored at the
            border; anew in each epoch.
        seed: Decides the order of the images, how they are moved, and any random corruption; the task's weights are
            the caller's.
        precision: Lightning's: `"32-true"`, `"bf16-mixed"`, `"16-mixed"`, `"bf16-true"`, `"16-true"` or `"64-true"`; or
            `"tf32"`, which is `"32-true"` with matrix products in TF32 on a GPU that has it (PyTorch computes
            convolutions so by itself).
        compile: Compiles the task's networks for the training steps (`torch.compile`); losses and validation stay as
            they are. The first step of each batch size then takes up to minutes, and results differ by rounding; the
            weights are saved under the same names, and a run may go on with another value.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        checkpoint_minutes: A checkpoint at least this often, beside the one of each epoch.
        resume: Go on from the last checkpoint in `out`, if there is one.
    """

    out: Path | str
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 2e-5
    augment: bool = False
    seed: int = 0
    precision: str = "32-true"
    compile: bool = False
    device: str = "auto"
    checkpoint_minutes: float = 10.0
    resume: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", -(2**63))):
            object.__setattr__(self, name, whole_number(f"FitConfig.{name}", getattr(self, name), least=least))
        for name in ("learning_rate", "weight_decay", "checkpoint_minutes"):
            value, needed = getattr(self, name), "0 or more" if name == "weight_decay" else "positive"
            if not isinstance(value, Real) or not 0 <= float(value) < math.inf or (value == 0 and needed == "positive"):
                raise ArgumentError(f"FitConfig.{name} is a number, {needed}, got {value!r}")
            object.__setattr__(self, name, float(value))  # as JSON takes it
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ArgumentError(f"FitConfig.{name} is one of {', '.join(known)}, got {getattr(self, name)!r}")

    def fingerprint(self) -> dict[str, Any]:
        """The part that a resumed run must share with its checkpoint."""
        kept = ("epochs", "batch_size", "learning_rate", "weight_decay", "augment", "seed", "precision")
        return {name: getattr(self, name) for name in kept}
