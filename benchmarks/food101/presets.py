"""Presets of the Food-101 experiment: how many images, epochs and seeds a run has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ssl_pretext.config import Config

__all__ = ["PRESETS", "STUDIES", "Preset", "study_title"]

# Names of the studies with the headings that the report gives them.
STUDIES = {
    "conv": "the documented probe, on the latent and on the middle block",
    "linear": "linear probes on every layer",
    "labels": "linear probes by the number of labels",
    "regularized": "the conv probe with a nuclear norm on its weights",
    "resnet": "a stronger classifier, a small ResNet",
}


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """The size of a run. None means that there is no limit.

    Attributes:
        about: One line for `--help`.
        image_size: Height and width of the images, in pixels. Unknown in the source.
        batch_size: Batch size of pretraining. Unknown in the source.
        epochs: Epochs of pretraining; 16 in the source.
        seconds: Seconds of pretraining of each task in a comparison on equal time, instead of `epochs`; of processor
            time on a CPU.
        pretrain_per_class: Number of pretraining images per in-domain class.
        validation_per_class: Number of held-out images per class for `val_loss`, color quality and grids.
        probe_classes: Number of classes per domain that the probes distinguish.
        labels_per_class: Number of labeled images per class that a probe is trained on.
        test_per_class: Number of test images per class.
        probe_epochs: Epochs of the probes that are networks; 10 in the source.
        seeds: Number of seeds with which each probe is trained.
        conv_images: Maximum number of training images per domain for the conv probe, which is the slowest.
        label_counts: Numbers of labeled images per class for the study of label efficiency. Counts that the smallest
            class does not have are left out.
        all_rows: Whether the linear probe reads all layers of the encoder besides the latent, and has all controls. If
            not, the controls are the same encoder untrained, RGB pixels and the color histogram: so few that their
            differences need no correction for many comparisons.
        studies: Names of the studies to run, from `STUDIES`.
    """

    about: str
    image_size: int
    batch_size: int
    epochs: int
    seconds: float | None = None
    pretrain_per_class: int | None = None
    validation_per_class: int | None = None
    probe_classes: int | None = None
    labels_per_class: int | None = None
    test_per_class: int | None = None
    probe_epochs: int = 10
    seeds: int = 5
    conv_images: int | None = None
    label_counts: tuple[int, ...] = (1, 2, 5, 10, 20)
    all_rows: bool = True
    studies: tuple[str, ...] = ("conv", "linear", "labels", "regularized", "resnet")


def study_title(name: str, config: Mapping[str, Any]) -> str:
    """The heading of a study in the report of a run.

    Args:
        name: Name of the study.
        config: Configuration of the run; runs from before the option `all_rows` have all rows.
    """
    if name == "linear" and not config.get("all_rows", True):
        return "linear probes on the latent"
    return STUDIES[name]


CPU = Preset(
    about="at most 15 minutes on two cores; part of the images, 18 classes per domain",
    image_size=32,
    batch_size=32,
    epochs=3,
    pretrain_per_class=72,
    validation_per_class=4,
    probe_classes=18,
    labels_per_class=10,
    test_per_class=60,
    seeds=3,
    studies=("conv", "linear", "labels"),
)

PRESETS = {
    "first": Preset(
        about="a few minutes on two cores; the linear probe on the latent, with the three main controls",
        image_size=32,
        batch_size=32,
        epochs=4,
        pretrain_per_class=150,
        validation_per_class=4,
        probe_classes=10,
        labels_per_class=15,
        test_per_class=60,
        seeds=10,
        all_rows=False,
        studies=("linear",),
    ),
    "smoke": Preset(
        about="takes seconds; shows that everything runs, its results mean nothing",
        image_size=32,
        batch_size=32,
        epochs=2,
        pretrain_per_class=2,
        validation_per_class=1,
        probe_classes=4,
        labels_per_class=4,
        test_per_class=4,
        probe_epochs=2,
        seeds=2,
        label_counts=(1, 2),
        studies=("conv", "linear", "labels"),
    ),
    "cpu": CPU,
    # The image size of the source is unknown.
    "cpu-64": replace(
        CPU, about="about an hour on two cores; as cpu, but at 64 px", image_size=64, studies=("conv", "linear")
    ),
    "cpu-full": Preset(
        about="a few hours on two cores; all images, 16 epochs at 32 px",
        image_size=32,
        batch_size=64,
        epochs=16,
        validation_per_class=8,
        test_per_class=60,
        conv_images=500,
    ),
    "documented": Preset(
        # LPIPS was calibrated at 64 px, and both Food-101 and Food-101-64 have images of that size.
        about="for one GPU; the full data set, 16 epochs at 64 px",
        image_size=64,
        batch_size=64,
        epochs=16,
    ),
}
