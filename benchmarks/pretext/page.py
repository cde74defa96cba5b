"""The page of the comparison of pretext tasks: its answer in sentences, its tables, and a plot per domain."""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.report_tables import EXPLANATION, Reports, accuracy_table, gain_table, reports_in, twin_gains
from ssl_pretext.probes import holm, mean_interval
from ssl_pretext.registry import joined
from ssl_pretext.reporting import forest, markdown_table, to_png
from ssl_pretext.system.files import write_bytes

__all__ = ["answer", "draw", "sections"]

SHORT = {"in": "in-domain", "out": "out-of-domain"}
CONTROL = "its untrained encoder"

Results = Mapping[str, Any]


def answer(results: Results) -> str:
    """States which tasks gain over their untrained encoder and which task is best, as far as the intervals show it."""
    domains = {domain: reports_in(results, domain) for domain in SHORT}
    if len(next(iter(domains["in"].values())).card["seeds"]) == 1:
        return "With one seed, the intervals cover the choice of the test images alone, so no conclusion is drawn."
    found = [row for reports in domains.values() for row in twin_gains(reports)]
    above = dict.fromkeys((row["representation"] for row in found), 0)
    below, comparisons = above.copy(), len(found) // len(above)
    for row in found:
        if row["p_holm"] < 0.05:
            (above if row["mean"] > 0 else below)[row["representation"]] += 1
    gained = [_tasks_with(above, count, comparisons) for count in sorted({*above.values()}, reverse=True)]
    lost = [_tasks_with(below, count, comparisons) for count in sorted({*below.values()} - {0}, reverse=True)]
    alone = sum(row["significant"] for row in found)
    sentences = [
        f"Each task is compared with {CONTROL} in {comparisons} ways ({len(SHORT)} domains × "
        f"{comparisons // len(SHORT)} readouts).",
        f"After the correction of Holm for the {len(found) // len(SHORT)} comparisons of a domain, the gain is "
        f"significant {', '.join(gained)}" + (f"; a loss is significant {', '.join(lost)}." if lost else "."),
        f"Without a correction, {alone} of the {len(found)} differences would be significant.",
        *(_best(domain, reports) for domain, reports in domains.items()),
    ]
    return " ".join(sentences)


def _best(domain: str, reports: Reports) -> str:
    """Names the task with the highest mean accuracy, and the tasks that it is not significantly better than."""
    column, best = max(
        ((column, name) for column, report in reports.items() for name in report.card["against"]),
        key=lambda pair: fmean(reports[pair[0]].values(pair[1])),
    )
    report = reports[column]
    others = [report.difference(best, name) for name in report.card["against"] if name != best]
    corrected = holm([row["p"] for row in others])
    close = [row["reference"] for row, p in zip(others, corrected, strict=True) if p >= 0.05]
    if close:
        verdict = f"it is not significantly better than {joined(close, 'or')}"
    else:
        verdict = "it is significantly better than all other tasks"
    return (
        f"{SHORT[domain].capitalize()}, the highest mean accuracy is {report.text(best)}% ({best}; {column}); "
        f"{verdict}."
    )


def sections(results: Results, link: str, domains: Mapping[str, str]) -> list[str]:
    """Returns the body of the page as parts in Markdown.

    Args:
        results: The results of the comparison.
        link: The folder of the plots, as the page links to it.
        domains: Headings of the domains.
    """
    parts = [
        answer(results),
        "## What was pretrained",
        markdown_table(_tasks(results)),
        *NOTES,
    ]
    for domain, name in domains.items():
        reports = reports_in(results, domain)
        parts += [
            f"## {name.capitalize()}, {SHORT[domain]}",
            "Test accuracy, %:",
            accuracy_table(reports),
            f"Difference from {CONTROL}, in percentage points:",
            gain_table(found := twin_gains(reports)),
            EXPLANATION.format(count=len(found)),
            f"![gains over the untrained encoder, {name}]({link}/gains_{domain}.png)",
        ]
    return parts


def draw(results: Results, folder: Path, domains: Mapping[str, str]) -> None:
    """Writes one plot per domain into a folder."""
    for domain, name in domains.items():
        bars = [
            {
                "label": row["representation"],
                "mean": 100 * row["mean"],
                "half": 100 * row["ci95"],
                "group": row["column"],
            }
            for row in twin_gains(reports_in(results, domain))
        ]
        title = f"{name.capitalize()}, {SHORT[domain]}"
        plot = forest(bars, title=title, x_label=f"test accuracy minus that of {CONTROL}, points")
        write_bytes(folder / f"gains_{domain}.png", to_png(plot))


NOTES = (
    "**Every task has the same time**: the processor time of its steps was measured before, and its number of steps "
    "follows from it. The time includes all that a task adds to the encoder, such as a decoder, and all views, copies "
    "or patches that it makes of an image. The linear probe takes the feature maps of all stages, averaged to 2×2 and "
    "concatenated.",
    "Every task that restores an image or its channels uses the mean squared error. `colorization`, `cross_channel` "
    "and `split_brain` predict at a quarter of the resolution, as in the other comparisons. All of them, and the "
    "contrasts of channels, see random resized crops and flips; `instance_contrast`, `vicreg`, `barlow_twins` and "
    "`simsiam` also see changed colors and blur, as in their papers. `multi_task` is inpainting and rotation on one "
    "encoder. `masked_patches` needs a vision transformer, so **it has a different encoder**: compare "
    "it only with its own untrained control.",
)


def _tasks(results: Results) -> list[dict[str, str]]:
    config, images = results["config"], results["data"]["counts"]["pretraining"]
    rows = []
    for row, runs in _by_row(results).items():
        if not runs[0]["history"]:  # an untrained control, which earlier results list as a row
            continue
        steps = (
            max(1, round(config["seconds"] / runs[0]["timed_seconds"]))
            if config.get("seconds")
            else config["epochs"] * math.ceil(images / config["batch_size"])
        )
        losses = ([run["history"][epoch]["val_loss"] for run in runs] for epoch in (0, -1))
        rows.append(
            {
                "task": row,
                "its encoder takes": runs[0]["sees"],
                "encoder": runs[0]["network"],
                "parameters": f"{runs[0]['encoder_parameters']:,}",
                "validation loss, first → last epoch": " → ".join(f"{mean_interval(loss)[0]:.3g}" for loss in losses),
                "steps": f"{steps:,}",
                "epochs": f"{steps * config['batch_size'] / images:.1f}",
            }
        )
    return rows


def _by_row(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in results["rows"]:
        rows[run["row"]].append(run)
    return rows


def _tasks_with(counts: Mapping[str, int], count: int, comparisons: int) -> str:
    """Names the tasks with this count."""
    number = {comparisons: "all", 0: "none"}.get(count, str(count))
    return f"in {number} for {joined([row for row, found in counts.items() if found == count], 'and')}"
