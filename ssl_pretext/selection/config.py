"""The configuration of a search; importing it imports nothing slow."""

from dataclasses import dataclass
from typing import Literal

from ssl_pretext.config import Config

__all__ = ["SearchConfig"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """Configuration of a search.

    Attributes:
        tasks: Specs of the pretext tasks to try, such as `"colorization"`; by default the likely tasks for the images.
        encoder: Name of the encoder that all tasks pretrain.
        compare: Names of networks to compare with, such as `"timm/resnet18[pretrained=true]"`.
        probe: Classifier that scores the features of held-out labeled images and of test images.
        learning_rate: Highest learning rate of each run; it rises, and then falls along a cosine.
        batch_size: Number of images per step.
        seed: Seed of the initial weights, of the order of the images and of the folds.
        device: Device to compute on: `"auto"`, `"cpu"` or `"cuda"`.
    """

    tasks: tuple[str, ...] | None = None
    encoder: str = "timm/resnet18[layer=layer3]"
    compare: tuple[str, ...] = ()
    probe: Literal["linear", "knn"] = "linear"
    learning_rate: float = 1e-3
    batch_size: int = 128
    seed: int = 0
    device: str = "auto"
