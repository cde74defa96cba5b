"""`ssl-pretext probe`: does what was learned help a classifier with few labels?"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_pretext.cli.files import noting_skipped, write_skipped
from ssl_pretext.cli.loading import load_run
from ssl_pretext.cli.options import Probe
from ssl_pretext.data import ImageStore, holdout_split
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import ProbeReport, evaluate
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report import difference_plot
from ssl_pretext.registry import split_specs
from ssl_pretext.reporting.page import Figure, Section, html_page
from ssl_pretext.representations.collapse import collapse_warnings, health_rows
from ssl_pretext.system.files import write_json, write_text
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.tasks import PretextTask

__all__ = ["run"]

log = logging.getLogger(__name__)

ABOUT = (
    "Each row is one frozen representation of the same images. On each the same small classifier was trained, once per "
    "seed. The controls are the same network untrained, the pixels, the channels that the network sees, pixels at the "
    "size of its maps, and of photographs a histogram of colors. Differences are taken seed by seed; ± is half a 95% "
    "interval."
)


def run(options: Probe) -> None:
    """Trains the probes, prints a table for each, and writes the page and the files beside it."""
    probes = split_specs(options.probe)
    for probe in probes:
        find_method(probe, None)  # refuses what it does not know, before anything takes time
    if len(set(probes)) < len(probes):
        raise ArgumentError(f"--probe names one twice: {options.probe}")
    task = load_run(options.run, PretextTask)
    out = options.out or options.run / "probe"
    with exclusive_lock(out):
        _probe(task, probes, options, out)


def _probe(task: PretextTask, probes: Sequence[str], options: Probe, out: Path) -> None:
    with noting_skipped(out):
        train, test, about = _labeled(options, _image_size(task, options), out)
    log.info("%s", about)
    reports: dict[str, ProbeReport] = {}
    for probe in probes:
        reports[probe] = report = evaluate(
            {task.name: task.representation()},
            train,
            test,
            probe=probe,
            per_class=options.per_class,
            seeds=options.seeds,
            cache=out / "cache",
            device=options.device,
        )
        log.info("\n%s probe\n\n%s", probe, report)
    for sentence in collapse_warnings(report.card["health"]):  # the features are those of every probe
        log.warning("\n%s", sentence)
    _write(out, options, about, reports)
    log.info("\nreport: %s", out / "report.html")


def _image_size(task: PretextTask, options: Probe) -> int:
    size = task.trained_on.image_size if options.image_size is None else options.image_size
    if not isinstance(size, int):
        raise ArgumentError(f"{options.run} was pretrained on images of size {size}; give one by --image-size")
    return size


def _labeled(options: Probe, size: int, out: Path) -> tuple[ImageStore, ImageStore, str]:
    """Training and test images, and a sentence about them."""
    data = ImageStore.from_folder(options.data, image_size=size, cache=options.cache)
    skipped = data.skipped
    if options.test is None:
        kept, held_out = holdout_split(data.names, data.labels, fraction=options.holdout, seed=options.holdout_seed)
        train, test = data.subset(kept), data.subset(held_out)
        how = f"held out of them for testing (share {options.holdout}, seed {options.holdout_seed})"
    else:
        train, test = data, ImageStore.from_folder(options.test, image_size=size, cache=options.cache)
        skipped, how = [*skipped, *test.skipped], f"in {options.test} for testing"
    labels = f"{options.per_class} labels" if options.per_class else "all labels"
    about = (
        f"{len(data):,} images of {len(data.classes)} classes in {options.data}, {len(test):,} {how}; {labels} of a "
        f"class, {options.seeds} seeds, {size} px{write_skipped(out, skipped)}"
    )
    return train, test, about


def _write(out: Path, options: Probe, about: str, reports: Mapping[str, ProbeReport]) -> None:
    cards = {probe: report.card for probe, report in reports.items()}
    for probe, report in reports.items():
        report.to_json(out / f"{probe.replace('/', '-')}.json")
    write_json(out / "card.json", {"options": options.to_dict(), "probes": cards})
    sections = [Section("What was compared", [f"{about}.", ABOUT])]
    for probe, report in reports.items():
        picture = difference_plot(report.against_controls(), title=f"{probe} probe")
        figure = Figure(picture, f"{probe} probe: differences from each control in points, with 95% intervals")
        sections.append(Section(f"{probe} probe", report.sentences(), report.rows(), [figure]))
    health = next(iter(reports.values())).card["health"]
    sections.append(Section("Health of the features", collapse_warnings(health), health_rows(health)))
    cards_as_text = json.dumps(cards, indent=2, ensure_ascii=False)
    sections.append(Section("Probe cards", ["Everything that decided the figures."], code=cards_as_text))
    title = f"Does pretraining help? {options.run} on {options.data}"
    write_text(out / "report.html", html_page(title, sections))
