"""The commands and their options as frozen configurations, which tyro turns into a parser and its help.

Nothing here is slow to import. What follows an attribute's name in a docstring is the help of its option.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ssl_pretext.config import Config
from ssl_pretext.training.config import FitConfig

__all__ = ["Colorize", "Command", "List", "Pretrain", "Probe"]


@dataclass(frozen=True, kw_only=True)
class Pretrain(Config):
    """Pretrain an encoder on a folder of images without labels.

    Writes the trained task, checkpoints, logs, pretrain.yaml (all options) and skipped.json (unreadable files).

    Examples:
      ssl-pretext pretrain --data photos --out runs/first
      ssl-pretext pretrain --data photos --encoder timm/resnet18 --out runs/b
      ssl-pretext pretrain --data 'shards/train-{0000..0009}.tar' --out runs/c
      ssl-pretext pretrain --config runs/b/pretrain.yaml --resume

    Attributes:
        data: Folder of images, at any depth; or WebDataset shards, such as "shards/train-{0000..0009}.tar".
        task: What is learned, with options in brackets, such as "colorization[target=rgb]" or
            "split_brain[first=lab:L;second=lab:ab]"; see "ssl-pretext list tasks".
        encoder: The network to pretrain; see "ssl-pretext list encoders".
        losses: Weight of each loss, such as "smooth_l1=1,lpips[net=squeeze]=1"; the task's own if left out.
        image_size: The shortest side is resized to it, and the center cut out.
        epoch_images: Images of shards that make an epoch; all of them, counted once, if left out.
        cache: Folder of decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        config: YAML file of options, such as the pretrain.yaml of another run; the command line has the last word.
        fit: How it is trained.
    """

    module: ClassVar[str] = "pretrain"
    interrupted: ClassVar[str] = "The same command with --resume goes on from the last checkpoint."

    data: str
    task: str = "colorization"
    encoder: str = "autoencoder"
    losses: str | None = None
    image_size: int = 64
    epoch_images: int | None = None
    cache: Path | None = None
    config: Path | None = None
    fit: OmitArgPrefixes[FitConfig]

    def settings(self) -> dict[str, Any]:
        """All options by name, as `--config` takes them; `resume` and `config` are about one call."""
        own = self.to_dict()
        both = {name: own[name] for name in own if name not in ("fit", "config")} | self.fit.to_dict()
        return {name: value for name, value in both.items() if name != "resume"}


@dataclass(frozen=True, kw_only=True)
class Probe(Config):
    """Measure whether pretraining helps a small classifier with few labels, beside the controls.

    Prints a table per probe. Writes report.html, a JSON file per probe, card.json (everything that decided the
    figures) and skipped.json.

    Examples:
      ssl-pretext probe runs/first --data labeled --per-class 10
      ssl-pretext probe runs/first --data train --test test --probe "knn[k=5]"

    Attributes:
        run: Folder of a pretraining run, or of a saved task.
        data: Folder of one folder of images per class.
        test: The same for testing; if left out, a part of --data is held out.
        holdout: Share of each class that is held out for testing where there is no --test.
        holdout_seed: Decides which images that are.
        probe: What is trained on the frozen features, options in brackets; see "ssl-pretext list probes".
        per_class: Labeled images of each class to train on; all of them if left out.
        seeds: Repetitions, from which the intervals come.
        image_size: Side of the images; that of pretraining if left out.
        out: Output folder; RUN/probe if left out.
        cache: Folder of decoded images; $SSL_PRETEXT_CACHE or ~/.cache/ssl_pretext if left out.
        device: auto, cpu or cuda.
    """

    module: ClassVar[str] = "probe"
    interrupted: ClassVar[str] = "The same command goes on; probes that were finished are kept."

    run: Positional[Path]
    data: Path
    test: Path | None = None
    holdout: float = 0.25
    holdout_seed: int = 0
    probe: str = "linear,conv,knn"
    per_class: int | None = None
    seeds: int = 5
    image_size: int | None = None
    out: Path | None = None
    cache: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Colorize(Config):
    """Color photos of any size from their lightness, which stays as it is at full resolution.

    Examples:
      ssl-pretext colorize runs/first photo.jpg -o colored.png
      ssl-pretext colorize runs/first photos -o colored

    Attributes:
        run: Folder of a pretraining run of colorization, or of a saved task.
        photos: A photo, or a folder of photos at any depth.
        out: The picture to write, or a folder of PNG files for a folder. Photos are never overwritten.
    """

    module: ClassVar[str] = "colorize"
    interrupted: ClassVar[str] = "Pictures that were written are whole; the same command writes all of them again."

    run: Positional[Path]
    photos: Positional[Path]
    out: Annotated[Path, arg(aliases=("-o",))]


@dataclass(frozen=True, kw_only=True)
class List(Config):
    """List the names that the other commands know.

    Examples:
      ssl-pretext list tasks
      ssl-pretext list encoders --search resnet

    Attributes:
        kind: Of the parts to list.
        search: Only names that contain it. Without it, the encoders of other libraries are listed as one pattern each.
    """

    module: ClassVar[str] = "names"
    interrupted: ClassVar[str] = ""

    kind: Positional[Literal["tasks", "encoders", "losses", "probes"]]
    search: str | None = None


Command = Pretrain | Probe | Colorize | List
