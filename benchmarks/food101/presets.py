"""How large the experiment is run."""

from dataclasses import dataclass

from ssl_pretext.config import Config

__all__ = ["PRESETS", "STUDIES", "Preset"]

# What each adds to the documented conv probe, as the report calls it.
STUDIES = {
    "conv": "the documented probe, on the latent and on the middle block",
    "linear": "linear probes on every layer",
    "labels": "linear probes by the number of labels",
    "regularized": "the conv probe with a nuclear norm on its weights",
    "resnet": "a stronger classifier, a small ResNet",
}


@dataclass(frozen=True, kw_only=True)
class Preset(Config):
    """A size of the experiment; None means all there are.

    Attributes:
        about: One line for `--help`.
        image_size: Side of the square images, in pixels. Unknown in the source.
        batch_size: Of pretraining. Unknown in the source.
        epochs: Of pretraining; 16 in the source.
        pretrain_per_class: Pretraining images per in-domain class.
        validation_per_class: Held-out images per class for `val_loss`, color quality and grids.
        probe_classes: Classes per domain that the probes tell apart.
        labels_per_class: Labeled images per class that a probe is trained on.
        test_per_class: Test images per class.
        probe_epochs: Of the probes that are networks; 10 in the source.
        linear_epochs: Of the linear probes; their own number by default.
        seeds: How many times each probe is trained.
        conv_images: The conv probe, which costs the most, is trained on at most this many images per domain.
        label_counts: Labeled images per class of the curves of label efficiency; those that there are.
        studies: Which of `STUDIES` are done.
    """

    about: str
    image_size: int
    batch_size: int
    epochs: int
    pretrain_per_class: int | None = None
    validation_per_class: int | None = None
    probe_classes: int | None = None
    labels_per_class: int | None = None
    test_per_class: int | None = None
    probe_epochs: int = 10
    linear_epochs: int | None = None
    seeds: int = 5
    conv_images: int | None = None
    label_counts: tuple[int, ...] = (1, 2, 5, 10, 20)
    studies: tuple[str, ...] = ("conv", "linear", "labels", "regularized", "resnet")


PRESETS = {
    "smoke": Preset(
        about="seconds; shows that everything runs, its figures mean nothing",
        image_size=32,
        batch_size=32,
        epochs=2,
        pretrain_per_class=2,
        validation_per_class=1,
        probe_classes=4,
        labels_per_class=4,
        test_per_class=4,
        probe_epochs=2,
        linear_epochs=4,
        seeds=2,
        label_counts=(1, 2),
        studies=("conv", "linear", "labels"),
    ),
    "cpu": Preset(
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
    ),
    "cpu-full": Preset(
        about="a few hours on two cores; all images, 16 epochs at 32 px",
        image_size=32,
        batch_size=64,
        epochs=16,
        validation_per_class=8,
        test_per_class=60,
        conv_images=1_000,
    ),
    "documented": Preset(
        # 64 px: what LPIPS was calibrated on, and what both Food-101 and Food-101-64 can give.
        about="one GPU; the whole data set, 16 epochs at 64 px",
        image_size=64,
        batch_size=64,
        epochs=16,
    ),
}
