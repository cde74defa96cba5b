"""Curves, forest plots and lines with intervals, each as the bytes of a PNG that is the same every time."""

import io
import math
import statistics
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = ["curves", "forest", "lines"]

# Okabe & Ito's palette, told apart with any color vision; dashes and markers tell the lines apart in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
# Levels to compare with have no marker, and dashes that no series has.
LEVELS = ((0, (8, 3)), (0, (1, 2)), (0, (8, 2, 1, 2, 1, 2)), (0, (4, 6)))
LEVEL_REACH = 2.0  # how many times the range of the data a level may lie beyond it and still be drawn
# What the interval of a difference says: its name in the key, color, marker, and whether the marker is filled.
VERDICTS = {
    "above": ("95% interval above 0", "#0072B2", "o", True),
    "below": ("95% interval below 0", "#D55E00", "o", True),
    "unclear": ("95% interval includes 0", "#000000", "o", False),
    "alone": ("mean without interval", "#000000", "D", False),
}


def curves(series: Mapping[str, Sequence[Sequence[float]]], *, title: str, x_label: str, y_label: str) -> bytes:
    """A PNG of one line per series over 1, 2, ...: the mean of its runs, with the range between them shaded.

    Args:
        series: Runs of equal length by name.
        title: Above the picture.
        x_label: Below it.
        y_label: Beside it.

    Raises:
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> png = curves({"ours": [[2.0, 1.0], [2.2, 1.1]]}, title="Loss", x_label="epoch", y_label="loss")
        >>> png[1:4]
        b'PNG'
    """
    canvas, axes = blank(7, 4.2)
    for i, (name, runs) in enumerate(series.items()):
        steps = range(1, len(runs[0]) + 1)
        columns = list(zip(*runs, strict=True))
        style = look(i)
        axes.plot(steps, [statistics.fmean(column) for column in columns], label=plain(name), **style)
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    finish(axes, title, x_label, y_label)
    legend_beside(canvas, axes)
    return saved(canvas)


def forest(rows: Sequence[Mapping[str, Any]], *, title: str, x_label: str) -> bytes:
    """A PNG of paired differences: one line per row with its mean, its 95% interval, and both as text.

    A marker is filled where the interval excludes 0 and hollow where it includes 0 (an end at 0 includes it); a hollow
    diamond has no interval. The picture grows with the rows and with the longest label.

    Args:
        rows: From the top down, each with `label`, `mean`, `half` (half the width of the interval, or None) and
            `group` (a heading, or None). Rows of one group are brought together where the first of them stands.
        title: Above the picture.
        x_label: Below it; says what the differences are, and their unit.

    Raises:
        ArgumentError: There are no rows, a row lacks a value, or a number is not finite or `half` negative.
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> row = {"label": "ours − pixels", "mean": 2.7, "half": 2.3, "group": None}
        >>> forest([row], title="Does it help?", x_label="difference in accuracy, points")[1:4]
        b'PNG'
    """
    check_rows(rows)
    places, headings = arranged(rows)
    height = max(y for y, _ in places)
    canvas, axes = blank(9, 1.7 + 0.3 * (height + 1))
    seen = {}
    for y, row in places:
        verdict = verdict_of(row["mean"], row["half"])
        name, color, marker, filled = VERDICTS[verdict]
        style = {"color": color, "fmt": marker, "mfc": color if filled else "white", "mew": 1.5, "ms": 7, "zorder": 3}
        axes.axhline(y, color="black", alpha=0.12, lw=0.8, zorder=0)
        seen[verdict] = axes.errorbar(row["mean"], y, xerr=row["half"], elinewidth=1.8, capsize=3, label=name, **style)
    axes.axvline(0, color="black", lw=1.2, zorder=1)
    axes.set_ylim(height + 0.7, -0.7)
    finish(axes, "", textwrap.fill(x_label, 56), "")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    values = axes.twinx()
    values.set_ylim(axes.get_ylim())
    values.set_yticks([y for y, _ in places], [value_text(row["mean"], row["half"]) for _, row in places])
    values.tick_params(length=0)
    values.spines[:].set_visible(False)
    width = label_rows(axes, places, headings)
    canvas.set_figwidth(width + 6)
    canvas.suptitle(textwrap.fill(plain(title), round(10 * (width + 6))), fontsize="large")
    handles = [seen[verdict] for verdict in VERDICTS if verdict in seen]
    key = {"ncols": 2, "handlelength": 3, "frameon": False, "fontsize": "small"}
    canvas.legend(handles=handles, loc="outside lower center", **key)
    return saved(canvas)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float | None]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_names: Sequence[str] | None = None,
    log: bool = False,
    reference: Mapping[str, float] | None = None,
) -> bytes:
    """A PNG of one line per series through its means, with error bars, and the legend beside it.

    Series are set a little apart sideways, so that no error bar hides another; the ticks stand at the true places.

    Args:
        series: By name, points `(x, mean, half)`; `half` is half the height of the error bar, or None for none.
        title: Above the picture.
        x_label: Below it.
        y_label: Beside it.
        x_names: Names of x = 0, 1, 2, ..., where x is a category, such as a layer.
        log: A logarithmic x axis, with a tick at each x that occurs.
        reference: Levels to compare with by name, such as chance: horizontal dashed lines. One that is so far off that
            it would flatten the series is only named, with its value and an arrow to where it is.

    Raises:
        ArgumentError: A series is empty, a number is not finite, a `half` is negative, or an x has no name or, on a
            logarithmic axis, is not positive; or names are given for a logarithmic axis.
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> points = [(1, 12.0, 1.5), (10, 31.5, 0.8)]
        >>> lines({"ours": points}, title="Few labels", x_label="per class", y_label="accuracy, %", log=True)[1:4]
        b'PNG'
    """
    check_series(series, x_names, log)
    for name, value in (reference or {}).items():
        check_numbers("lines", name, value, None)
    canvas, axes = blank(7, 4.4)
    if log:
        axes.set_xscale("log")
    places = sorted({x for points in series.values() for x, _, _ in points})
    for i, (name, points) in enumerate(series.items()):
        x = [dodged(x, i, len(series), places, log) for x, _, _ in points]
        half = [math.nan if half is None else half for _, _, half in points]
        means, style = [mean for _, mean, _ in points], {"elinewidth": 1.2, "capsize": 2, **look(i)}
        axes.errorbar(x, means, yerr=half, label=plain(name), **style)
    names = draw_levels(axes, reference or {}, [mean for points in series.values() for _, mean, _ in points])
    if log:
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
        if len(places) == 1:
            axes.set_xlim(places[0] / 2, places[0] * 2)  # matplotlib's own limits of a single place miss it
    if x_names is not None:
        # About 70 characters fit side by side under seven inches.
        slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        crowded = len(x_names) * (max(map(len, x_names)) + 2) > 70
        axes.set_xticks(range(len(x_names)), map(plain, x_names), **(slant if crowded else {}))
    finish(axes, title, x_label, y_label)
    legend_beside(canvas, axes, last=names)
    return saved(canvas)


def draw_levels(axes: Any, levels: Mapping[str, float], data: Sequence[float]) -> list[str]:
    """Draws levels that are not much farther off than the data are apart; returns what the legend calls all of them."""
    low, high = min(data), max(data)
    reach = max(LEVEL_REACH * (high - low), abs(high))
    names = []
    for i, (name, value) in enumerate(levels.items()):
        far = "↑" if value > high + reach else "↓" if value < low - reach else ""
        names.append(plain(f"{far} {name}: {value:.3g}" if far else name))
        turn, dash = divmod(i, len(LEVELS))  # after one round of the dashes the lines are broad and pale
        style = {"color": "0.65" if turn % 2 else "0.35", "lw": 2.6 if turn % 2 else 1.3, "linestyle": LEVELS[dash]}
        if far:
            axes.plot([], [], color="none", label=names[-1])
        else:
            axes.axhline(value, label=names[-1], zorder=1, **style)
    return names


def blank(width: float, height: float) -> tuple[Any, Any]:
    """An empty picture of so many inches, and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'ssl-pretext[benchmarks]'") from error
    canvas = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return canvas, canvas.subplots()


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: dollars begin no formula, and a first underscore hides nothing."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def finish(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set(title=textwrap.fill(plain(title), 70), xlabel=plain(x_label), ylabel=plain(y_label))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(canvas: Any, axes: Any, last: Collection[str] = ()) -> None:
    """A legend to the right of the data; the picture grows by its width, so that the axes keep theirs."""
    # matplotlib lists containers, such as those of error bars, after all lines: here the levels come last again.
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in last)
    handles, names = [handle for handle, _ in entries], [textwrap.fill(name, 32) for _, name in entries]
    legend = canvas.legend(handles, names, loc="outside right upper", handlelength=3.6, frameon=False)
    canvas.set_figwidth(canvas.get_figwidth() + legend.get_window_extent().width / canvas.dpi)


def saved(canvas: Any) -> bytes:
    """The PNG, without matplotlib's version in it."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def look(i: int) -> dict[str, Any]:
    """Color, dash and marker of series `i`: after one round of the colors the markers shift and are hollow."""
    turn, place = divmod(i, len(PALETTE))
    return {
        "color": PALETTE[place],
        "linestyle": STYLES[i % len(STYLES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "markersize": 5,
        "markerfacecolor": "white" if turn % 2 else PALETTE[place],
    }


def dodged(x: float, i: int, count: int, places: Sequence[float], log: bool) -> float:
    """Where series `i` of `count` draws x: all of them stay within 0.3 of the smallest step around it."""
    share = (i - (count - 1) / 2) * min(0.06, 0.3 / count)
    if log:
        return float(x * min((b / a for a, b in pairwise(places)), default=2) ** share)
    return x + share * min((b - a for a, b in pairwise(places)), default=1)


def verdict_of(mean: float, half: float | None) -> str:
    if half is None:
        return "alone"
    if abs(mean) <= half:
        return "unclear"
    return "above" if mean > 0 else "below"


def value_text(mean: float, half: float | None) -> str:
    text = f"{mean:+.1f}" if half is None else f"{mean:+.1f} ± {half:.1f}"
    return text.replace("-", "−")


Places = list[tuple[float, Mapping[str, Any]]]


def arranged(rows: Sequence[Mapping[str, Any]]) -> tuple[Places, list[tuple[float, str]]]:
    """The lines that rows and headings stand on, from 0 down; half a line parts the groups."""
    groups: dict[str | None, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    places, headings, y = [], [], 0.0
    for group, members in groups.items():
        if group is not None:
            headings.append((y, group))
            y += 1
        places += [(y + i, row) for i, row in enumerate(members)]
        y += len(members) + 0.5
    return places, headings


def label_rows(axes: Any, places: Places, headings: Sequence[tuple[float, str]]) -> float:
    """Writes labels and headings left of the axes, flush left; returns the inches they take."""
    texts = [*headings, *((y, row["label"]) for y, row in places)]
    axes.set_yticks([y for y, _ in texts], [plain(text) for _, text in texts])
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
        raise ArgumentError("forest needs at least one row, got none")
    for row in rows:
        missing = [key for key in ("label", "mean", "half", "group") if key not in row]
        if missing:
            raise ArgumentError(f"each row of forest needs label, mean, half and group; {dict(row)} lacks {missing}")
        check_numbers("forest", row["label"], row["mean"], row["half"])


def check_series(series: Mapping[str, Sequence[Any]], x_names: Sequence[str] | None, log: bool) -> None:
    counts = {name: len(points) for name, points in series.items()}
    if not counts or not all(counts.values()):
        raise ArgumentError(f"lines needs at least one series, and points in each, got {counts}")
    if log and x_names is not None:
        raise ArgumentError("lines takes x_names or log=True, not both: names stand at 0, 1, 2, ...")
    for name, points in series.items():
        for x, mean, half in points:
            check_numbers("lines", name, mean, half)
            if not (0 if log else -math.inf) < x < math.inf:
                raise ArgumentError(f"lines needs a finite x, above 0 where log=True, got {x} in {name!r}")
            if x_names is not None and x not in range(len(x_names)):
                raise ArgumentError(f"lines has names for x = 0 to {len(x_names) - 1}, got x = {x} in {name!r}")


def check_numbers(caller: str, name: str, mean: float, half: float | None) -> None:
    if not math.isfinite(mean) or (half is not None and not 0 <= half < math.inf):
        raise ArgumentError(
            f"{caller} needs finite means and a half of 0 or more, or None: {name!r} has {mean}, {half}"
        )
