"""Pages of results for the documentation: `python -m benchmarks.result_page RUN/results.json docs/results/NAME`.

Everything on a page, its plots included, comes from `results.json`, except for the remark below the title. Without
arguments, all pages in `docs/results` are written again from the results that are stored there; each keeps its remark.
"""

import argparse
import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.calibration.page import sections as calibration_sections
from benchmarks.evidence.page import sections as evidence_sections
from benchmarks.finetuning.page import sections as finetuning_sections
from benchmarks.food101.report import draw as draw_experiment
from benchmarks.food101.report import markdown_summary, quality_cell, quality_heading
from benchmarks.pretext.page import draw as draw_gains
from benchmarks.pretext.page import sections as pretext_sections
from benchmarks.report_tables import (
    EXPLANATION,
    accuracy_table,
    baseline_gains,
    gain_table,
    machine,
    report_in,
    reports_in,
    twin_gains,
)
from benchmarks.speed.page import write_page as write_speed_page
from ssl_pretext.color_metrics import HUES
from ssl_pretext.probes import difference_plot, mean_interval
from ssl_pretext.reporting import markdown_table, to_png
from ssl_pretext.system.files import read_json, write_bytes, write_json, write_text

__all__ = ["page", "publish", "remark_of", "store_and_publish"]

log = logging.getLogger("benchmarks.result_page")

PAGES = Path("docs/results")
COVERED = "The 95% intervals cover the seeds and the choice of the labeled images and of the test images."
COVERED_BEFORE = (
    "This run was stored before hits per test image were kept. Its 95% intervals cover the seeds and the choice of the "
    "test images, for which they assume independent hits and are thus rather too wide. The labeled images are held "
    "fixed."
)
# What makes the body of a page of its own kind, by the key of the results that it shows.
SECTIONS = {"calibration": calibration_sections, "evidence": evidence_sections, "finetuning": finetuning_sections}
MEASURES = (
    *("psnr", "ssim", "lpips", "auc_raw", "auc_rebalanced", "colorfulness", "mean_a", "mean_b", "colored"),
    *(f"hue_{name}" for name in HUES),
)
DOMAINS = {"in": "classes of the pretraining images", "out": "classes never seen in pretraining"}


def publish(file: Path, target: Path, remark: str | None = None) -> None:
    """Writes the page of a run, with its results and plots.

    No photographs of the data are published, only the grids of freely licensed photographs beside `results.json`.

    Args:
        file: `results.json` of a comparison or of the Food-101 experiment.
        target: Path of the page without its suffix; its results and plots are written to a folder of that name.
        remark: Markdown to show below the title. By default, the remark of the page that is replaced.
    """
    results, markdown = read_json(file), target.with_suffix(".md")
    if remark is None:
        remark = remark_of(markdown.read_text(encoding="utf-8")) if markdown.exists() else ""
    target.mkdir(parents=True, exist_ok=True)
    if file.parent.resolve() != target.resolve():
        for source in (file, *sorted(file.parent.glob("grid*.png"))):
            shutil.copyfile(source, target / source.name)
    draw(results, target)
    write_text(markdown, page(results, target, remark))


def store_and_publish(results: Mapping[str, Any], out: Path) -> None:
    """Writes `results.json` of a run to its output folder, and beside it `page.md` with its plots."""
    file = out / "results.json"
    write_json(file, results)
    publish(file, out / "page")
    log.info("wrote the results to %s and their page to %s", file, out / "page.md")


def page(results: Mapping[str, Any], folder: Path, remark: str = "") -> str:
    """Returns the page of a run in Markdown.

    Args:
        results: What `results.json` holds.
        folder: The folder of the plots; the page links to it by its name.
        remark: Markdown to show below the title.
    """
    if own := [sections for key, sections in SECTIONS.items() if key in results]:
        title, body = results["title"], "\n\n".join(own[0](results))
    elif "title" in results:
        title, body = results["title"], _comparison(results, folder)
    else:
        title = f"Results: {results['data']['name']}, preset {results['config']['preset']}"
        body = markdown_summary(results, figures=folder, link=folder.name)
    return "\n\n".join(filter(None, [f"# {title}", remark, body.strip()])) + "\n"


def remark_of(text: str) -> str:
    """The remark of a page that `page` made: what is between its title and the line about its data."""
    found = re.match(r"# [^\n]*\n(.*?)^Data: \*\*", text, re.S | re.M)
    return found[1].strip() if found else ""


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Writes the plots of a page into a folder."""
    if "title" not in results:
        draw_experiment(folder, results)
    if "answer" in results:
        draw_gains(results, folder, DOMAINS)
    if "chosen" in results:
        for domain, name in DOMAINS.items():
            report = report_in(results, domain)
            plot = difference_plot(report.against_controls(), title=name)
            write_bytes(folder / f"differences_{domain}.png", to_png(plot))


def _comparison(results: Mapping[str, Any], folder: Path) -> str:
    """The body of the page of a comparison."""
    data, config = results["data"], results["config"]
    images = f"{data['counts']['pretraining']:,} images at {config['image_size']} px"
    amount = (
        f"{config['seconds']:g} seconds of processor time for each task and seed, on {images}"
        if config.get("seconds")
        else f"{config['epochs']} epochs of {images}"
    )
    parts = [
        f"Data: **{data['name']}**. {data['note']}".strip(),
        f"```bash\n{results['command']}\n```",
        f"{machine(results['environment'])} {config['seeds']} seeds; {amount}, AdamW with learning rate "
        f"{config['learning_rate']:g}, the same images in the same order for every row. Values are means over the "
        f"seeds. {COVERED if 'reports' in results else COVERED_BEFORE}",
        *(_recipe(results, folder.name) if "chosen" in results else []),
        *_quality(results),
        *(
            f"![free photographs as each loss colors them]({folder.name}/{grid.name})"
            for grid in sorted(folder.glob("grid*.png"))
        ),
        *(pretext_sections(results, folder.name, DOMAINS) if "answer" in results else []),
        *(_accuracy(results) if "rows" in results and "answer" not in results else []),
        *_paper(results),
    ]
    return "\n\n".join(filter(None, parts))


def _recipe(results: Mapping[str, Any], link: str) -> list[str]:
    """How the recipe was selected, and its accuracy on the test images."""
    chosen, rows = results["chosen"], results["validation"]
    accuracy = {(row["candidate"], row["readout"], row["trained"]): f"{100 * row['accuracy']:.1f}" for row in rows}
    readouts = list(dict.fromkeys(row["readout"] for row in rows))
    lines = [
        {"candidate": name + ("" if trained else " (untrained)")}
        | {readout: accuracy[name, readout, trained] for readout in readouts}
        for name in dict.fromkeys(row["candidate"] for row in rows)
        for trained in (True, False)
    ]
    parts = [
        "## Selection on validation images: accuracy, %",
        "Linear probes were trained on labeled images of the pretraining classes, of which a fifth was held out for "
        f"validation. The best recipe is **{chosen['candidate']}**, read out from {chosen['readout']}.",
        markdown_table(lines),
        "## Evaluation on test images: accuracy, %",
    ]
    for domain, name in DOMAINS.items():
        report = report_in(results, domain)
        parts += [
            f"### {name.capitalize()}",
            accuracy_table({"test accuracy, %": report}),
            "\n".join(f"- {sentence}" for sentence in report.sentences()),
            f"![paired differences, {name}]({link}/differences_{domain}.png)",
        ]
    return parts


def _quality(results: Mapping[str, Any]) -> list[str]:
    """Color quality of each loss."""
    measured = _by_row(row for row in results.get("rows", []) if "quality" in row)
    if not measured:
        return []
    rows = []
    for name, runs in measured.items():
        line = {"loss": name}
        for key in MEASURES:
            # Runs that were stored before a measure existed have no column for it.
            if key in runs[0]["quality"]:
                mean, half = mean_interval([run["quality"][key] for run in runs])
                cells = [quality_cell({key: value}, key) for value in (mean, half) if value is not None]
                line[quality_heading(key)] = " ± ".join(cells)
        rows.append(line)
    truth = next(iter(measured.values()))[0]["quality"]
    others = {"gray": results.get("gray", {}), "the true colors": {key: truth.get(f"{key}_truth") for key in MEASURES}}
    for name, values in others.items():
        row = {quality_heading(key): quality_cell(values, key) for key in MEASURES if values.get(key) is not None}
        if row:
            rows.append({"loss": name} | row)
    return ["## Color quality on held-out images", markdown_table(rows)]


def _accuracy(results: Mapping[str, Any]) -> list[str]:
    """Accuracy of the probes by row and readout, and differences from the untrained encoders."""
    parts = []
    for domain, name in DOMAINS.items():
        reports = reports_in(results, domain)
        parts += [
            f"## Linear probe, {name}: {results.get('judged_on', 'test')} accuracy, %",
            accuracy_table(reports),
            "Difference from the same encoder untrained, or from the row that it is a change of, in percentage points:"
            if "reports" not in results
            else "Difference from the same encoder untrained, in percentage points:",
            gain_table(gains := twin_gains(reports)),
            EXPLANATION.format(count=len(gains)),
        ]
        if results.get("baseline"):
            parts += [
                f"Difference from the row *{results['baseline']}*, in percentage points:",
                gain_table(gains := baseline_gains(reports, results["baseline"])),
                EXPLANATION.format(count=len(gains)),
            ]
    return parts


def _paper(results: Mapping[str, Any]) -> list[str]:
    """The published table, to compare with."""
    if "paper" not in results:
        return []
    lines = [
        {"row": row, **{f"conv{i}": f"{value:.1f}" for i, value in enumerate(values, start=1)}}
        for row, values in results["paper"].items()
    ]
    heading = (
        "## The paper's table: AlexNet, linear probes on ImageNet, top-1, % (Zhang et al. 2017, version 1, table 2)"
    )
    return [heading, markdown_table(lines)]


def _by_row(runs: Any) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = defaultdict(list)
    for run in runs:
        rows[run["row"]].append(run)
    return dict(rows)


def main() -> None:
    """Publishes one run, or writes all pages again."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.result_page",
        description="Writes a page of the documentation, and its plots, from the results of a run. Without arguments, "
        f"all pages in {PAGES} are written again from the results that are stored there.",
    )
    parser.add_argument("file", type=Path, nargs="?", help="results.json of a run")
    parser.add_argument("target", type=Path, nargs="?", help="the page without its suffix, such as docs/results/recipe")
    parser.add_argument("--remark", help="Markdown to show below the title (default: the remark of the present page)")
    options = parser.parse_args()
    if options.file is None:
        for file in sorted(PAGES.glob("*/results.json")):
            publish(file, file.parent)
        write_speed_page(PAGES / "speed.json", read_json(PAGES / "speed.json"))
    elif options.target is None:
        parser.error("name the page to write, such as docs/results/recipe")
    else:
        publish(options.file, options.target, options.remark)


if __name__ == "__main__":
    main()
