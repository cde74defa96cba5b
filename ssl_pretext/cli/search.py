"""The command `ssl-pretext search`, which finds out which pretext task suits the images, or whether none is needed."""

import json
import logging
import shlex
from dataclasses import fields
from pathlib import Path

from ssl_pretext.cli.bands import choose_bands, image_format, read_bands, with_missing
from ssl_pretext.cli.files import write_options, write_skipped, write_skipped_on_error
from ssl_pretext.cli.judging import check_labels, open_folders, read_labels
from ssl_pretext.cli.networks import check_same_channels, open_network
from ssl_pretext.cli.options import ImageOptions, LabeledImages, Search
from ssl_pretext.cli.probe import run_pictures
from ssl_pretext.data import ImageStore
from ssl_pretext.data.folder_options import few_images
from ssl_pretext.data.tables import Table
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes.report_page import confusion_section, interval_drawing
from ssl_pretext.registry import joined, split_specs
from ssl_pretext.reporting.drawings import Drawing, IntervalRow, interval_chart
from ssl_pretext.reporting.page import Section, Verdict, html_page
from ssl_pretext.selection import SearchConfig, SearchResult
from ssl_pretext.selection.search import search
from ssl_pretext.system.files import write_text
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.tasks import PretextTask

__all__ = ["run"]

log = logging.getLogger(__name__)

OPTIONS_FILE = "search.yaml"
ABOUT = (
    "Each task pretrained the same encoder on the images without labels: all of them for a short time, the best third "
    "for a longer one, and the best for the longest. The figures are the accuracies of a small classifier on held-out "
    "labeled images, which are also what the tasks were chosen by; ± is half the width of a 95% interval. The rows of "
    "controls show what needs no pretraining: the same network with random weights, the pixels, and for photos a color "
    "histogram."
)


def run(options: Search) -> None:
    """Searches, prints the table, the recommendation and the commands, and writes the report page.

    Raises:
        PretextError: The images cannot be read, an option is invalid, or the time is too short.
    """
    if options.labeled is None and options.labels is None and options.images.pattern is None:
        raise ArgumentError(
            "search needs labels; name a folder of labeled images with --labeled, or a table with --labels"
        )
    bands = None if options.bands is None else read_bands(options.bands)
    of_images = with_missing(options.images, bands)
    config = SearchConfig(
        tasks=None if options.tasks is None else tuple(split_specs(options.tasks)),
        compare=() if options.compare is None else tuple(split_specs(options.compare)),
        **{
            name: getattr(options, name)
            for name in ("encoder", "probe", "learning_rate", "batch_size", "seed", "device")
        },
    )
    with exclusive_lock(options.out):
        given = {name: getattr(options, name) for name in ("labels", "columns", "test", "cache")}
        request = LabeledImages(data=options.labeled or options.data, images=of_images, **given)
        check_labels(request)
        with write_skipped_on_error(options.out):
            table = read_labels(request)
            few = list(few_images(options.data, **of_images.arguments()))
            for folder in filter(None, (request.data, request.test)):
                check_same_channels(options.data, few, folder, few_images(folder, table, **of_images.arguments()))
            images = ImageStore.from_folder(
                options.data,
                image_size=options.size,
                labeled=False,
                cache=options.cache,
                **of_images.arguments(),
            )
            labeled, test = _labeled_images(request, options.size, table)
        log.info(
            "%s images of %s px to pretrain on, %s labeled, %s for testing; %g minutes%s",
            *(f"{len(images):,}", images.image_size, f"{len(labeled):,}", "none" if test is None else f"{len(test):,}"),
            options.minutes,
            write_skipped(options.out, images.skipped),
        )
        result = search(
            images,
            labeled,
            test=test,
            minutes=options.minutes,
            out=options.out,
            bands=choose_bands(bands, image_format(images)),
            config=config,
        )
        write_options(options.out / OPTIONS_FILE, options.settings())
        commands = _commands(options, of_images, result)
        PretextTask.from_pretrained(result.run).save_pretrained(options.out / "task")
        _write_page(options, result, commands, labeled, test)
    log.info("\n%s\n\nto repeat the best run:\n%s", result, "\n".join(f"  {line}" for line in commands))
    log.info("\nnetwork: %s", options.out / "task")
    log.info("\nreport: %s", options.out / "report.html")


def _labeled_images(request: LabeledImages, size: int, table: Table | None) -> tuple[ImageStore, ImageStore | None]:
    """Returns the labeled training images, and the test images if a folder or a table states some."""
    (_, data), *others = open_folders(request, size, table)
    if others:
        return data, others[0][1]
    return data.split() if data.splits is not None else (data, None)


def _commands(options: Search, of_images: ImageOptions, result: SearchResult) -> list[str]:
    """Returns the commands that repeat the best run and evaluate it."""
    again = f"{options.out}-best"
    fit = result.fit
    pretrain = [
        *("pretrain", "--data", str(options.data), "--task", result.task, "--encoder", result.encoder),
        *([] if options.bands is None else ["--bands", options.bands]),
        *("--image-size", str(options.size), "--epochs", str(fit.epochs), "--max-steps", str(fit.max_steps)),
        *("--batch-size", str(fit.batch_size), "--learning-rate", str(fit.learning_rate), "--seed", str(fit.seed)),
        *("--precision", fit.precision, "--memory-format", fit.memory_format),
        *_words(options.images),
    ]
    probe = ["probe", again, "--data", str(options.labeled or options.data), "--probe", options.probe]
    for name in ("labels", "columns", "test"):
        if (value := getattr(options, name)) is not None:
            probe += [f"--{name}", str(value)]
    commands = [*pretrain, "--out", again], [*probe, *_words(of_images)]
    return [shlex.join(["ssl-pretext", *words]) for words in commands]


def _words(images: ImageOptions) -> list[str]:
    """The options that are not the defaults, as they are typed."""
    given = [
        [option] if value is True else [option, str(value)]
        for name, option in ((field.name, f"--{field.name.replace('_', '-')}") for field in fields(images))
        if (value := getattr(images, name)) != getattr(ImageOptions(), name)
    ]
    return [word for words in given for word in words]


def _write_page(
    options: Search, result: SearchResult, commands: list[str], labeled: ImageStore, test: ImageStore | None
) -> None:
    found, best = result.recommendation, result.rows[0].name
    answer = "Not shown" if not found.shown else "Yes" if found.use == best else "No"
    question = f"Does pretraining on {options.data} help?"
    drawing = _drawing(result) if result.report is None else interval_drawing(result.report, best)
    verdict = Verdict(question, answer, [found.sentence, *result.remarks], drawing)
    notes: dict[str, list[str]] = {}  # of tasks without a figure, by the reason
    for row in result.rows:
        if row.accuracy is None:
            notes.setdefault(row.note, []).append(row.name)
    sections = [
        Section(
            "The tasks that were tried",
            [ABOUT, *(f"- {joined(names)}: {note}" for note, names in notes.items())],
            [row.shown() for row in result.rows if row.accuracy is not None],
        )
    ]
    if test is not None:
        network = open_network(str(result.run), layer=None, pooling="map")
        sections += run_pictures(network, best, labeled, test, device=options.device)
    if result.report is not None:
        sections += [*confusion_section(result.report, best), result.report.section("On the test images")]
    sections += [
        Section("To repeat the best run", code="\n".join(commands)),
        Section("Settings", code=json.dumps(options.settings(), indent=2, ensure_ascii=False), collapsed=True),
    ]
    lead = (
        f"{best} was the best of {sum(row.kind == 'task' for row in result.rows)} pretext tasks after "
        f"{result.minutes:.0f} minutes, chosen by {len(labeled):,} labeled images."
    )
    title = f"Which pretext task for {options.data}?"
    write_text(Path(options.out) / "report.html", html_page(title, sections, verdict=verdict, lead=lead))


def _drawing(result: SearchResult) -> Drawing:
    """All tasks and controls with their accuracies on held-out labels."""
    rows = [
        IntervalRow(
            row.name,
            100 * row.accuracy,
            100 * row.ci95,
            f"{100 * row.accuracy:.1f} ± {100 * row.ci95:.1f}",
            "main" if row is result.rows[0] else "other" if row.kind == "task" else "control",
        )
        for row in result.rows
        if row.accuracy is not None and row.ci95 is not None
    ]
    return interval_chart(
        rows, caption="Accuracy on held-out labels, %. Each bar is a 95% interval; gray rows need no pretraining."
    )
