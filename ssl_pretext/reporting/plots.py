"""Plots as figures of matplotlib: curves, forest plots, and lines with intervals; the same data give the same PNG."""

import io
import math
import statistics
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = ["curves", "forest", "lines", "to_png"]

# The palette of Okabe and Ito, whose colors can be distinguished with any color vision. In black and white, dashes and
# markers distinguish the lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
# Dashes of reference levels, which have no markers; no series has these dashes.
LEVELS = ((0, (8, 3)), (0, (1, 2)), (0, (8, 2, 1, 2, 1, 2)), (0, (4, 6)))
LEVEL_REACH = 2.0  # a level is drawn if it is within this many times the range of the data from the data
# Kinds of intervals of a difference: text in the legend, color, marker, and whether the marker is filled.
INTERVAL_KINDS = {
    "above": ("95% interval above 0", "#0072B2", "o", True),
    "below": ("95% interval below 0", "#D55E00", "o", True),
    "unclear": ("95% interval includes 0", "#000000", "o", False),
    "alone": ("mean without interval", "#000000", "D", False),
}


def curves(series: Mapping[str, Sequence[Sequence[float]]], *, title: str, x_label: str, y_label: str) -> Any:
    """Draws a line per series: the mean of its runs at x = 1, 2, ..., with the range of the runs shaded.

    Args:
        series: Runs of equal length, by name of the series.
        title: Title of the plot.
        x_label: Label of the x axis.
        y_label: Label of the y axis.

    Returns:
        The plot as a `matplotlib.figure.Figure`.

    Raises:
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> figure = curves({"ours": [[2.0, 1.0], [2.2, 1.1]]}, title="Loss", x_label="epoch", y_label="loss")
        >>> to_png(figure)[1:4]
        b'PNG'
    """
    figure, axes = new_figure(7, 4.2)
    for i, (name, runs) in enumerate(series.items()):
        steps = range(1, len(runs[0]) + 1)
        columns = list(zip(*runs, strict=True))
        style = series_style(i)
        axes.plot(steps, [statistics.fmean(column) for column in columns], label=escaped(name), **style)
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    set_labels(axes, title, x_label, y_label)
    add_legend(figure, axes)
    return figure


def forest(rows: Sequence[Mapping[str, Any]], *, title: str, x_label: str) -> Any:
    """Draws paired differences with 95% intervals, one per row, each with its value as text.

    A marker is filled if the interval excludes 0 and hollow if it includes 0 (an end of the interval at 0 includes it).
    A hollow diamond has no interval. The size of the plot depends on the number of rows and on the longest label.

    Args:
        rows: Rows from top to bottom, each with the keys `label`, `mean`, `half` (half the width of the interval, or
            None) and `group` (a heading, or None). Rows of one group are drawn together, at the position of the first.
        title: Title of the plot.
        x_label: Label of the x axis, which says what the differences are, and their unit.

    Returns:
        The plot as a `matplotlib.figure.Figure`.

    Raises:
        ArgumentError: There are no rows, a row lacks a key, a number is not finite, or `half` is negative.
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> row = {"label": "ours − pixels", "mean": 2.7, "half": 2.3, "group": None}
        >>> to_png(forest([row], title="Does it help?", x_label="difference in accuracy, points"))[1:4]
        b'PNG'
    """
    check_rows(rows)
    positions, headings = arrange_rows(rows)
    height = max(y for y, _ in positions)
    figure, axes = new_figure(9, 1.7 + 0.3 * (height + 1))
    drawn = {}
    for y, row in positions:
        kind = interval_kind(row["mean"], row["half"])
        name, color, marker, filled = INTERVAL_KINDS[kind]
        style = {"color": color, "fmt": marker, "mfc": color if filled else "white", "mew": 1.5, "ms": 7, "zorder": 3}
        axes.axhline(y, color="black", alpha=0.12, lw=0.8, zorder=0)
        drawn[kind] = axes.errorbar(row["mean"], y, xerr=row["half"], elinewidth=1.8, capsize=3, label=name, **style)
    axes.axvline(0, color="black", lw=1.2, zorder=1)
    axes.set_ylim(height + 0.7, -0.7)
    set_labels(axes, "", textwrap.fill(x_label, 56), "")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    values = axes.twinx()
    values.set_ylim(axes.get_ylim())
    values.set_yticks([y for y, _ in positions], [format_difference(row["mean"], row["half"]) for _, row in positions])
    values.tick_params(length=0)
    values.spines[:].set_visible(False)
    width = label_rows(axes, positions, headings)
    figure.set_figwidth(width + 6)
    figure.suptitle(textwrap.fill(escaped(title), round(10 * (width + 6))), fontsize="large")
    handles = [drawn[kind] for kind in INTERVAL_KINDS if kind in drawn]
    key = {"ncols": 2, "handlelength": 3, "frameon": False, "fontsize": "small"}
    figure.legend(handles=handles, loc="outside lower center", **key)
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float | None]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_names: Sequence[str] | None = None,
    log: bool = False,
    reference: Mapping[str, float] | None = None,
) -> Any:
    """Draws a line per series through its means, with error bars and a legend to the right.

    Series are shifted slightly along the x axis, so that error bars do not hide each other; ticks are at the true x.

    Args:
        series: Points `(x, mean, half)` by name of the series; `half` is half the height of the error bar, or None.
        title: Title of the plot.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        x_names: Names of x = 0, 1, 2, ..., if x is a category, such as a layer.
        log: Whether the x axis is logarithmic, with a tick at each x that occurs.
        reference: Levels to compare with by name, such as chance, drawn as horizontal dashed lines. A level so far away
            that it would flatten the series is not drawn; the legend has its value and an arrow in its direction.

    Returns:
        The plot as a `matplotlib.figure.Figure`.

    Raises:
        ArgumentError: A series is empty, a number is not finite, or `half` is negative; an x has no name, or is not
            positive on a logarithmic axis; or names are given for a logarithmic axis.
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> points = [(1, 12.0, 1.5), (10, 31.5, 0.8)]
        >>> figure = lines({"ours": points}, title="Few labels", x_label="per class", y_label="accuracy, %", log=True)
        >>> to_png(figure)[1:4]
        b'PNG'
    """
    check_series(series, x_names, log)
    for name, value in (reference or {}).items():
        check_numbers("lines", name, value, None)
    figure, axes = new_figure(7, 4.4)
    if log:
        axes.set_xscale("log")
    positions = sorted({x for points in series.values() for x, _, _ in points})
    for i, (name, points) in enumerate(series.items()):
        x = [shifted_x(x, i, len(series), positions, log) for x, _, _ in points]
        half = [math.nan if half is None else half for _, _, half in points]
        means, style = [mean for _, mean, _ in points], {"elinewidth": 1.2, "capsize": 2, **series_style(i)}
        axes.errorbar(x, means, yerr=half, label=escaped(name), **style)
    names = draw_levels(axes, reference or {}, [mean for points in series.values() for _, mean, _ in points])
    if log:
        axes.set_xticks(positions, [f"{x:g}" for x in positions])
        axes.minorticks_off()
        if len(positions) == 1:
            axes.set_xlim(positions[0] / 2, positions[0] * 2)  # matplotlib's limits for a single tick do not include it
    if x_names is not None:
        # About 70 characters fit in one line under a plot of seven inches.
        slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        crowded = len(x_names) * (max(map(len, x_names)) + 2) > 70
        axes.set_xticks(range(len(x_names)), map(escaped, x_names), **(slant if crowded else {}))
    set_labels(axes, title, x_label, y_label)
    add_legend(figure, axes, last=names)
    return figure


def draw_levels(axes: Any, levels: Mapping[str, float], data: Sequence[float]) -> list[str]:
    """Draws the levels that are not too far from the data; returns the legend entries of all levels."""
    low, high = min(data), max(data)
    reach = max(LEVEL_REACH * (high - low), abs(high))
    names = []
    for i, (name, value) in enumerate(levels.items()):
        far = "↑" if value > high + reach else "↓" if value < low - reach else ""
        names.append(escaped(f"{far} {name}: {value:.3g}" if far else name))
        turn, dash = divmod(i, len(LEVELS))  # when all dashes are used, the next lines are wide and pale
        style = {"color": "0.65" if turn % 2 else "0.35", "lw": 2.6 if turn % 2 else 1.3, "linestyle": LEVELS[dash]}
        if far:
            axes.plot([], [], color="none", label=names[-1])
        else:
            axes.axhline(value, label=names[-1], zorder=1, **style)
    return names


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Creates an empty figure of a size in inches; returns the figure and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'ssl-pretext[benchmarks]'") from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def escaped(text: str) -> str:
    """Escapes text for matplotlib, where dollar signs begin a formula and a leading underscore hides a legend entry."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def set_labels(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set(title=textwrap.fill(escaped(title), 70), xlabel=escaped(x_label), ylabel=escaped(y_label))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Any, axes: Any, last: Collection[str] = ()) -> None:
    """Adds a legend to the right of the axes, and widens the figure by its width; `last` names the last entries."""
    # matplotlib lists error bars after all lines, and so after the levels; the sort moves the levels to the end.
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in last)
    handles, names = [handle for handle, _ in entries], [textwrap.fill(name, 32) for _, name in entries]
    legend = figure.legend(handles, names, loc="outside right upper", handlelength=3.6, frameon=False)
    figure.set_figwidth(figure.get_figwidth() + legend.get_window_extent().width / figure.dpi)


def to_png(figure: Any) -> bytes:
    """Renders a figure as PNG, without the version of matplotlib in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def series_style(i: int) -> dict[str, Any]:
    """Returns color, dash and marker of series `i`; when all colors are used, markers shift and are hollow."""
    turn, place = divmod(i, len(PALETTE))
    return {
        "color": PALETTE[place],
        "linestyle": STYLES[i % len(STYLES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "markersize": 5,
        "markerfacecolor": "white" if turn % 2 else PALETTE[place],
    }


def shifted_x(x: float, i: int, count: int, positions: Sequence[float], log: bool) -> float:
    """Returns the shifted x of series `i` of `count`; all series stay within 0.15 of the smallest step around x."""
    offset = (i - (count - 1) / 2) * min(0.06, 0.3 / count)
    if log:
        return float(x * min((b / a for a, b in pairwise(positions)), default=2) ** offset)
    return x + offset * min((b - a for a, b in pairwise(positions)), default=1)


def interval_kind(mean: float, half: float | None) -> str:
    if half is None:
        return "alone"
    if abs(mean) <= half:
        return "unclear"
    return "above" if mean > 0 else "below"


def format_difference(mean: float, half: float | None) -> str:
    text = f"{mean:+.1f}" if half is None else f"{mean:+.1f} ± {half:.1f}"
    return text.replace("-", "−")


Positions = list[tuple[float, Mapping[str, Any]]]


def arrange_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Positions, list[tuple[float, str]]]:
    """Returns the y positions of rows and of headings, from 0 downward, with half a line between groups."""
    groups: dict[str | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    positions, headings, y = [], [], 0.0
    for group, members in groups.items():
        if group is not None:
            headings.append((y, group))
            y += 1
        positions += [(y + i, row) for i, row in enumerate(members)]
        y += len(members) + 0.5
    return positions, headings


def label_rows(axes: Any, positions: Positions, headings: Sequence[tuple[float, str]]) -> float:
    """Writes left-aligned labels and headings to the left of the axes; returns their width in inches."""
    texts = [*headings, *((y, row["label"]) for y, row in positions)]
    axes.set_yticks([y for y, _ in texts], [escaped(text) for _, text in texts])
    labels = axes.get_yticklabels()
    for label in labels[: len(headings)]:
        label.set(fontweight="bold", fontsize="small")
    width = max(label.get_window_extent().width for label in labels) / axes.figure.dpi
    axes.tick_params(axis="y", length=0, pad=72 * width + 8)
    for label in labels:
        label.set_horizontalalignment("left")
    return float(width)


def check_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise ArgumentError("forest() needs at least one row, got none")
    for row in rows:
        missing = [key for key in ("label", "mean", "half", "group") if key not in row]
        if missing:
            raise ArgumentError(f"each row of forest() needs label, mean, half and group; {dict(row)} lacks {missing}")
        check_numbers("forest", row["label"], row["mean"], row["half"])


def check_series(series: Mapping[str, Sequence[Any]], x_names: Sequence[str] | None, log: bool) -> None:
    counts = {name: len(points) for name, points in series.items()}
    if not counts or not all(counts.values()):
        raise ArgumentError(f"lines() needs at least one series and points in each, got {counts} points")
    if log and x_names is not None:
        raise ArgumentError("lines() takes x_names or log=True, not both, because names belong to x = 0, 1, 2, ...")
    for name, points in series.items():
        for x, mean, half in points:
            check_numbers("lines", name, mean, half)
            if not (0 if log else -math.inf) < x < math.inf:
                raise ArgumentError(f"lines() needs finite x, above 0 if log=True, got {x} in {name!r}")
            if x_names is not None and x not in range(len(x_names)):
                raise ArgumentError(f"lines() has names for x = 0 to {len(x_names) - 1}, got x = {x} in {name!r}")


def check_numbers(caller: str, name: str, mean: float, half: float | None) -> None:
    if not math.isfinite(mean) or (half is not None and not 0 <= half < math.inf):
        raise ArgumentError(
            f"{caller}() needs finite means, and half widths that are 0 or more or None; {name!r} has mean {mean} and "
            f"half width {half}"
        )
