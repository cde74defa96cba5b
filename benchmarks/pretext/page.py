"""The page of the comparison of pretext tasks: its answer in sentences, its tables, and a plot per domain."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ssl_pretext.probes import difference_row, mean_interval, percent
from ssl_pretext.reporting import forest, markdown_table
from ssl_pretext.system.files import write_bytes

__all__ = ["answer", "draw", "gains", "sections"]

SHORT = {"in": "in-domain", "out": "out-of-domain"}
CONTROL = "its untrained encoder"

Results = Mapping[str, Any]


def gains(results: Results) -> list[dict[str, Any]]:
    """Returns the paired differences between each task and its untrained encoder.

    Args:
        results: The results of the comparison.

    Returns:
        One `difference_row` per task, domain and column.
    """
    runs = _by_row(results)
    return [
        {"domain": domain, "column": column}
        | difference_row(row, _values(runs[row], domain, column), CONTROL, _values(runs[control], domain, column))
        for domain, column in _comparisons(results)
        for row, control in _trained(results).items()
    ]


def answer(results: Results) -> str:
    """States which tasks gain over their untrained encoder and which task is best, as far as the intervals show it."""
    if len({run["seed"] for run in results["rows"]}) == 1:
        return "With one seed there are no intervals, so no conclusion can be drawn."
    comparisons = len(_comparisons(results))
    above = dict.fromkeys(_trained(results), 0)
    below = above.copy()
    for row in gains(results):
        if row["significant"]:
            (above if row["mean"] > 0 else below)[row["representation"]] += 1
    gained = [_tasks_with(above, count, comparisons) for count in sorted({*above.values()}, reverse=True)]
    lost = [_tasks_with(below, count, comparisons) for count in sorted({*below.values()} - {0}, reverse=True)]
    sentences = [
        f"Each task is compared with {CONTROL} in {comparisons} ways ({len(SHORT)} domains × "
        f"{comparisons // len(SHORT)} readouts).",
        f"The 95% interval of the difference is above zero {', '.join(gained)}"
        + (f"; it is below zero {', '.join(lost)}." if lost else "."),
        *(_best(results, domain) for domain in SHORT),
    ]
    return " ".join(sentences)


def _best(results: Results, domain: str) -> str:
    """Names the task with the highest mean accuracy, and the tasks that it is not significantly better than."""
    runs = _by_row(results)
    column, best = max(
        ((column, row) for where, column in _comparisons(results) if where == domain for row in _trained(results)),
        key=lambda pair: mean_interval(_values(runs[pair[1]], domain, pair[0]))[0],
    )
    values = _values(runs[best], domain, column)
    others = {row: _values(runs[row], domain, column) for row in _trained(results) if row != best}
    close = [name for name, other in others.items() if not difference_row(best, values, name, other)["significant"]]
    if close:
        verdict = f"it is not significantly better than {_joined(close, 'or')}"
    else:
        verdict = "it is significantly better than all other tasks"
    return (
        f"{SHORT[domain].capitalize()}, the highest mean accuracy is {percent(*mean_interval(values))}% "
        f"({best}; {column}); {verdict}."
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
        "A 95% interval misses the true value one time in twenty, so some of the "
        f"{len(gains(results))} intervals below exclude zero by chance alone.",
        "## What was pretrained",
        markdown_table(rows := _tasks(results), list(rows[0])),
        *NOTES,
    ]
    for domain, name in domains.items():
        parts += [
            f"## {name.capitalize()}, {SHORT[domain]}",
            "Test accuracy, %:",
            markdown_table(rows := _accuracies(results, domain), list(rows[0])),
            f"Difference from {CONTROL}, in percentage points; bold where the interval excludes zero:",
            markdown_table(rows := _differences(results, domain), list(rows[0])),
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
                "half": 100 * row["ci95"] if row["ci95"] else None,
                "group": row["column"],
            }
            for row in gains(results)
            if row["domain"] == domain
        ]
        title = f"{name.capitalize()}, {SHORT[domain]}"
        plot = forest(bars, title=title, x_label=f"test accuracy minus that of {CONTROL}, points")
        write_bytes(folder / f"gains_{domain}.png", plot)


NOTES = (
    "*output* is the encoder's last feature map; *all layers* are the feature maps of all stages, concatenated. Linear "
    "probes take feature maps averaged to 2×2. The conv probe takes the output map, with each channel normalized to "
    "zero mean and unit variance. Without this normalization it would be at chance on an untrained network, whose "
    "features have very small values. The time is for one seed and comes from the median duration of a step. It "
    "includes what a task adds to the encoder, such as a decoder, and all copies or patches that it makes of an image.",
    "Every task that restores an image or its channels uses the mean squared error. `colorization`, `cross_channel` "
    "and `split_brain` predict at a quarter of the resolution, as in the other comparisons. There is no augmentation. "
    "`masked_patches` needs a vision transformer, so **it has a different encoder**: compare it only with its own "
    "untrained control.",
)


def _tasks(results: Results) -> list[dict[str, str]]:
    config, images = results["config"], results["data"]["counts"]["pretraining"]
    steps = config["epochs"] * math.ceil(images / config["batch_size"])
    rows = []
    for row in _trained(results):
        runs = _by_row(results)[row]
        seconds = [run["step_seconds"] for run in runs if run["step_seconds"] is not None]
        losses = ([run["history"][epoch]["val_loss"] for run in runs] for epoch in (0, -1))
        rows.append(
            {
                "task": row,
                "its encoder takes": runs[0]["sees"],
                "encoder": runs[0]["network"],
                "parameters": f"{runs[0]['encoder_parameters']:,}",
                "validation loss, first → last epoch": " → ".join(f"{mean_interval(loss)[0]:.3g}" for loss in losses),
                "ms per step": f"{1e3 * median(seconds):.0f}" if seconds else "",
                "seconds": f"{steps * median(seconds):.0f}" if seconds else "",
            }
        )
    return rows


def _accuracies(results: Results, domain: str) -> list[dict[str, str]]:
    columns = _columns(results)
    rows = [
        {"row": row} | {column: percent(*mean_interval(_values(runs, domain, column))) for column in columns}
        for row, runs in _by_row(results).items()
    ]
    for name, by_domain in results["pixels"].items():
        values = by_domain[domain]
        rows.append(
            {"row": name}
            | {column: percent(*mean_interval(values[column])) if column in values else "" for column in columns}
        )
    return rows


def _differences(results: Results, domain: str) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for gain in gains(results):
        if gain["domain"] == domain:
            text = percent(gain["mean"], gain["ci95"], sign=True)
            row = rows.setdefault(gain["representation"], {"task": gain["representation"]})
            row[gain["column"]] = f"**{text}**" if gain["significant"] else text
    return list(rows.values())


def _by_row(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in results["rows"]:
        rows[run["row"]].append(run)
    return rows


def _trained(results: Results) -> dict[str, str]:
    """The rows that were pretrained, with their controls."""
    return {run["row"]: run["control"] for run in results["rows"] if run["control"]}


def _columns(results: Results) -> list[str]:
    return list(results["rows"][0]["accuracy"]["in"])


def _comparisons(results: Results) -> list[tuple[str, str]]:
    return [(domain, column) for domain in SHORT for column in _columns(results)]


def _values(runs: Iterable[Mapping[str, Any]], domain: str, column: str) -> list[float]:
    return [run["accuracy"][domain][column] for run in runs]


def _tasks_with(counts: Mapping[str, int], count: int, comparisons: int) -> str:
    """Names the tasks with this count."""
    number = {comparisons: "all", 0: "none"}.get(count, str(count))
    return f"in {number} for {_joined([row for row, found in counts.items() if found == count], 'and')}"


def _joined(names: Sequence[str], conjunction: str) -> str:
    *first, last = names
    return f"{', '.join(first)} {conjunction} {last}" if first else last
