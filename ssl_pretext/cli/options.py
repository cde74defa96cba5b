"""The options of each command as a frozen configuration, from which tyro builds the parser and the help texts.

The text of an attribute in a docstring is the help text of its option. Examples of calls are not in a section
`Examples:`, because tyro would not show it. Nothing here imports slowly.
"""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ssl_pretext.config import Config
from ssl_pretext.errors import ArgumentError
from ssl_pretext.training.config import FitConfig

__all__ = [
    "Cache",
    "Colorize",
    "Command",
    "Compare",
    "Embed",
    "Export",
    "Finetune",
    "ImageOptions",
    "LabeledImages",
    "List",
    "Predict",
    "Pretrain",
    "Probe",
    "Push",
    "Search",
    "label_columns",
    "name_options",
    "read_missing",
    "split_pairs",
]

IMAGE_SIZE = 64
LearningRate = Annotated[float, arg(aliases=("--lr",))]


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Config):
    """How the files of a folder become images; see `ImageStore.from_folder`.

    Attributes:
        crop: Crop the center of --image-size pixels instead of resizing the shorter side.
        tile: Height and width in pixels of the tiles that images are cut into, such as those of a satellite scene.
        stride: Number of pixels from one tile to the next; --tile if left out.
        min_valid: Fraction of the pixels of a tile that must be valid; other tiles are left out.
        missing: Value of the files that means missing, such as 0; or that of each channel that has one, by its name in
            the files or its number, such as "B02=0,band13=-1".
        reader: Reader with options for the files of its suffixes, such as "h5[key=images]" or "nii[z=max]".
        pattern: Pattern of the file names if an image is several files, such as "{well}_s{site}_w{channel}.tif" or
            "{channel:rgb|depth}/{id}.png", whose part channel names the files that are joined; or if names say the
            class or the group, such as "{label}_{group}_{id}.jpg".
        resample: How files of an image that are smaller than the largest are enlarged: bilinear or nearest; or the rule
            of each channel, such as "rgb=bilinear,depth=nearest".
    """

    crop: bool = False
    tile: int | None = None
    stride: int | None = None
    min_valid: float = 0.9
    missing: str | None = None
    reader: str | None = None
    pattern: str | None = None
    resample: str | None = None

    def of_shards(self, shards: str) -> dict[str, Any]:
        """Returns the options that `ImageStream` takes, as its arguments.

        Raises:
            ArgumentError: Another option is set.
        """
        if replace(self, missing=None, reader=None) != ImageOptions():
            names = [f"--{field.name.replace('_', '-')}" for field in fields(self)]
            others = ", ".join(name for name in names if name not in ("--missing", "--reader"))
            raise ArgumentError(f"{others} are for folders only, and {shards} are shards; leave the options out")
        return {"missing": read_missing(self.missing), "reader": self.reader}

    def arguments(self) -> dict[str, Any]:
        """Returns the options as arguments of `ImageStore.from_folder`."""
        rules = self.resample
        resample = split_pairs("--resample", rules) if rules and "=" in rules else rules
        return {**self.to_dict(), "resample": resample, "missing": read_missing(self.missing)}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(FitConfig):
    """The options of a training, whose defaults are those of a first try and not those of the documented experiment."""

    batch_size: int = 128
    learning_rate: LearningRate = 1e-3
    precision: str = "auto"
    memory_format: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Pretrain(Config):
    """Pretrain an encoder on a folder of images without labels.

    Writes the trained task, checkpoints, logs, pretrain.yaml (all options) and skipped.json (unreadable files).

    For example:
      ssl-pretext pretrain --data photos --out runs/first
      ssl-pretext pretrain --data photos --encoder timm/resnet18 --out runs/b
      ssl-pretext pretrain --data chips --bands B02,B03,B04,B08 --out runs/d
      ssl-pretext pretrain --data 'shards/train-{0000..0009}.tar' --out runs/c
      ssl-pretext pretrain --config runs/b/pretrain.yaml --resume

    Attributes:
        data: Folder of images, which may be in subfolders; or WebDataset shards, such as
            "shards/train-{0000..0009}.tar".
        task: Pretext task, with options in brackets, such as "colorization[target=rgb]" or
            "cross_channel[source=B02+B03+B04;target=B08]", or a sum of tasks such as "colorization + 0.5*rotation"; see
            "ssl-pretext list tasks". If left out, the lightness of photos is matched with their colors
            (cross_channel_contrast), and two halves of the bands of other images are predicted from each other.
        bands: Names of the channels of images that are not photos, in order and separated by commas; or a YAML file
            with a list of bands, each with its name and, if you like, its position (counted from 1), center, scale
            and missing (the value that means missing). If left out, the names are those in the files, or band1, band2
            and so on. Centers and scales that are not given are measured.
        encoder: Network to pretrain; see "ssl-pretext list encoders".
        init_from: Folder of a run or of a task whose weights the training starts from. Its encoder must be the same.
        losses: Weight of each loss, such as "smooth_l1=1,lpips[net=squeeze]=0.5"; a loss alone has the weight 1. The
            task's default losses if left out.
        image_size: Height and width of the training images in pixels. The shorter side of an image is resized to it,
            and the center is cropped. If left out, it is 64, or that of --tile.
        image_field: What follows the first dot in the names of the images, such as rgb.png, for shards only; the
            suffix of an image alone if left out.
        epoch_images: Number of images per epoch, for shards only; the number of images in all shards if left out.
        cache: Cache folder for decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        loggers: Where losses and learning rates are logged, separated by commas: tensorboard, csv, wandb and mlflow.
        probe_data: Folder of labeled images, with one subfolder per class, on which the network is probed during the
            training. Do not name the images that the final result is measured on.
        probe_every: Number of epochs from one such probing to the next.
        config: YAML file of options, such as the pretrain.yaml of another run. Options on the command line override
            those of the file.
        images: Options of the images in a folder.
        fit: Options of the training.
    """

    module: ClassVar[str] = "pretrain"
    after_interrupt: ClassVar[str] = "The same command with --resume continues from the last checkpoint."

    data: str
    task: str | None = None
    bands: str | None = None
    encoder: str = "timm/resnet18[layer=layer3]"
    init_from: Path | None = None
    losses: str | None = None
    image_size: int | None = None
    image_field: str | None = None
    epoch_images: int | None = None
    cache: Path | None = None
    loggers: str = "tensorboard,csv"
    probe_data: Path | None = None
    probe_every: int = 5
    config: Path | None = None
    images: OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)
    fit: OmitArgPrefixes[TrainingOptions]

    @property
    def size(self) -> int:
        """Height and width of the training images in pixels."""
        given = (size for size in (self.image_size, self.images.tile) if size is not None)
        return next(given, IMAGE_SIZE)

    def settings(self) -> dict[str, Any]:
        """Returns all options by name, as `--config` reads them, without `resume` and `config` themselves."""
        options = {**self.to_dict(), **self.images.to_dict(), **self.fit.to_dict(), "image_size": self.size}
        return {name: value for name, value in options.items() if name not in ("images", "fit", "config", "resume")}


@dataclass(frozen=True, kw_only=True)
class LabeledImages(Config):
    """What the commands that judge networks have in common: labeled images, and how the networks are judged.

    Attributes:
        data: Folder of labeled images, with one subfolder per class, or of the images that --labels or --pattern
            describes. If it has two such folders named like train and test, they are used.
        labels: Table of the labels: a CSV or Parquet file with the columns file and label, and perhaps group (scene,
            patient or plate, of which all images are held out or none) and split (train, val or test).
        columns: Names of columns of --labels that have other names, such as "file=image_id,label=diagnosis"; several
            label columns are joined by "+".
        target: What the label is: class, labels (several per image: names separated by "|" or ";", or columns of 0 and
            1), numbers, or mask, the class of each pixel, which --masks implies.
        masks: Pattern of the names of the masks, with parts of that of the images in --pattern, such as
            "{place}_mask.png" for "{place}_rgb.png". The values of a mask are classes, which --probe linear predicts.
        test: Folder of labeled test images, with the same subfolders; if left out, part of --data is held out.
        holdout: Fraction of each class that is held out for testing if --test is left out. If this is left out too, the
            split of --labels is used, or 0.25 if there is none.
        holdout_seed: Seed that determines which images are held out.
        seeds: Number of repetitions, from which the confidence intervals are computed.
        image_size: Height and width of the images in pixels; those of pretraining if left out, or those that a
            published network was made for.
        cache: Cache folder for decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        config: YAML file of options. Options on the command line override those of the file.
        images: Options of the images in a folder.
        device: Device to compute on: auto, cpu, cuda, a numbered GPU such as cuda:1, or mps.
        precision: Precision of frozen networks: 32-true, bf16-mixed, or auto for the faster one, which is found by
            timing a batch if a network and its untrained controls compute at least 6,400 images.
        memory_format: Order of the values in memory in frozen networks: contiguous, channels_last, or auto for the
            faster one, found in the same way.
    """

    module: ClassVar[str]

    data: Path
    labels: Path | None = None
    columns: str | None = None
    target: Literal["class", "labels", "numbers", "mask"] = "class"
    masks: str | None = None
    test: Path | None = None
    holdout: float | None = None
    holdout_seed: int = 0
    seeds: int = 5
    image_size: int | None = None
    cache: Path | None = None
    config: Path | None = None
    images: OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)
    device: str = "auto"
    precision: str = "auto"
    memory_format: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks is not None and self.target == "class":
            object.__setattr__(self, "target", "mask")


@dataclass(frozen=True, kw_only=True)
class FrozenNetworks(LabeledImages):
    """What the commands have in common that train probes on frozen networks.

    Attributes:
        layer: Layer of the networks whose features are read; the output if left out.
        pooling: What is read from the networks: map, gap (its mean), cls (the class token of a transformer) or gap+cls.
    """

    after_interrupt: ClassVar[str] = "The same command continues; probes that were finished are not trained again."

    layer: str | None = None
    pooling: str = "map"


@dataclass(frozen=True, kw_only=True)
class Probe(FrozenNetworks):
    """Measure whether pretraining helps a small classifier with few labels, compared with controls.

    Prints a table per probe. Writes report.html, a JSON file per probe, card.json (all settings that determine the
    results) and skipped.json (unreadable files).

    For example:
      ssl-pretext probe runs/first --data labeled --per-class 10
      ssl-pretext probe runs/first --data train --test test --probe "knn[k=5]"
      ssl-pretext probe runs/first --data photos --labels labels.csv
      ssl-pretext probe runs/first runs/second:layer2 --data labeled --out both
      ssl-pretext probe "timm/resnet18[pretrained=true]" --data labeled --out published

    Attributes:
        runs: Networks to probe, which share the tables: output folders of pretrain, folders of saved tasks, or names of
            encoders, whose published weights get their published normalization. NETWORK:LAYER reads another layer.
        probe: Probes to train on the frozen features, separated by commas, with options in brackets; see "ssl-pretext
            list probes".
        per_class: Number of labeled training images per class; all of them if left out.
        num_labels: Number of labeled training images if --target is not class; all of them if left out.
        controls: Controls to compare with, separated by commas; all of them if left out. They are untrained, before,
            pixels, source, reduced, histogram and, for what the features add to the histogram, joined (which is left
            out if there are several networks).
        out: Output folder; the folder probe in that of the first run if left out.
    """

    module: ClassVar[str] = "probe"

    runs: Positional[tuple[str, ...]]
    probe: str = "linear,knn"
    per_class: int | None = None
    num_labels: int | None = None
    controls: str | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Compare(FrozenNetworks):
    """Find out which of several networks has the best features for your images, at several numbers of labels.

    Says in a sentence which is best, by how much and how surely. Writes report.html, compare.json (all results and
    settings) and skipped.json (unreadable files).

    For example:
      ssl-pretext compare runs/first runs/second --data labeled --per-class 5,10,50
      ssl-pretext compare runs/first:layer2 "timm/resnet18[pretrained=true]" pixels --data labeled
      ssl-pretext compare runs/first timm/resnet18 --data photos --labels labels.csv

    Attributes:
        networks: What to compare: output folders of pretrain, folders of saved tasks, names of encoders, or controls
            such as pixels. NETWORK:LAYER reads another layer.
        probe: Probe to train on all of them, with options in brackets; see "ssl-pretext list probes".
        per_class: Numbers of labeled training images per class, separated by commas; all of them if left out.
        num_labels: Numbers of labeled training images if --target is not class, separated by commas; all of
            them if left out.
        controls: Controls to compare with, separated by commas. They are untrained, before, pixels, source, reduced and
            histogram.
        out: Output folder.
    """

    module: ClassVar[str] = "compare"

    networks: Positional[tuple[str, ...]]
    probe: str = "linear"
    per_class: str | None = None
    num_labels: str | None = None
    controls: str = "pixels,histogram"
    out: Path = Path("compare")


@dataclass(frozen=True, kw_only=True)
class Embed(Config):
    """Write a feature vector for each image of a folder or of shards, with the file names, and draw a map of them.

    The features go to a .npy file with a table of names beside it, or with their names to a Parquet or HDF5 file. A
    JSON file beside it says where they come from.

    For example:
      ssl-pretext embed runs/first --data photos --out features.npy
      ssl-pretext embed runs/first --data photos --out features.parquet --map
      ssl-pretext embed runs/first --layer layer2 --data photos --labels labels.csv --out features.h5
      ssl-pretext embed "timm/resnet18[pretrained=true]" --data 'shards/train-{0000..0009}.tar' --out features.npy

    Attributes:
        network: Output folder of pretrain, folder of a saved task, or name of an encoder, whose published weights get
            their published normalization. NETWORK:LAYER reads another layer.
        data: Folder of images, which may be in subfolders; or WebDataset shards, such as
            "shards/train-{0000..0009}.tar". If all images are in subfolders, these are the labels.
        labels: Table with the columns file and label: a CSV or Parquet file. Only its images are embedded.
        columns: Names of columns of --labels that have other names, such as "file=image_id,label=diagnosis".
        out: File of the features, which ends in .npy, .parquet or .h5.
        map: Also write a page with a map of the features and the nearest neighbors of some images, by pca, tsne or
            umap; --map alone means pca.
        layer: Layer of the network whose features are read; the output if left out.
        pooling: What is read from the layer: gap (its mean), cls (the class token of a transformer), gap+cls, or map
            (all positions).
        image_size: Height and width of the images in pixels; those of pretraining if left out, or those that a
            published network was made for.
        image_field: What follows the first dot in the names of the images, such as rgb.png, for shards only; the
            suffix of an image alone if left out.
        cache: Cache folder for decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        config: YAML file of options. Options on the command line override those of the file.
        images: Options of the images in a folder.
        device: Device to compute on: auto, cpu, cuda, a numbered GPU such as cuda:1, or mps.
        precision: Precision of frozen networks: 32-true, bf16-mixed, or auto for the faster one, which is found by
            timing a batch if there are at least 6,400 images.
        memory_format: Order of the values in memory in frozen networks: contiguous, channels_last, or auto for the
            faster one, found in the same way.
    """

    module: ClassVar[str] = "embed"
    after_interrupt: ClassVar[str] = "The same command continues; blocks that were finished are not computed again."

    network: Positional[str]
    data: str
    labels: Path | None = None
    columns: str | None = None
    out: Path
    map: Literal["pca", "tsne", "umap"] | None = None
    layer: str | None = None
    pooling: str = "gap"
    image_size: int | None = None
    image_field: str | None = None
    cache: Path | None = None
    config: Path | None = None
    images: OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)
    device: str = "auto"
    precision: str = "auto"
    memory_format: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Finetune(LabeledImages):
    """Train a pretrained network further on labeled images, and measure whether pretraining helped that.

    The same network is trained from its pretrained weights, from random weights (from scratch) and, if its pretraining
    started from published weights, from those. A linear classifier on the frozen features shows what further training
    adds. Prints both tables. Writes report.html, finetune.json, linear.json, card.json, finetune.yaml (all options)
    and skipped.json; and network, the network with a classifier of its classes, fine-tuned on all labeled images
    that are not held out for testing, for "ssl-pretext export".

    For example:
      ssl-pretext finetune runs/first --data labeled --per-class 10
      ssl-pretext finetune runs/first --data train --test test --layer-decay 0.75 --patience 5
      ssl-pretext finetune runs/first --config runs/first/finetune/finetune.yaml

    Attributes:
        run: Output folder of pretrain, or folder of a saved task.
        per_class: Number of labeled training images per class; all of them if left out.
        num_labels: Number of labeled training images if --target is not class; all of them if left out.
        epochs: Number of passes over the labeled images; with --patience, the largest number.
        learning_rate: Learning rate of AdamW at the end of the warm-up.
        weight_decay: Weight decay of AdamW.
        batch_size: Approximate number of images per step.
        layer_decay: Factor by which the learning rate falls from each layer to the one below it, for encoders of timm;
            1 stands for one rate. Training from scratch has one rate in any case.
        patience: Number of epochs without improvement on a fifth of the labeled training images after which training
            stops. The network is then trained again, on all of them, for the number of epochs that was best. If left
            out, the last epoch counts.
        out: Output folder; RUN/finetune if left out.
    """

    module: ClassVar[str] = "finetune"
    after_interrupt: ClassVar[str] = "The same command continues; networks that were tested are not trained again."

    run: Positional[Path]
    per_class: int | None = None
    num_labels: int | None = None
    epochs: int = 30
    learning_rate: LearningRate = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 32
    layer_decay: float = 1.0
    patience: int | None = None
    out: Path | None = None

    def settings(self) -> dict[str, Any]:
        """Returns all options by name, as `--config` reads them, without the run and the file itself."""
        options = {**self.to_dict(), **self.images.to_dict()}
        return {name: value for name, value in options.items() if name not in ("run", "images", "config")}


@dataclass(frozen=True, kw_only=True)
class Export(Config):
    """Convert a pretrained encoder, or a fine-tuned network with its classifier, for use without this library.

    The file or folder comes with a description of its input in JSON: image size, channels, center and scale of each,
    and the names of the classes. ONNX is run in onnxruntime, if it is installed, and compared with PyTorch.

    For example:
      ssl-pretext export runs/first --to torch-export --out encoder.pt2
      ssl-pretext export runs/first/finetune --to onnx --out classifier.onnx
      ssl-pretext export runs/second --to timm --out resnet18

    Attributes:
        run: Output folder of pretrain or of finetune, or folder of a saved task.
        to: Format. timm, torchvision and safetensors are folders of weights, and take the channels of the encoder, or
            of each of two encoders in a subfolder of its own; onnx and torch-export are one file, and take whole
            images.
        out: The file or the folder to write.
        config: YAML file of options. Options on the command line override those of the file.
    """

    module: ClassVar[str] = "export"
    after_interrupt: ClassVar[str] = "The same command exports again."

    run: Positional[Path]
    to: Literal["timm", "torchvision", "onnx", "torch-export", "safetensors"]
    out: Annotated[Path, arg(aliases=("-o",))]
    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Push(Config):
    """Upload a pretrained task with its model card to the Hugging Face hub.

    The card shows the answer and the scores of the newest "ssl-pretext probe RUN" whose results are in RUN.

    For example:
      ssl-pretext push runs/first user/name --license apache-2.0
      ssl-pretext push runs/first user/name --private

    Attributes:
        run: Output folder of pretrain, or folder of a saved task.
        repository: Name of the repository, which is created if it does not exist.
        private: Whether a new repository is private.
        license: License of the weights, by its name on the hub.
        datasets: Names on the hub of the data sets that the task was pretrained on, separated by commas.
        config: YAML file of options. Options on the command line override those of the file.
    """

    module: ClassVar[str] = "push"
    after_interrupt: ClassVar[str] = "The same command uploads again."

    run: Positional[Path]
    repository: Positional[str]
    private: bool = False
    license: str = "unknown"
    datasets: str | None = None
    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Search(Config):
    """Find out which pretext task suits your images, within a given time, or whether something cheaper is as good.

    Pretrains the likely tasks for a short time, the best of them longer, and the best one for the longest time. Prints
    a table, a recommendation, and the commands that repeat the best run. Writes search.json, report.html, search.yaml
    (all options), the runs, and skipped.json (unreadable files). The same command continues a search that was stopped.

    For example:
      ssl-pretext search --data photos --labeled labeled --minutes 60 --out runs/search
      ssl-pretext search --data photos --labels labels.csv --minutes 60 --out runs/search
      ssl-pretext search --data photos --labeled train --test test --out runs/search --tasks colorization,rotation
      ssl-pretext search --data chips --labeled labeled --bands B02,B03,B04,B08 --out runs/search
      ssl-pretext search --config runs/search/search.yaml

    Attributes:
        data: Folder of images to pretrain on, which may be in subfolders; their labels are not used.
        labeled: Folder of labeled images, with one subfolder per class, or of the images that --labels or --pattern
            describes; --data if left out. If it has two such folders named like train and test, the second is used like
            --test. At most 1,000 labeled images are used.
        labels: Table of the labels, as in probe. Its column split states the test images.
        columns: Names of columns of --labels that have other names, such as "file=image_id,label=diagnosis".
        test: Folder of labeled test images, with the same subfolders. They select nothing, and show what the best task
            is worth. At most 4,000 of them are used.
        minutes: Minutes that the search takes, without the time to decode the images.
        tasks: Pretext tasks to try, separated by commas, with options in brackets; see "ssl-pretext list tasks". If
            left out, those that are likely to help with photos, or with bands.
        encoder: Network to pretrain; see "ssl-pretext list encoders".
        compare: Published networks to compare with, separated by commas, such as "timm/resnet18[pretrained=true]".
        bands: Names of the channels of images that are not photos, as in pretrain.
        probe: Classifier that scores the features: linear or knn.
        image_size: Height and width of the images in pixels; 64, or that of --tile, if left out.
        learning_rate: Highest learning rate of each run.
        batch_size: Number of images per step.
        seed: Seed of the initial weights, of the order of the images and of the folds.
        out: Output folder.
        cache: Cache folder for decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        config: YAML file of options, such as the search.yaml of another search. Options on the command line override
            those of the file.
        images: Options of the images in a folder.
        device: Device to compute on: auto, cpu, cuda, a numbered GPU such as cuda:1, or mps.
    """

    module: ClassVar[str] = "search"
    after_interrupt: ClassVar[str] = "The same command continues the search."

    data: Path
    labeled: Annotated[Path | None, arg(aliases=("--labelled",))] = None
    labels: Path | None = None
    columns: str | None = None
    test: Path | None = None
    minutes: float = 60.0
    tasks: str | None = None
    encoder: str = "timm/resnet18[layer=layer3]"
    compare: str | None = None
    bands: str | None = None
    probe: Literal["linear", "knn"] = "linear"
    image_size: int | None = None
    learning_rate: LearningRate = 1e-3
    batch_size: int = 128
    seed: int = 0
    out: Path
    cache: Path | None = None
    config: Path | None = None
    images: OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)
    device: str = "auto"

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return next(size for size in (self.image_size, self.images.tile, IMAGE_SIZE) if size is not None)

    def settings(self) -> dict[str, Any]:
        """Returns all options by name, as `--config` reads them, without `config` itself."""
        options = {**self.to_dict(), **self.images.to_dict(), "image_size": self.size}
        return {name: value for name, value in options.items() if name not in ("images", "config")}


@dataclass(frozen=True, kw_only=True)
class Colorize(Config):
    """Color photos of any size from their lightness, which is kept at full resolution.

    For example:
      ssl-pretext colorize runs/first photo.jpg -o colored.png
      ssl-pretext colorize runs/first photos -o colored

    Attributes:
        run: Output folder of pretrain with the task colorization, or folder of such a saved task.
        photos: A photo, or a folder of photos, which may be in subfolders.
        out: Output file for a photo, or output folder of PNG files for a folder. Photos are never overwritten.
    """

    module: ClassVar[str] = "colorize"
    after_interrupt: ClassVar[str] = (
        "The pictures that were written are complete; the same command writes all of them again."
    )

    run: Positional[Path]
    photos: Positional[Path]
    out: Annotated[Path, arg(aliases=("-o",))]


@dataclass(frozen=True, kw_only=True)
class Predict(Config):
    """Predict channels of images of any size from their other channels, such as a stain, near-infrared or depth.

    The predictions have the size and the units of the images. An image may lack the predicted channels.

    For example:
      ssl-pretext predict runs/stain cells -o predicted
      ssl-pretext predict runs/stain plate --pattern "{well}_s{site}_w{channel}.tif" -o predicted
      ssl-pretext predict runs/nir scene.tif -o predicted --format tif

    Attributes:
        run: Output folder of pretrain with the task cross_channel, or folder of such a saved task.
        images: An image, or a folder of images, which may be in subfolders.
        out: Output folder, with a file for each image. Images are never overwritten.
        format: Format of the predictions. If left out, it is tif for TIFF files, npy for other bands, and png for
            photos. With rasterio, GeoTIFF files keep their georeference in tif.
        missing: Value of the files that means missing, or that of each channel, as in pretrain.
        reader: Reader with options for the files of its suffixes, such as "h5[key=images]".
        pattern: Pattern of the file names if an image is several files, as in pretrain.
        device: Device to compute on: auto, cpu, cuda, a numbered GPU such as cuda:1, or mps.
    """

    module: ClassVar[str] = "predict"
    after_interrupt: ClassVar[str] = (
        "The predictions that were written are complete; the same command writes all of them again."
    )

    run: Positional[Path]
    images: Positional[Path]
    out: Annotated[Path, arg(aliases=("-o",))]
    format: Literal["tif", "npy", "png"] | None = None
    missing: str | None = None
    reader: str | None = None
    pattern: str | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class List(Config):
    """List the names that the other commands know.

    For example:
      ssl-pretext list tasks
      ssl-pretext list encoders --search resnet

    Attributes:
        kind: What to list.
        search: Text that the listed names must contain. If left out, the encoders of each other library are listed as
            one pattern.
    """

    module: ClassVar[str] = "names"
    after_interrupt: ClassVar[str] = ""

    kind: Positional[Literal["tasks", "encoders", "losses", "probes"]]
    search: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cache(Config):
    """List or delete the decoded images that pretrain and probe keep, one store per folder and image size.

    A store that was deleted is built again when it is needed. Stores that a run is using must not be deleted.

    For example:
      ssl-pretext cache list
      ssl-pretext cache clear --older-than 30
      ssl-pretext cache clear --data photos

    Attributes:
        action: Whether to list the stores with their sizes and the times of their last use, or to delete them.
        older_than: Number of days; only stores that were last used at least this long ago.
        data: Folder of images; only its stores.
        cache: Cache folder; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
    """

    module: ClassVar[str] = "cache"
    after_interrupt: ClassVar[str] = "The same command deletes the rest."

    action: Positional[Literal["list", "clear"]]
    older_than: float | None = None
    data: Path | None = None
    cache: Path | None = None


Command = Pretrain | Probe | Compare | Embed | Search | Finetune | Export | Push | Colorize | Predict | List | Cache


def split_pairs(option: str, text: str) -> dict[str, str]:
    """Splits the value of an option that consists of names with values.

    Args:
        option: Name of the option in messages.
        text: Names with values, such as `file=image_id,label=diagnosis`.

    Raises:
        ArgumentError: The text has another form, or a name is given twice.

    Examples:
        >>> split_pairs("--columns", "file=image_id, label=diagnosis")
        {'file': 'image_id', 'label': 'diagnosis'}
    """
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = (part.strip() for part in pair.partition("="))
        if not name or not value or name in found:
            raise ArgumentError(
                f"{option} must be names with values, each name once, such as file=image_id,label=diagnosis; got "
                f"{text!r}"
            )
        found[name] = value
    return found


def label_columns(text: str | None) -> dict[str, str | list[str]]:
    """Reads the value of `--columns`, in which several label columns are joined by `+`."""
    columns: dict[str, str | list[str]] = {**split_pairs("--columns", text)} if text else {}
    if "label" in columns:
        columns["label"] = str(columns["label"]).split("+")
    return columns


def read_missing(text: str | None) -> float | dict[str, float] | None:
    """Reads the value of `--missing`: a number, or a number for each channel that has one.

    Raises:
        ArgumentError: The text has another form.

    Examples:
        >>> read_missing("0"), read_missing("B02=0,band13=-1")
        (0.0, {'B02': 0.0, 'band13': -1.0})
    """
    if text is None:
        return None
    by_channel = split_pairs("--missing", text) if "=" in text else None
    try:
        return float(text) if by_channel is None else {name: float(value) for name, value in by_channel.items()}
    except ValueError as error:
        raise ArgumentError(
            f"--missing must be a number, or numbers with the names of channels, such as B02=0,band13=-1; got {text!r}"
        ) from error


def name_options(message: str) -> str:
    """Replaces the arguments of Python functions that a message names by the options of the command line.

    Examples:
        >>> name_options("FitConfig.epochs must be at least 1; pass resume=True, fewer than per_class=9")
        '--epochs must be at least 1; pass --resume, fewer than --per-class=9'
    """
    configs = (Pretrain, Probe, Compare, Embed, Search, Finetune, Colorize, Predict, ImageOptions, TrainingOptions)
    known = {field.name for config in configs for field in fields(config)}
    names = "|".join(sorted(known, key=len, reverse=True))
    long = "|".join(name for name in known if "_" in name)  # the others are ordinary words, too
    config = "(?:FitConfig|TrainingOptions|FinetuneConfig)"
    argument = rf"{config}\.({names})\b|({names})=True\b|({names})=(?=\d)|({long})(?= must)|(?<=pass )({long})\b"
    found = rf"(?<![\w./-])(?:{argument})"

    def option(match: re.Match[str]) -> str:
        name = next(filter(None, match.groups()))
        return f"--{name.replace('_', '-')}" + "=" * match[0].endswith("=")

    return re.sub(found, option, message)
