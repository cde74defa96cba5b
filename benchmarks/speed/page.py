"""The table and the page of what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.reporting.page import markdown_table
from ssl_pretext.reporting.plots import lines
from ssl_pretext.system.files import write_bytes, write_text

__all__ = ["table", "write_page"]

INTRODUCTION = """# Speed

What people wait for, side by side with what they would pick instead: both sides in turn in one process (memory,
imports and the conv probe in a new one each), after a check that the results agree. *times ours* is the ratio of the
medians: 2 means that the other side takes twice as long, or twice the memory, below 1 that it is ahead. *goal* is what
we set ourselves; one that is missed stays in the table.

Two rows want a word. The conv probe ran in one process at first, where what `evaluate` asks of malloc stays for the
other side too: it was 2.2 to 3.4 times ours then, mostly below the goal. In a process of its own, as a user has it, the
other side is slower; ours did not become faster by that. LPIPS is torchmetrics' own network on both sides, so that what
differs from 1 there is noise: runs gave 0.94 to 1.05, and the last, with the most rounds, is shown."""


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of one part."""
    if name == "scaling":
        lines = [
            {
                "axis": row["axis"],
                "value": f"{row['value']:,}",
                "seconds per epoch": f"{row['seconds']:.2f}",
                "off a straight line": f"{100 * row['off_line']:+.1f}%",
            }
            for row in rows
        ]
    else:
        lines = [_line(row) for row in rows]
    return markdown_table(lines, list(lines[0])) if lines else "no data to measure on"


def _line(row: Mapping[str, Any]) -> dict[str, str]:
    scale, unit = (1_000, "ms") if row["unit"] == "s" and row["median"] < 1 else (1, row["unit"])
    figures = [f"{scale * row[key]:.3g}" for key in ("median", "least", "most")]
    goal = f"≥ {row['goal']:.2g}: {'met' if row['met'] else 'missed'}" if "goal" in row else ""
    return {
        "work": row["work"],
        "side": row["side"],
        "median (least to most)": f"{figures[0]} {unit} ({figures[1]} to {figures[2]})",
        "times ours": f"{row['times_ours']:.2f}",
        "goal": goal,
    }


def write_page(file: Path, results: Mapping[str, Any]) -> None:
    """Writes a Markdown page beside the JSON."""
    parts = [INTRODUCTION]
    for name, part in results["parts"].items():
        env, rows = part["environment"], part["rows"]
        parts += [
            f"## {name.replace('_', ' ')}",
            f"`{part['command']}`, commit `{env['commit']}`; {env['processor']}, {env['cores']} cores, "
            f"{env['threads']} threads, torch {env['torch']}.",
            table(name, rows),
            _plot(file, rows) if name == "scaling" and rows else "",
            "\n".join(f"- {text}." for text in dict.fromkeys(row["agreement"] for row in rows if row.get("agreement"))),
        ]
    write_text(file.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")


def _plot(file: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws how the time grows beside the JSON; returns the Markdown that shows it."""
    series: dict[str, list[tuple[float, float, None]]] = {}
    for row in rows:
        first = next(other for other in rows if other["axis"] == row["axis"])
        point = (row["value"] / first["value"], row["seconds"] / first["seconds"], None)
        series.setdefault(f"{row['axis']}, from {first['value']:,} on", []).append(point)
    png = lines(
        series,
        title="Time of an epoch as the data grow",
        x_label="times as many as at first",
        y_label="times as long as at first",
    )
    picture = file.with_name(f"{file.stem}-scaling.png")
    write_bytes(picture, png)
    return f"![the time of an epoch by images, pixels and channels]({picture.name})"
