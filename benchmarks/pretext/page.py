"""What the comparison of pretext tasks says: in two sentences, in tables, and in a plot per domain."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ssl_pretext.probes.report import difference_row, percent
from ssl_pretext.probes.statistics import mean_interval
from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import forest
from ssl_pretext.system.files import write_bytes

__all__ = ["answer", "gains", "sections"]

SHORT = {"in": "in-domain", "out": "out-of-domain"}
CONTROL = "its own untrained encoder"

Results = Mapping[str, Any]


def gains(results: Results) -> list[dict[str, Any]]:
    """Each task minus its own untrained encoder, seed by seed: a `difference_row` per task, domain and column."""
    runs = _by_row(results)
    return [
        {"domain": domain, "column": column}
        | difference_row(row, _values(runs[row], domain, column), CONTROL, _values(runs[control], domain, column))
        for domain, column in _comparisons(results)
        for row, control in _trained(results).items()
    ]


def answer(results: Results) -> str:
    """Two sentences that say no more than the intervals allow: who gains over its control, and who is best."""
    if len({run["seed"] for run in results["rows"]}) == 1:
        return "With one seed there are no intervals, so nothing follows."
    found = gains(results)
    every = len(_comparisons(results))
    above = dict.fromkeys(_trained(results), 0)
    below = above.copy()
    for one in found:
        if one["significant"]:
            (above if one["mean"] > 0 else below)[one["representation"]] += 1
    parts = [_counted(above, number, every) for number in sorted({*above.values()}, reverse=True)]
    worse = [_counted(below, number, every) for number in sorted({*below.values()} - {0}, reverse=True)]
    lead = (
        f"Of {every} comparisons of each task with {CONTROL} ({len(SHORT)} domains × {every // len(SHORT)} readouts), "
        f"the 95% interval lies above zero {', '.join(parts)}" + (f"; below zero {', '.join(worse)}" if worse else "")
    )
    best = "; ".join(_best(results, domain) for domain in SHORT)
    return f"{lead}. {best[0].upper()}{best[1:]}."


def _best(results: Results, domain: str) -> str:
    """The task with the highest mean, and whom the intervals leave beside it."""
    runs = _by_row(results)
    column, best = max(
        ((column, row) for where, column in _comparisons(results) if where == domain for row in _trained(results)),
        key=lambda pair: mean_interval(_values(runs[pair[1]], domain, pair[0]))[0],
    )
    ours = _values(runs[best], domain, column)
    others = {row: _values(runs[row], domain, column) for row in _trained(results) if row != best}
    beside = [name for name, values in others.items() if not difference_row(best, ours, name, values)["significant"]]
    mean = percent(*mean_interval(ours))
    ahead = f"not set apart by its intervals from {_and(beside)}" if beside else "by its intervals ahead of all others"
    return f"{SHORT[domain]} the highest mean is {mean}% ({best}; {column}), {ahead}"


def sections(results: Results, target: Path, domains: Mapping[str, str]) -> list[str]:
    """The page after its heading, in Markdown; a plot for each of `domains`, by name, goes into the folder `target`."""
    parts = [
        results["answer"],
        "An interval of 95% misses one time in twenty: of the "
        f"{len(gains(results))} below, some lie off zero by luck alone.",
        "## What was pretrained",
        markdown_table(rows := _tasks(results), list(rows[0])),
        *NOTES,
    ]
    for domain, name in domains.items():
        plot = f"gains_{domain}.png"
        write_bytes(target / plot, _plot(results, domain, name))
        parts += [
            f"## {name.capitalize()}, {SHORT[domain]}",
            "Test accuracy, %:",
            markdown_table(rows := _accuracies(results, domain), list(rows[0])),
            f"Minus {CONTROL}, points; bold where the interval excludes zero:",
            markdown_table(rows := _differences(results, domain), list(rows[0])),
            f"![gains over the untrained encoder, {name}]({target.name}/{plot})",
        ]
    return parts


NOTES = (
    "*output*: the encoder's last map; *all layers*: all stages joined. Linear probes see maps averaged to 2×2, the "
    "conv probe sees the output map, each channel at mean zero and deviation one (without that, it is at chance on the "
    "faint maps of an untrained network, whatever they hold). The time is that of one seed, from the median of its "
    "steps; it includes what a task adds to the encoder, such as a decoder, and all copies or patches that it shows.",
    "Every task that restores an image or its channels does it by mean squared error, `colorization`, `cross_channel` "
    "and `split_brain` at a quarter of the size, as in the other comparisons; nothing is augmented. "
    "Masked patches needs a vision transformer, so that **its encoder is another one**: compare it with its own "
    "untrained control alone.",
)


def _tasks(results: Results) -> list[dict[str, str]]:
    config, images = results["config"], results["data"]["counts"]["pretraining"]
    steps = config["epochs"] * math.ceil(images / config["batch_size"])
    rows = []
    for row in _trained(results):
        runs = _by_row(results)[row]
        seconds = [run["step_seconds"] for run in runs if run["step_seconds"] is not None]
        first, last = ([run["history"][end]["val_loss"] for run in runs] for end in (0, -1))
        rows.append(
            {
                "task": row,
                "its encoder sees": runs[0]["sees"],
                "encoder": runs[0]["network"],
                "parameters": f"{runs[0]['encoder_parameters']:,}",
                "validation loss, first → last epoch": " → ".join(
                    f"{mean_interval(one)[0]:.3g}" for one in (first, last)
                ),
                "ms per step": f"{1e3 * median(seconds):.0f}" if seconds else "",
                "seconds": f"{steps * median(seconds):.0f}" if seconds else "",
            }
        )
    return rows


def _accuracies(results: Results, domain: str) -> list[dict[str, str]]:
    shown = _columns(results)
    rows = [
        {"row": row} | {column: percent(*mean_interval(_values(runs, domain, column))) for column in shown}
        for row, runs in _by_row(results).items()
    ]
    for name, by_domain in results["pixels"].items():
        values = by_domain[domain]
        rows.append(
            {"row": name}
            | {column: percent(*mean_interval(values[column])) if column in values else "" for column in shown}
        )
    return rows


def _differences(results: Results, domain: str) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for one in gains(results):
        if one["domain"] == domain:
            text = percent(one["mean"], one["ci95"], sign=True)
            row = rows.setdefault(one["representation"], {"task": one["representation"]})
            row[one["column"]] = f"**{text}**" if one["significant"] else text
    return list(rows.values())


def _plot(results: Results, domain: str, name: str) -> bytes:
    bars = [
        {
            "label": one["representation"],
            "mean": 100 * one["mean"],
            "half": 100 * one["ci95"] if one["ci95"] else None,
            "group": one["column"],
        }
        for one in gains(results)
        if one["domain"] == domain
    ]
    return forest(
        bars, title=f"{name.capitalize()}, {SHORT[domain]}", x_label=f"test accuracy minus that of {CONTROL}, points"
    )


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


def _counted(counts: Mapping[str, int], number: int, every: int) -> str:
    """Who has that count."""
    word = {every: "all", 0: "none"}.get(number, str(number))
    return f"in {word} for {_and([row for row, count in counts.items() if count == number])}"


def _and(names: Sequence[str]) -> str:
    *ahead, last = names
    return f"{', '.join(ahead)} and {last}" if ahead else last
