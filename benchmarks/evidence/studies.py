"""What the studies compare: their images, their pretext tasks, and how long each of these is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ssl_pretext as sp
from benchmarks.food101.presets import Preset
from benchmarks.food101.protocol import open_data

__all__ = ["ENCODER", "READINGS", "STUDIES", "Row", "Split", "Study"]

ENCODER = "timm/resnet18[layer=layer3]"
SMALLER = "timm/resnet10t[layer=layer3]"
# The ways to read a feature map by the name of their pooling, and what a table calls them.
READINGS = {"map": "", "gap": ", averaged over positions"}
BOTH = ("gap", "map")
FLIPS = "shift,horizontal_flip"
TURNS = "shift,horizontal_flip,quarter_turns"
FREELY = "shift,horizontal_flip,rotation"
CROPS = "random_resized_crop,horizontal_flip"


@dataclass(frozen=True)
class Row:
    """A pretext task of a study.

    Attributes:
        name: Name in tables.
        create: Creates the task with random weights.
        epochs: Epochs for each epoch of the study, chosen so that all rows have about the same processor time.
        augment: Augmentation; None for that of the task.
        learning_rate: Highest learning rate.
        batch_size: Images per step.
        readings: What probes read, one or more of `READINGS`.
    """

    name: str
    create: Callable[[], sp.PretextTask]
    epochs: float = 1.0
    augment: str | None = None
    learning_rate: float = 1e-3
    batch_size: int = 64
    readings: Sequence[str] = ("map",)


@dataclass(frozen=True)
class Split:
    """The images of a study.

    Attributes:
        pretraining: Images without labels.
        judged: Labeled images for training and for testing, by what they are, which is empty if there is one kind.
    """

    pretraining: sp.ImageStore
    judged: Mapping[str, tuple[sp.ImageStore, sp.ImageStore]]


@dataclass(frozen=True)
class Study:
    """A set of images, and the pretext tasks that are compared on it.

    Attributes:
        title: Title of the results page.
        about: What the images are, and how they are split, in Markdown.
        split: Opens the images of a folder; with True, so that the test images are left out, and training images take
            their place.
        space: The channels of the images; None for photos.
        rows: The rows that are compared on test images.
        tried: Rows that are compared on validation images only: one to begin with, and others that differ from it in
            one thing each.
        views: Further ways to read the first of them, with the options of `PretextTask.representation`.
        per_class: The numbers of labeled images per class.
        epochs: Passes over the pretraining images, which each row has in its own proportion.
        target: The channel whose prediction is compared with the truth on test images, if the first row predicts one.
        subset: Names of the classes over which that comparison is made a second time.
        published: Names of the channels that a network sees that was trained on ImageNet, unless the images are photos.
        finetuned: The numbers of labeled images per class with which the first row is also fine-tuned.
    """

    title: str
    about: str
    split: Callable[[Path, bool], Split]
    space: sp.ChannelSpace | None
    rows: Sequence[Row]
    per_class: Sequence[int]
    epochs: int
    tried: Sequence[Row] = ()
    views: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    target: str | None = None
    subset: Sequence[str] = ()
    published: Sequence[str] = ()
    finetuned: Sequence[int] = ()


def folders(image_size: int, held_out: float = 0.25) -> Callable[[Path, bool], Split]:
    """Images in one folder per class, of which a fraction is held out for testing, and of the rest for validation."""

    def split(folder: Path, validate: bool) -> Split:
        train, test = sp.ImageStore.from_folder(folder, image_size=image_size).split(held_out)
        if validate:
            train, test = train.split(held_out)
        return Split(train, {"": (train, test)})

    return split


def food(folder: Path, validate: bool) -> Split:
    """Food-101 without the classes that the documented experiment excludes, which are judged on their own."""
    preset = Preset(about="", image_size=64, batch_size=64, epochs=0)
    data = open_data(folder, preset, seed=0)
    if validate:
        return Split(data.pretrain, {"": data.probe_train["in"].split(0.25)})
    kinds = {"in": "Classes of the pretraining images", "out": "Classes never seen in pretraining"}
    judged = {kind: (data.probe_train[domain], data.probe_test[domain]) for domain, kind in kinds.items()}
    return Split(data.pretrain, judged)


CELLS = sp.ChannelSpace.bands("cells", ["bright field", "DNA", "dark field"])
UNSTAINED = CELLS["bright field", "dark field"]
BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
SENTINEL = sp.ChannelSpace.bands("sentinel", BANDS)
VISIBLE = SENTINEL["B02", "B03", "B04"]
INFRARED = SENTINEL["B05", "B06", "B07", "B08", "B8A", "B11", "B12"]


VIEWS = {
    "averaged over positions": {"pooling": "gap"},
    "layer 2 instead of 3": {"layer": "layer2"},
    "layer 1 instead of 3": {"layer": "layer1"},
}


def create(name: str, *, encoder: str = ENCODER, **options: Any) -> Callable[[], sp.PretextTask]:
    """A function that creates a task with random weights."""
    return lambda: sp.create_task(name, encoder=encoder, **options)


def stain(**options: Any) -> Callable[[], sp.PretextTask]:
    """A function that creates the prediction of the DNA stain from both channels that need none."""
    chosen: dict[str, Any] = {"source": UNSTAINED, "target": CELLS["DNA"], "output_stride": 4} | options
    return create("cross_channel", **chosen)


def stained(name: str, *, epochs: float = 0.25, augment: str = FREELY, rate: float = 1e-3, **options: Any) -> Row:
    """A row that predicts the stain in a quarter of the time of the first row."""
    return Row(name, stain(**options), epochs=epochs, augment=augment, learning_rate=rate)


def against_each_other() -> Callable[[], sp.PretextTask]:
    """A function that creates the contrast of both channels that need no stain."""
    return create("cross_channel_contrast", first=CELLS["bright field"], second=CELLS["dark field"])


def colors(
    name: str,
    *,
    epochs: float = 0.25,
    augment: str | None = None,
    rate: float = 1e-3,
    batch_size: int = 64,
    readings: Sequence[str] = ("map",),
    **options: Any,
) -> Row:
    """A row that contrasts lightness with color, in a quarter of the time of the first row."""
    task = create("cross_channel_contrast", first="lab:L", second="lab:ab", **options)
    return Row(name, task, epochs=epochs, augment=augment, learning_rate=rate, batch_size=batch_size, readings=readings)


STUDIES = {
    "cells": Study(
        title="Cells: is predicting a stain worth labels?",
        about="**1,653 Jurkat cells** in an imaging flow cytometer (Blasi et al. 2016, BBBC048), 40 px: bright field, "
        "dark field, and a DNA stain. The classes are four phases of the cell cycle. A quarter of each class is held "
        "out for testing; nothing is pretrained on it. Phases were gated on the stain, so the stain is a target of "
        "pretraining and **never an input of a classifier**, except in the controls *pixels cells* and *pixels cells "
        "3×3*, which show what the stain itself would be worth.",
        split=folders(40),
        space=CELLS,
        rows=(
            Row("bright and dark field → DNA", stain(), augment=FREELY),
            Row("SimCLR", create("instance_contrast", channels=UNSTAINED), epochs=0.75),
            Row("VICReg", create("vicreg", channels=UNSTAINED), epochs=0.6),
            Row("bright field against dark field", against_each_other(), epochs=0.75),
        ),
        tried=(
            stained("bright and dark field → DNA"),
            stained("a quarter of the epochs", epochs=0.0625),
            stained("four times the epochs", epochs=1.0),
            stained("flips and shifts, not turned", augment=FLIPS),
            stained("quarter turns, not turned freely", augment=TURNS),
            stained("learning rate 3e-3", rate=3e-3),
            stained("learning rate 3e-4", rate=3e-4),
            stained("mean squared error", losses={"l2": 1.0}),
            stained("predicted at full resolution", output_stride=1),
            stained("decoder with skip connections", decoder="unet", output_stride=1),
            stained("ResNet-10 instead of ResNet-18", encoder=SMALLER),
            Row("SimCLR", create("instance_contrast", channels=UNSTAINED), epochs=0.1875),
            Row("VICReg", create("vicreg", channels=UNSTAINED), epochs=0.1875),
            Row("bright field against dark field", against_each_other(), epochs=0.1875),
        ),
        views=VIEWS,
        per_class=(10, 50, 200),
        epochs=120,
        target="DNA",
        subset=("G1", "S_phase", "G2"),
        published=UNSTAINED.names,
        finetuned=(10, 50),
    ),
    "satellite": Study(
        title="Satellite photos: is matching colors worth labels?",
        about="**EuroSAT in RGB** (Helber et al. 2019), 6,000 photos of 64 px, ten classes. A quarter of each class is "
        "held out for testing; nothing is pretrained on it. Neighboring places may lie on both sides of the split, "
        "which raises all accuracies alike.",
        split=folders(64),
        space=None,
        rows=(
            colors("L against ab", epochs=0.75, readings=BOTH),
            colors("L against ab, ResNet-10", epochs=1.0, readings=("gap",), encoder=SMALLER),
            Row("SimCLR", create("instance_contrast"), epochs=0.75, readings=BOTH),
        ),
        tried=(
            colors("L against ab"),
            colors("a quarter of the epochs", epochs=0.0625),
            colors("four times the epochs", epochs=1.0),
            colors("both see the same crop", separate_views=False),
            colors("flips and shifts, not cropped", augment=FLIPS),
            colors("also turned by quarters", augment=f"{CROPS},quarter_turns"),
            colors("colors changed, too", augment=f"{CROPS},color_jitter"),
            colors("batches of 256", batch_size=256),
            colors("learning rate 3e-3", rate=3e-3),
            colors("learning rate 3e-4", rate=3e-4),
            colors("temperature 0.2", temperature=0.2),
            colors("ResNet-10 instead of ResNet-18", encoder=SMALLER),
            colors("feature maps of 8×8, not 4×4", encoder="timm/resnet18[layer=layer3;output_stride=8]"),
            Row("SimCLR", create("instance_contrast"), epochs=0.25),
            Row("SimCLR, four times the epochs", create("instance_contrast")),
            Row("VICReg", create("vicreg"), epochs=0.25),
            Row("L → ab", create("colorization", output_stride=4), epochs=0.375, augment=FLIPS),
            Row("split brain", create("split_brain", first="lab:L", second="lab:ab"), epochs=0.25, augment=FLIPS),
        ),
        views=VIEWS,
        per_class=(10, 100),
        epochs=48,
        finetuned=(10,),
    ),
    "satellite-bands": Study(
        title="Satellite images of 13 bands: is predicting infrared worth labels?",
        about="**EuroSAT with 13 bands** (Helber et al. 2019), 100 images of 64 px from Sentinel-2, ten of each of ten "
        "classes. Half of each class is held out for testing; nothing is pretrained on it. So few images can only show "
        "large differences.",
        split=folders(64, held_out=0.5),
        space=SENTINEL,
        rows=(
            Row("visible against infrared", create("cross_channel_contrast", first=VISIBLE, second=INFRARED)),
            Row("SimCLR", create("instance_contrast", channels=SENTINEL[tuple(BANDS)])),
            Row(
                "visible → infrared",
                create("cross_channel", source=VISIBLE, target=INFRARED, output_stride=4),
                epochs=1.5,
                augment=TURNS,
            ),
            Row(
                "visible ↔ infrared",
                create("split_brain", first=VISIBLE, second=INFRARED, output_stride=4),
                epochs=0.75,
                augment=TURNS,
            ),
        ),
        per_class=(1, 5),
        epochs=200,
        published=("B04", "B03", "B02"),
    ),
    "food": Study(
        title="Food photos: is predicting color worth labels?",
        about="**Food-101-64 (30,300-image subset)** at 64 px, split as in the documented experiment, which leaves 18 "
        "classes out of pretraining. This is a subset; the results are not comparable with results on the full "
        "Food-101.",
        split=food,
        space=None,
        rows=(
            colors("L against ab", epochs=1.0, readings=BOTH),
            Row("SimCLR", create("instance_contrast"), readings=BOTH),
        ),
        tried=(
            colors("L against ab"),
            colors("four times the epochs", epochs=1.0),
            colors("both see the same crop", separate_views=False),
            colors("flips and shifts, not cropped", augment=FLIPS),
            colors("colors changed, too", augment=f"{CROPS},color_jitter"),
            colors("ResNet-10 instead of ResNet-18", encoder=SMALLER),
            Row("SimCLR", create("instance_contrast"), epochs=0.25),
            Row("VICReg", create("vicreg"), epochs=0.25),
            Row("L → ab", create("colorization", output_stride=4), epochs=0.375, augment=FLIPS),
        ),
        views=VIEWS,
        per_class=(10, 24),
        epochs=12,
    ),
}
