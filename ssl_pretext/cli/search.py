"""The command `ssl-pretext search`, which finds out which pretext task suits the images, or whether none is needed."""

import json
import logging
import shlex
from dataclasses import fields
from pathlib import Path

from ssl_pretext.cli.bands import choose_bands, image_format, read_bands, with_missing
from ssl_pretext.cli.files import write_options, write_skipped, write_skipped_on_error
from ssl_pretext.cli.judging import check_labels, open_folders
from ssl_pretext.cli.options import ImageOptions, LabeledImages, Search
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.registry import split_specs
from ssl_pretext.reporting.page import Section, html_page
from ssl_pretext.selection import SearchConfig, SearchResult
from ssl_pretext.selection.search import search
from ssl_pretext.system.files import write_text
from ssl_pretext.system.locks import exclusive_lock

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
        with write_skipped_on_error(options.out):
            images = ImageStore.from_folder(
                options.data,
                image_size=options.size,
                labeled=False,
                cache=options.cache,
                **of_images.arguments(),
            )
            labeled, test = _labeled_images(options, of_images)
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
        _write_page(options, result, commands)
    log.info("\n%s\n\nrun: %s\nto repeat it:\n%s", result, result.run, "\n".join(f"  {line}" for line in commands))
    log.info("\nreport: %s", options.out / "report.html")


def _labeled_images(options: Search, of_images: ImageOptions) -> tuple[ImageStore, ImageStore | None]:
    """Returns the labeled training images, and the test images if a folder or a table states some."""
    given = {name: getattr(options, name) for name in ("labels", "columns", "test", "cache")}
    request = LabeledImages(data=options.labeled or options.data, images=of_images, **given)
    check_labels(request)
    (_, data), *others = open_folders(request, options.size)
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


def _write_page(options: Search, result: SearchResult, commands: list[str]) -> None:
    sections = [
        Section("Recommendation", [result.recommendation.sentence, *result.remarks]),
        Section("Tasks and controls", [ABOUT], [row.shown() for row in result.rows]),
    ]
    if result.report is not None:
        sections.append(result.report.section("On the test images"))
    sections.append(Section("To repeat the best run", code="\n".join(commands)))
    sections.append(Section("Settings", code=json.dumps(options.settings(), indent=2, ensure_ascii=False)))
    title = f"Which pretext task for {options.data}?"
    write_text(Path(options.out) / "report.html", html_page(title, sections))
