"""The command `ssl-pretext probe`, which measures whether pretraining helps a classifier with few labels."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.cli.files import write_skipped, write_skipped_on_error
from ssl_pretext.cli.options import LabeledImages, Probe, split_pairs
from ssl_pretext.data import ImageStore
from ssl_pretext.data.folder_options import few_images
from ssl_pretext.data.splits import split_role
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.probes import ProbeReport, evaluate
from ssl_pretext.probes.gallery import picture_sections
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report_page import card_sections, confusion_section
from ssl_pretext.probes.targets import find_kind
from ssl_pretext.registry import split_specs
from ssl_pretext.reporting.page import Section, html_page
from ssl_pretext.representations import FrozenNetwork, Representation
from ssl_pretext.representations.collapse import collapse_warnings
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json, write_text
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import on_rank_zero, rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.tasks.checkpoint import AVERAGED
from ssl_pretext.training.image_manifest import read_digests
from ssl_pretext.training.run_page import HISTORY, describe_training, example_sections, loss_sections

__all__ = ["check_labels", "load_images", "open_folders", "run", "write_results"]

log = logging.getLogger(__name__)

ROLES = ("train", "val", "test")
HOLDOUT = 0.25  # fraction that is held out if neither an option nor a table says which images are for testing

ABOUT = (
    "Each row is one frozen representation of the same images. The same kind of small classifier was trained on each "
    "of them, once per seed. The controls are the same network without training, the same network with the published "
    "weights that its training started from (if there are any), the pixels, the channels that the network takes as "
    "input, the pixels at the size of the network's feature maps and, for photographs, a color histogram. Differences "
    "are paired by seed and test image; ± is half the width of a 95% interval, which covers the seeds and the choice "
    "of the labeled images and of the test images."
)


def run(options: Probe) -> None:
    """Trains the probes, prints a table for each, and writes the report page and the JSON files.

    Raises:
        PretextError: The task or the images cannot be loaded, or an option is invalid.
    """
    probes = split_specs(options.probe)
    for probe in probes:
        find_method(
            probe, None, find_kind(options.target)
        )  # raises an error for an unknown name before the slow work starts
    if len(set(probes)) < len(probes):
        raise ArgumentError(f"--probe must name each probe once, got {options.probe}")
    task = PretextTask.from_pretrained(options.run)
    compared = {task.name: task.representation(pooling=options.pooling)} | _averaged(options) | _others(options)
    out = options.out or options.run / "probe"
    with exclusive_lock(out):
        _probe(task, compared, probes, options, out)


def _averaged(options: Probe) -> dict[str, Representation]:
    """The same network with the moving average of its weights, if the run kept one."""
    if not (options.run / AVERAGED).is_dir():
        return {}
    task = PretextTask.from_pretrained(options.run / AVERAGED)
    return {f"{task.name} (averaged weights)": task.representation(pooling=options.pooling)}


def _others(options: Probe) -> dict[str, Representation]:
    """The networks that are evaluated beside the run."""
    found = {}
    for name in split_specs(options.compare) if options.compare else []:
        network = PretextTask.from_pretrained(name) if Path(name).is_dir() else FrozenNetwork(name)
        found[name] = network.representation(pooling=options.pooling)
    return found


def _probe(
    task: PretextTask, compared: Mapping[str, Representation], probes: Sequence[str], options: Probe, out: Path
) -> None:
    train, test, about = load_images(task, options.run, options, out)
    log.info("%s", about)
    pretraining = read_digests(options.run) or None
    reports: dict[str, ProbeReport] = {}
    for probe in probes:
        reports[probe] = report = evaluate(
            compared,
            train,
            test,
            probe=probe,
            target=options.target,
            per_class=options.per_class,
            num_labels=options.num_labels,
            seeds=options.seeds,
            pretraining=pretraining,
            controls=True if options.controls is None else split_specs(options.controls),
            cache=out / "cache",
            device=options.device,
        )
        log.info("\n%s probe\n\n%s", probe, report)
    if rank_info().rank:
        return  # the first process writes the results
    # One report is enough, because all probes use the same features.
    for sentence in collapse_warnings(report.card["health"]):
        log.warning("\n%s", sentence)
    write_results(
        out,
        options.to_dict(),
        reports,
        title=f"Does pretraining help? {options.run} on {options.data}",
        lead=f"{describe_training(task)}. Judged on {about}.",
        compared=[f"{about}.", ABOUT],
        pictures=_pictures(options, task, compared[task.name], train, test),
    )


def load_images(task: PretextTask, run: Path, options: LabeledImages, out: Path) -> tuple[ImageStore, ImageStore, str]:
    """Returns the training images, the test images, and a description of both; writes `skipped.json`."""
    size = _image_size(task, run, options)
    check_labels(options)
    with write_skipped_on_error(out):
        _check_channels(task, run, options)
        (folder, data), *others = open_folders(options, size)
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
    kinds = f"of {len(data.classes)} classes" if options.target == "class" else f"with {options.target}"
    labels = f"{options.per_class} labels per class" if options.per_class else f"{options.num_labels or 'all'} labels"
    about = (
        f"{len(data):,} images {kinds} in {folder}, {len(test):,} {source}; {labels}, {options.seeds} seeds, {size} px"
        f"{on_rank_zero('skipped', lambda: write_skipped(out, skipped))}"
    )
    return train, test, about


def _image_size(task: PretextTask, run: Path, options: LabeledImages) -> int:
    """Returns the size of the images that a run is judged on, which is a single number."""
    size = task.trained_on.image_size if options.image_size is None else options.image_size
    if not isinstance(size, int):
        raise ArgumentError(
            f"{run} records the image size {size}, but {options.module} needs a single number; set --image-size"
        )
    return size


def _check_channels(task: PretextTask, run: Path, options: LabeledImages) -> None:
    """Raises if the images have other channels than those of the run, which a few of them show."""
    wanted, example = task.image_space.image_channels, None
    for name, image in few_images(options.data, **options.images.arguments()):
        if len(image.pixels) == wanted:
            return
        example = example or (name, len(image.pixels))
    if example is not None:
        raise ArgumentError(
            f"{run} was trained on images with {wanted} channels, but those in {options.data} have "
            f"{example[1]}, such as {example[0]}; name a folder of images like those of the run, or another run"
        )


def check_labels(options: LabeledImages) -> None:
    """Raises unless the options of the images fit each other."""
    if options.holdout is not None and not 0 < options.holdout < 1:
        raise ArgumentError(f"--holdout must be between 0 and 1, got {options.holdout}")
    if options.labels is not None and options.test is not None:
        raise ArgumentError(
            "--test is for folders with one subfolder per class; state the test images in the column split of --labels"
        )
    if options.labels is None and (options.columns is not None or options.target != "class"):
        name = "--columns" if options.columns is not None else f"--target {options.target}"
        raise ArgumentError(f"{name} is for the table of --labels; name the table, or leave the option out")


def open_folders(options: LabeledImages, size: int) -> list[tuple[Path, ImageStore]]:
    """Opens the folder of the images, and that of the test images if there is one, named or found beside the other."""
    folders = [options.data] if options.test is None else [options.data, options.test]
    try:
        return [(folder, _open(folder, size, options)) for folder in folders]
    except DataError as error:
        roles = {role: [path for path in error.splits if split_role(path.name) == role] for role in ROLES}
        found = [*roles["train"], *(roles["test"] or roles["val"])]
        if len(found) != 2 or not roles["train"] or options.test is not None or options.holdout is not None:
            if len(error.splits) > 1:
                train, *_, test = map(shlex.quote, map(str, error.splits))
                raise DataError(f"{error}: --data {train} --test {test}") from error
            raise
    log.info("%s has splits: training on %s, testing on %s", options.data, *found)
    return [(folder, _open(folder, size, options)) for folder in found]


def _open(folder: Path, size: int, options: LabeledImages) -> ImageStore:
    """Opens labeled images."""
    arguments = {"image_size": size, "cache": options.cache, **options.images.arguments()}
    if options.labels is None:
        store = ImageStore.from_folder(folder, **arguments)
        if (pattern := options.images.pattern) is not None and store.classes == ["unlabeled"]:
            raise ArgumentError(
                f"--pattern {pattern} has no part label, which is the class; add it, such as {{label}}_{{id}}.jpg, or "
                "name a table with --labels"
            )
        return store
    columns: dict[str, str | list[str]] = {**split_pairs("--columns", options.columns)} if options.columns else {}
    if "label" in columns:
        columns["label"] = str(columns["label"]).split("+")
    return ImageStore.from_table(options.labels, folder, target=options.target, columns=columns, **arguments)


def _pictures(
    options: Probe, task: PretextTask, representation: Representation, train: ImageStore, test: ImageStore
) -> list[Section]:
    """Predictions of the task, the nearest neighbors and the map of test images, and the losses of the run."""
    history = options.run / HISTORY
    return [
        *example_sections(task, test),
        *picture_sections(task.name, representation, train, test, device=resolve_device(options.device)),
        *(loss_sections(read_json(history)) if history.is_file() else []),
    ]


def write_results(
    out: Path,
    options: Mapping[str, Any],
    reports: Mapping[str, ProbeReport],
    *,
    title: str,
    lead: str,
    compared: Sequence[str],
    pictures: Sequence[Section] = (),
) -> None:
    """Writes the reports by probe as JSON files, their cards with the options of the command, and the report page.

    Args:
        out: Folder of the files.
        options: Options of the command.
        reports: Reports by the name of the probe; the first one answers the question of the page.
        title: Title of the page.
        lead: What was trained and judged on what, in a line.
        compared: What was compared, in sentences.
        pictures: Sections with pictures, which follow the answer.
    """
    cards = {probe: report.card for probe, report in reports.items()}
    for probe, report in reports.items():
        report.to_json(out / f"{probe.replace('/', '-')}.json")
    write_json(out / "card.json", {"options": dict(options), "probes": cards})
    first = next(iter(reports.values()))
    sections = [
        *pictures,
        *confusion_section(first),
        *(report.section(f"{probe} probe") for probe, report in reports.items()),
        Section("What was compared", compared, collapsed=True),
        *card_sections(reports),
    ]
    write_text(out / "report.html", html_page(title, sections, verdict=first.verdict(), lead=lead))
    log.info("\nreport: %s", out / "report.html")
