"""The command `ssl-pretext probe`, which measures whether pretraining helps a classifier with few labels."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.cli.judging import describe_labels, evaluation_options, load_labeled_images
from ssl_pretext.cli.model_cards import report_file, update_card
from ssl_pretext.cli.networks import Network, open_network, open_networks
from ssl_pretext.cli.options import Probe
from ssl_pretext.data import ImageStore
from ssl_pretext.errors import ArgumentError
from ssl_pretext.probes import ProbeReport, evaluate
from ssl_pretext.probes.controls import CONTROLS, JOINED
from ssl_pretext.probes.gallery import picture_sections
from ssl_pretext.probes.registry import find_method
from ssl_pretext.probes.report_page import card_sections, confusion_section
from ssl_pretext.probes.targets import find_kind
from ssl_pretext.registry import joined, split_specs
from ssl_pretext.reporting.page import Section, html_page
from ssl_pretext.representations import Representation
from ssl_pretext.representations.collapse import collapse_warnings
from ssl_pretext.system.devices import resolve_device
from ssl_pretext.system.files import read_json, write_json, write_text
from ssl_pretext.system.locks import exclusive_lock
from ssl_pretext.system.processes import rank_info
from ssl_pretext.tasks import PretextTask
from ssl_pretext.tasks.checkpoint import AVERAGED
from ssl_pretext.training.run_page import HISTORY, describe_training, example_sections, loss_sections

__all__ = ["run", "run_pictures", "write_results"]

log = logging.getLogger(__name__)

ABOUT = (
    "Each row is one frozen representation of the same images. The same kind of small classifier was trained on each "
    "of them, once per seed. The controls are the same network without training, the same network with the published "
    "weights that its training started from (if there are any), the pixels, the channels that the network takes as "
    "input, the pixels at the size of the network's feature maps and, for photographs, a color histogram. Another row "
    "has the histogram joined with the features, to see what they add to it. Differences are paired by seed and test "
    "image; ± is half the width of a 95% interval, which covers the seeds and the choice of the labeled images and of "
    "the test images."
)


def run(options: Probe) -> None:
    """Trains the probes, prints a table for each, and writes the report page and the JSON files.

    Raises:
        PretextError: A network or the images cannot be loaded, or an option is invalid.
    """
    probes = split_specs(options.probe)
    for probe in probes:  # an unknown name is an error before the slow work starts
        find_method(probe, None, find_kind(options.target))
    if len(set(probes)) < len(probes):
        raise ArgumentError(f"--probe must name each probe once, got {options.probe}")
    networks = open_networks(options.runs, layer=options.layer, pooling=options.pooling)
    out = _output_folder(options, networks[0])
    compared = _compared(networks, options)
    with exclusive_lock(out):
        _probe(networks, compared, probes, options, out)


def _output_folder(options: Probe, first: Network) -> Path:
    if options.out is not None:
        return options.out
    if first.folder is None:
        raise ArgumentError(f"{first.name} has no folder to write to; choose one with --out")
    return first.folder / "probe"


def _compared(networks: Sequence[Network], options: Probe) -> dict[str, Representation]:
    """Returns what the tables compare, by name; runs that kept a moving average of their weights have a row for it."""
    compared: dict[str, Representation] = {}
    for network in networks:
        name = network.name
        if len(networks) == 1 and isinstance(network.network, PretextTask):
            name = network.network.name  # a single run is called by its task
        compared[name] = network.representation
        if network.folder is not None and (network.folder / AVERAGED).is_dir():
            averaged = open_network(str(network.folder / AVERAGED), layer=network.layer, pooling=options.pooling)
            compared[f"{name} (averaged weights)"] = averaged.representation
    return compared


def _probe(
    networks: Sequence[Network],
    compared: Mapping[str, Representation],
    probes: Sequence[str],
    options: Probe,
    out: Path,
) -> None:
    labels = describe_labels(options.per_class, options.num_labels)
    train, test, about = load_labeled_images(options, networks, out, labels)
    log.info("%s", about)
    # With several networks, a row for each joined with the histogram would make all comparisons harder to show.
    usual = [*CONTROLS, *([JOINED] if len(compared) == 1 else [])]
    controls = usual if options.controls is None else split_specs(options.controls)
    reports: dict[str, ProbeReport] = {}
    for probe in probes:
        reports[probe] = report = evaluate(
            compared,
            train,
            test,
            per_class=options.per_class,
            num_labels=options.num_labels,
            **evaluation_options(options, networks, out, probe=probe, controls=controls),
        )
        log.info("\n%s probe\n\n%s", probe, report)
    if rank_info().rank:
        return  # the first process writes the results
    # One report is enough, because all probes use the same features.
    for sentence in collapse_warnings(report.card["health"]):
        log.warning("\n%s", sentence)
    first = networks[0]
    origin = f"{describe_training(first.network)}. " if isinstance(first.network, PretextTask) else ""
    write_results(
        out,
        options.to_dict(),
        reports,
        title=f"Does pretraining help? {joined(options.runs)} on {options.data}",
        lead=f"{origin}Judged on {about}.",
        compared=[f"{about}.", ABOUT],
        pictures=run_pictures(first, next(iter(compared)), train, test, device=options.device),
    )
    if first.folder is not None and (card := update_card(first.folder)):
        log.info("model card: %s", card)


def run_pictures(network: Network, name: str, train: ImageStore, test: ImageStore, *, device: str) -> list[Section]:
    """Returns sections with predictions of the task, neighbors and a map of test images, and the losses of the run.

    Args:
        network: The network.
        name: Its name on the page.
        train: Images among which neighbors are sought.
        test: Images that the pictures show.
        device: Device to compute the features on, as the options of a command name it.
    """
    history = None if network.folder is None else network.folder / HISTORY
    return [
        *(example_sections(network.network, test) if isinstance(network.network, PretextTask) else []),
        *picture_sections(name, network.representation, train, test, device=resolve_device(device)),
        *(loss_sections(read_json(history)) if history is not None and history.is_file() else []),
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
        report.to_json(report_file(out, probe))
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
