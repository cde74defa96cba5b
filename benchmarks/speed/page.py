"""The tables and the page of the speed benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_pretext.reporting import lines, markdown_table, to_png
from ssl_pretext.system.files import write_bytes, write_text

__all__ = ["table", "write_page"]

INTRODUCTION = """# Speed

This page compares ssl_pretext with what its users would use instead. The variants take turns in one process, and before
that their results are checked for equality. Memory, imports and the conv probe are measured in a new process each time.
*times ours* is the ratio of the medians: 2 means that the other variant takes twice as long, or twice the memory, and a
value below 1 means that it is better than ssl_pretext. *goal* is the ratio that we want to reach; goals that are missed
stay in the table.

Two rows need an explanation. The conv probe was at first measured in one process, where the settings of malloc that
`evaluate` changes also applied to the other variant. The ratio was then 2.2 to 3.4, mostly below the goal. In a process
of its own, as a user has it, the other variant is slower; ssl_pretext did not become faster by that. For LPIPS,
ssl_pretext uses the network of torchmetrics, so that any deviation from 1 is noise: runs gave 0.94 to 1.13.

In *formats*, both sides give `float32` in which the values that a file declares as no data are missing. ssl_pretext
also checks the kind and the size of each file and every floating value, which takes 10 to 20 µs per image: that shows
where the library needs less than 100 µs, as for the slices of a volume. It is paid once, when the store is built.
lightly's linear evaluation trains for 90 epochs by gradient descent and selects no weight decay.

*of the peak* is the time that the work would take if the machine only multiplied matrices of the same type, or only
copied memory, divided by the time that it takes; both speeds are measured in the same process. Convolutions that need
fewer operations than counted can exceed it. In *training formats* and *feature
formats*, the row of ssl_pretext is the format that `"auto"` chose before, and the goals say that no other format is
more than 5% faster, and float32 not more than 2%. In *format results*, it is float32, and the differences of the other
formats stand below the table. `fit` compiles networks only if it is asked to; *compiling* shows what that would gain
here."""


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of one part in Markdown.

    Args:
        name: Name of the part.
        rows: Its rows, as the JSON file stores them.
    """
    if name == "scaling":
        cells = [
            {
                "axis": row["axis"],
                "value": f"{row['value']:,}",
                "seconds per epoch": f"{row['seconds']:.2f}",
                "deviation from a straight line": f"{100 * row['off_line']:+.1f}%",
            }
            for row in rows
        ]
    else:
        cells = [_cells(row) for row in rows]
    if not cells:
        return "There was no data to measure on."
    columns = list(dict.fromkeys(column for row in cells for column in row))
    return markdown_table([dict.fromkeys(columns, "") | row for row in cells], columns)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    scale, unit = (1_000, "ms") if row["unit"] == "s" and row["median"] < 1 else (1, row["unit"])
    values = [f"{scale * row[key]:.3g}" for key in ("median", "least", "most")]
    goal = f"≥ {row['goal']:.2g}: {'met' if row['met'] else 'missed'}" if "goal" in row else ""
    share = {"of the peak": f"{100 * row['share_of_peak']:.0f}%"} if "share_of_peak" in row else {}
    return {
        "work": row["work"],
        "variant": row["side"],
        "median (min to max)": f"{values[0]} {unit} ({values[1]} to {values[2]})",
        "times ours": f"{row['times_ours']:.2f}",
        "goal": goal,
        **share,
    }


def write_page(file: Path, results: Mapping[str, Any]) -> None:
    """Writes the page, with the plot of the part `scaling`, to the folder of the JSON file.

    Args:
        file: The JSON file; the page has the same name with the suffix `.md`.
        results: What the JSON file holds.
    """
    parts = [INTRODUCTION]
    for name, part in results["parts"].items():
        env, rows = part["environment"], part["rows"]
        notes = dict.fromkeys(row["agreement"] for row in rows if row.get("agreement"))
        parts += [
            f"## {name.replace('_', ' ')}",
            f"`{part['command']}`, commit `{env['commit']}`; {env['processor']}, {env['cores']} cores, "
            f"{env['threads']} threads, torch {env['torch']}.",
            table(name, rows),
            _plot(file, rows) if name == "scaling" and rows else "",
            "\n".join(f"- {note[0].upper()}{note[1:]}." for note in notes),
        ]
    write_text(file.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")


def _plot(file: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws the time of an epoch along each axis; returns the Markdown that shows the plot."""
    series: dict[str, list[tuple[float, float, None]]] = {}
    for row in rows:
        first = next(other for other in rows if other["axis"] == row["axis"])
        point = (row["value"] / first["value"], row["seconds"] / first["seconds"], None)
        series.setdefault(f"{row['axis']}, starting at {first['value']:,}", []).append(point)
    plot = lines(
        series,
        title="Time of an epoch by the size of the data",
        x_label="size, relative to the first",
        y_label="time, relative to the first",
    )
    picture = file.with_name(f"{file.stem}-scaling.png")
    write_bytes(picture, to_png(plot))
    return f"![the time of an epoch by images, pixels and channels]({picture.name})"
