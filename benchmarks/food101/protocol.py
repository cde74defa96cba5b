"""The data of the documented experiment: which images are used for pretraining, for probes and for tests."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.food101.presets import Preset
from ssl_pretext.data import EXCLUDED_PHOTOS, ImageStore, holdout_split, sample_photos
from ssl_pretext.errors import ArgumentError

__all__ = ["EXCLUDED_CLASSES", "ExperimentData", "open_data", "split_roles"]

# The source lists twenty names, two of them twice (peking_duck, scallops): 18 classes, so 83 are in-domain, not 81.
EXCLUDED_CLASSES = [
    "guacamole",
    "spring_rolls",
    "carrot_cake",
    "paella",
    "lobster_bisque",
    "chicken_wings",
    "ravioli",
    "sashimi",
    "peking_duck",
    "scallops",
    "tuna_tartare",
    "churros",
    "baklava",
    "chocolate_cake",
    "gyoza",
    "baby_back_ribs",
    "cup_cakes",
    "filet_mignon",
]

HELD_OUT = 0.1  # fraction of the training images that the probes get
SAMPLE_NOTE = (
    "This run used the embedded sample: patches of ten freely licensed photographs, each of which is a class. It shows "
    "how the experiment works; its results say nothing about Food-101."
)
SUBSET_NOTE = "This is a subset; the results are not comparable with results on the full Food-101."


@dataclass(frozen=True)
class ExperimentData:
    """The image stores of an experiment, by role.

    Attributes:
        name: Name of the data set, as reports show it.
        note: What readers of the results must know about the data set.
        pretrain: In-domain images for pretraining; their labels are not used.
        validation: Held-out in-domain images.
        excluded: Images of the excluded classes.
        probe_train: Labeled training images of the probes by domain, `"in"` and `"out"`.
        probe_test: Test images by domain.
        spare: Labeled training images by domain that nothing else uses, for choices and for diagnoses.
        skipped: Files that could not be read, with the reason.
    """

    name: str
    note: str
    pretrain: ImageStore
    validation: ImageStore
    excluded: ImageStore
    probe_train: dict[str, ImageStore]
    probe_test: dict[str, ImageStore]
    spare: dict[str, ImageStore]
    skipped: list[dict[str, str]]

    def counts(self) -> dict[str, int]:
        """The number of images by role."""
        return {
            "pretraining": len(self.pretrain),
            "validation": len(self.validation),
            **{f"probe training, {domain}": len(store) for domain, store in self.probe_train.items()},
            **{f"test, {domain}": len(store) for domain, store in self.probe_test.items()},
        }


def split_roles(
    names: Sequence[str], labels: Sequence[int], classes: Sequence[str], excluded: Iterable[str], seed: int
) -> dict[str, list[int]]:
    """Splits the training images 9 : 1 within each class, and both parts by domain.

    Args:
        names: Names of the images.
        labels: Labels of the images.
        classes: Names of the classes.
        excluded: Names of the classes that are excluded from pretraining.
        seed: Seed of the split.

    Returns:
        Indices of the images by role: `pretrain` (nine tenths of the in-domain classes), `probe_in` and `probe_out`
        (one tenth of the in-domain and of the excluded classes).
    """
    out = {classes.index(name) for name in excluded if name in classes}
    kept, held_out = holdout_split(names, labels, fraction=HELD_OUT, seed=seed)
    return {
        "pretrain": [index for index in kept if labels[index] not in out],
        "probe_in": [index for index in held_out if labels[index] not in out],
        "probe_out": [index for index in held_out if labels[index] in out],
    }


def open_data(data: Path | None, preset: Preset, *, seed: int, download: bool = False) -> ExperimentData:
    """Opens the data of an experiment and reduces it to the size of a preset.

    Args:
        data: Folder with `food-101/` in it. None stands for the download folder if `download` is set, and for the
            embedded sample photographs otherwise.
        preset: Size of the run.
        seed: Seed of the split.
        download: Whether to download Food-101 if it is not in the folder.

    Raises:
        ArgumentError: Some of the excluded classes are missing from the data.
    """
    size = preset.image_size
    if data is None and not download:
        train, test = sample_photos("train", image_size=size), sample_photos("test", image_size=size)
        excluded: Sequence[str] = EXCLUDED_PHOTOS
        name, note = "the embedded sample photos", SAMPLE_NOTE
    else:
        root = data or default_download_folder()
        train = ImageStore.from_food101(root, "train", image_size=size, download=download)
        test = ImageStore.from_food101(root, "test", image_size=size, download=download)
        excluded = EXCLUDED_CLASSES
        if missing := set(excluded) - set(train.classes):
            raise ArgumentError(
                f"the data folder {root} lacks the classes {', '.join(sorted(missing))}, which the experiment excludes "
                "from pretraining; use a folder with all classes of Food-101"
            )
        images = len(train) + len(test) + len(train.skipped) + len(test.skipped)
        folder = Path(root).resolve().name.capitalize()
        subset = folder if folder.startswith("Food-101-") else "Food-101"
        name = "Food-101" if images == 101_000 else f"{subset} ({images:,}-image subset)"
        note = "" if images == 101_000 else SUBSET_NOTE
    roles = split_roles(train.names, train.labels.tolist(), train.classes, excluded, seed)
    out = {train.classes.index(name) for name in excluded}
    test_labels = test.labels.tolist()
    domains = {"in": [i for i, label in enumerate(test_labels) if label not in out]}
    domains["out"] = [i for i, label in enumerate(test_labels) if label in out]
    chosen = {
        "in": _spread(sorted(set(range(len(train.classes))) - out), preset.probe_classes),
        "out": _spread(sorted(out), preset.probe_classes),
    }
    pretrain = _limit(train, roles["pretrain"], preset.pretrain_per_class)
    used = {*pretrain.names, *(train.names[index] for role in ("probe_in", "probe_out") for index in roles[role])}
    unused = [index for index, name in enumerate(train.names) if name not in used]
    return ExperimentData(
        name=name,
        note=note,
        pretrain=pretrain,
        validation=_limit(train, roles["probe_in"], preset.validation_per_class),
        excluded=_limit(train, roles["probe_out"], preset.validation_per_class),
        probe_train={
            domain: _limit(train, roles[f"probe_{domain}"], preset.labels_per_class, chosen[domain])
            for domain in ("in", "out")
        },
        probe_test={
            domain: _limit(test, domains[domain], preset.test_per_class, chosen[domain]) for domain in ("in", "out")
        },
        spare={domain: _limit(train, unused, preset.test_per_class, chosen[domain]) for domain in ("in", "out")},
        skipped=[*train.skipped, *test.skipped],
    )


def default_download_folder() -> Path:
    """The folder to which `--download` without `--data` downloads Food-101."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ssl_pretext" / "food101"


def _limit(
    store: ImageStore, indices: Iterable[int], per_class: int | None, classes: Sequence[int] | None = None
) -> ImageStore:
    """A subset with at most `per_class` images of each class, evenly spaced over the given indices."""
    labels = store.labels.tolist()
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        by_class[labels[index]].append(index)
    chosen = [label for label in by_class if classes is None or label in classes]
    return store.subset(sorted(index for label in chosen for index in _spread(by_class[label], per_class)))


def _spread(items: Sequence[int], count: int | None) -> Sequence[int]:
    """Returns `count` of the items, evenly spaced; all of them if there are not more."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]
