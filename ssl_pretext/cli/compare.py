"""The command `ssl-pretext compare`, which finds out which of several networks has the best features."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.cli.judging import evaluation_options, load_labeled_images
from ssl_pretext.cli.networks import Network, open_networks
from ssl_pretext.cli.options import Compare
from ssl_pretext.cli.probe import run_pictures
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import ProbeReport, evaluate, label_efficiency
from ssl_pretext.probes.controls import CONTROLS
from ssl_pretext.probes.efficiency import score_rows
from ssl_pretext.probes.ranking import Ranking, answer, rank
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report_page import (
    card_sections,
    confusion_section,
    difference_drawing,
    interval_drawing,
    labels_drawing,
)
from ssl_pretext.probes.targets import find_kind
from ssl_pretext.probes.verdict import warnings
from ssl_pretext.registry import duplicates, joined, split_specs
from ssl_pretext.reporting.page import Section, Verdict, html_page, markdown_table
from ssl_pretext.system.files import write_json, write_text
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import rank_info

__all__ = ["run"]

log = logging.getLogger(__name__)

ABOUT = (
    "Each row is one frozen representation of the same images. The same probe was trained on each of them, with the "
    "same labels, once per seed. ± is half the width of a 95% interval, which covers the seeds and the choice of the "
    "labeled images and of the test images."
)


def run(options: Compare) -> None:
    """Trains the probe on all networks, prints the answer and a table, and writes the page and the results.

    Raises:
        PretextError: A network or the images cannot be loaded, or an option is invalid.
    """
    find_method(options.probe, None, find_kind(options.target))  # before the slow work starts
    budgets = _budgets(options)
    named = [name for name in options.networks if name not in CONTROLS]
    controls = dict.fromkeys([*(name for name in options.networks if name in CONTROLS), *split_specs(options.controls)])
    networks = open_networks(named, layer=options.layer, pooling=options.pooling)
    with exclusive_lock(options.out):
        _compare(networks, [name for name in controls if name], budgets, options)


def _budgets(options: Compare) -> list[int] | None:
    """Returns the numbers of labels in ascending order, or None for all labels."""
    wanted, other = ("per_class", "num_labels") if options.target == "class" else ("num_labels", "per_class")
    option, text = f"--{wanted.replace('_', '-')}", getattr(options, wanted)
    if getattr(options, other) is not None:
        raise ArgumentError(f"for --target {options.target}, use {option} in place of --{other.replace('_', '-')}")
    if text is None:
        return None
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in numbers) or duplicates(numbers):
        raise ArgumentError(f"{option} must be numbers of labels separated by commas, such as 5,10,50; got {text!r}")
    return sorted(map(int, numbers))


def _compare(
    networks: Sequence[Network], controls: Sequence[str], budgets: Sequence[int] | None, options: Compare
) -> None:
    each = "labels per class" if options.target == "class" else "labels"
    amounts = "all labels" if budgets is None else f"{joined(list(map(str, budgets)))} {each}"
    train, test, about = load_labeled_images(options, networks, options.out, amounts)
    log.info("%s", about)
    reports = _reports(networks, controls, budgets, options, train, test)
    if rank_info().rank:
        return  # the first process writes the results
    named = {"all labels" if count is None else f"{count} {each}": report for count, report in reports.items()}
    rankings = rank(named)
    sentences = answer(rankings)
    rows = score_rows(named)
    log.info("\n%s\n\n%s", "\n".join(sentences), markdown_table(rows))
    best = next((one for one in networks if one.name == list(rankings.values())[-1].best), None)
    pictures = [] if best is None else run_pictures(best, best.name, train, test, device=options.device)
    _write(options, about, reports, rankings, sentences, rows, pictures)
    log.info("\nreport: %s", options.out / "report.html")


def _reports(
    networks: Sequence[Network],
    controls: Sequence[str],
    budgets: Sequence[int] | None,
    options: Compare,
    train: ImageStore,
    test: ImageStore,
) -> dict[int | None, ProbeReport]:
    """Returns the report of each number of labels; None stands for all labels."""
    compared = {network.name: network.representation for network in networks}
    common = evaluation_options(options, networks, options.out, probe=options.probe, controls=controls)
    if budgets is None:
        return {None: evaluate(compared, train, test, **common)}
    counts = {"per_class": budgets} if options.target == "class" else {"num_labels": budgets}
    return dict(label_efficiency(compared, train, test, **counts, **common).reports.items())


def _write(
    options: Compare,
    about: str,
    reports: Mapping[int | None, ProbeReport],
    rankings: Mapping[str, Ranking],
    sentences: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Section],
) -> None:
    out: Path = options.out
    results = {key: ranking.report.to_dict() for key, ranking in rankings.items()}
    write_json(out / "compare.json", {"options": options.to_dict(), "answer": sentences, "reports": results})
    key, last = list(rankings.items())[-1]
    report, metric = last.report, last.report.metric()
    drawings = [difference_drawing(last.rows, last.best, key, metric)]
    if len(reports) > 1:
        drawings.insert(0, labels_drawing({int(count): one for count, one in reports.items() if count is not None}))
    question = f"Which features are best on {options.data}?"
    verdict = Verdict(
        f"With {key}, which features are best?",
        last.best if last.is_clear else "Not shown",
        sentences,
        interval_drawing(report, last.best),
    )
    sections = [
        Section("How do they score?", table=rows, drawings=drawings),
        *pictures,
        *confusion_section(report, last.best),
        *(Section(f"All differences with {key}", _differences(one), collapsed=True) for key, one in rankings.items()),
        Section("What was compared", [ABOUT, *warnings(report.card, report.runs)], collapsed=True),
        *card_sections({options.probe: report}),
    ]
    page = html_page(question, sections, verdict=verdict, lead=f"Judged on {about}.")
    write_text(out / "report.html", page)


def _differences(ranking: Ranking) -> list[str]:
    return [f"- {ranking.best}: {ranking.describe(row)}; corrected p = {row['p_holm']:.2g}." for row in ranking.rows]
