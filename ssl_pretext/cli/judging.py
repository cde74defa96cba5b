"""What the commands that judge networks share: labeled images, split for testing, and the options of `evaluate`."""

import logging
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from ssl_pretext.cli.files import write_skipped, write_skipped_on_error
from ssl_pretext.cli.networks import Network, check_channels, choose_image_size
from ssl_pretext.cli.options import LabeledImages, label_columns
from ssl_pretext.data import ImageStore
from ssl_pretext.data.folder_options import few_images
from ssl_pretext.data.splits import split_role
from ssl_pretext.data.tables import Table, read_table
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.probes.options import EvaluateOptions
from ssl_pretext.system.processes import on_rank_zero

__all__ = [
    "check_labels",
    "describe_labels",
    "evaluation_options",
    "load_labeled_images",
    "open_folders",
    "read_labels",
]

log = logging.getLogger(__name__)

ROLES = ("train", "val", "test")
HOLDOUT = 0.25  # fraction that is held out if neither an option nor a table says which images are for testing


def evaluation_options(
    options: LabeledImages, networks: Sequence[Network], out: Path, *, probe: str, controls: bool | Collection[str]
) -> EvaluateOptions:
    """Returns the options of `evaluate` and `label_efficiency`; features and finished probes are kept in a folder."""
    seen = [known for network in networks if (known := network.known_images()) is not None]
    return {
        "probe": probe,
        "target": options.target,
        "seeds": options.seeds,
        "pretraining": seen or None,
        "controls": controls,
        "cache": out / "cache",
        "device": options.device,
        "precision": options.precision,
        "memory_format": options.memory_format,
    }


def describe_labels(per_class: int | None, num_labels: int | None) -> str:
    """Describes the labels that are used."""
    return f"{per_class} labels per class" if per_class else f"{num_labels or 'all'} labels"


def load_labeled_images(
    options: LabeledImages, networks: Sequence[Network], out: Path, labels: str
) -> tuple[ImageStore, ImageStore, str]:
    """Returns the training images, the test images, and a description of both.

    Args:
        options: Options of the command.
        networks: Networks that take the images, which determine their size unless an option does.
        out: Output folder, to which the list of unreadable images is written.
        labels: Description of the labels that are used.

    Raises:
        PretextError: The images cannot be loaded or do not fit the networks, or an option is invalid.
    """
    check_labels(options)
    size = choose_image_size(options.image_size, networks)
    with write_skipped_on_error(out):
        table = read_labels(options)
        for folder in filter(None, (options.data, options.test)):
            few = few_images(folder, table, masks=options.masks, **options.images.arguments())
            check_channels(networks, folder, few)
        (folder, data), *others = open_folders(options, size, table)
    skipped = data.skipped
    if others:
        train, (test_folder, test) = data, others[0]
        skipped, source = [*skipped, *test.skipped], f"in {test_folder} for testing"
    elif options.holdout is None and data.splits is not None:
        train, test = data.split()
        source = f"of them for testing and {len(train):,} for training, as {options.labels} states"
    else:
        fraction = HOLDOUT if options.holdout is None else options.holdout
        train, test = data.split(fraction, seed=options.holdout_seed)
        groups = "" if test.groups is None else f", {len({*test.groups})} groups"
        source = f"of them held out for testing (fraction {fraction}, seed {options.holdout_seed}{groups})"
    targets = "masks" if options.masks is not None else options.target
    kinds = f"of {len(data.classes)} classes" if options.target == "class" else f"with {targets}"
    about = (
        f"{len(data):,} images {kinds} in {folder}, {len(test):,} {source}; {labels}, {options.seeds} seeds, {size} px"
        f"{on_rank_zero('skipped', lambda: write_skipped(out, skipped))}"
    )
    return train, test, about


def check_labels(options: LabeledImages) -> None:
    """Raises unless the options of the images fit each other."""
    if options.holdout is not None and not 0 < options.holdout < 1:
        raise ArgumentError(f"--holdout must be between 0 and 1, got {options.holdout}")
    if options.labels is not None and options.test is not None:
        raise ArgumentError(
            "--test is for folders with one subfolder per class; state the test images in the column split of --labels"
        )
    if (options.masks is None) != (options.target != "mask"):
        raise ArgumentError(f"--masks and --target mask belong together, got --target {options.target}")
    if options.masks is not None:
        if options.labels is not None or options.images.pattern is None:
            raise ArgumentError(
                "--masks is for images that --pattern describes, such as --pattern '{place}_rgb.png' --masks "
                "'{place}_mask.png', and not for those of --labels"
            )
        return
    if options.labels is None and (options.columns is not None or options.target != "class"):
        name = "--columns" if options.columns is not None else f"--target {options.target}"
        raise ArgumentError(f"{name} is for the table of --labels; name the table, or leave the option out")


def read_labels(options: LabeledImages) -> Table | None:
    """Reads the table of the labels, if one is named."""
    return (
        None if options.labels is None else read_table(options.labels, label_columns(options.columns), options.target)
    )


def open_folders(options: LabeledImages, size: int, table: Table | None) -> list[tuple[Path, ImageStore]]:
    """Opens the folder of the images, and that of the test images if there is one, named or found beside the other."""
    folders = [options.data] if options.test is None else [options.data, options.test]
    try:
        return [(folder, _open(folder, size, options, table)) for folder in folders]
    except DataError as error:
        roles = {role: [path for path in error.splits if split_role(path.name) == role] for role in ROLES}
        found = [*roles["train"], *(roles["test"] or roles["val"])]
        if len(found) != 2 or not roles["train"] or options.test is not None or options.holdout is not None:
            if len(error.splits) > 1:
                train, *_, test = map(shlex.quote, map(str, error.splits))
                raise DataError(f"{error}: --data {train} --test {test}") from error
            raise
    log.info("%s has splits: training on %s, testing on %s", options.data, *found)
    return [(folder, _open(folder, size, options, table)) for folder in found]


def _open(folder: Path, size: int, options: LabeledImages, table: Table | None) -> ImageStore:
    """Opens labeled images."""
    arguments = {"image_size": size, "cache": options.cache, **options.images.arguments()}
    if options.masks is not None:
        return ImageStore.from_folder(folder, masks=options.masks, **arguments)
    if table is None:
        store = ImageStore.from_folder(folder, **arguments)
        if (pattern := options.images.pattern) is not None and store.classes == ["unlabeled"]:
            raise ArgumentError(
                f"--pattern {pattern} has no part label, which is the class; add it, such as {{label}}_{{id}}.jpg, or "
                "name a table with --labels"
            )
        return store
    return ImageStore.from_table(table, folder, **arguments)
