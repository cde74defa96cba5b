"""Drawings inside a page: intervals, curves, maps of points and matrices as SVG, in the colors of the page."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from xml.etree import ElementTree

from ssl_pretext.errors import ArgumentError

__all__ = ["Drawing", "IntervalRow", "interval_chart", "line_chart", "matrix_chart", "scatter_chart"]

WIDTH = 480  # of every drawing, in units that are about pixels on a phone
COLORS = 9  # classes `s0` to `s8` of the style sheet; further groups are gray
MANY_POINTS = 40  # a curve with more has no markers
LETTERS = 46  # of a label above an interval
SHORT = 13  # letters of the name of a class beside a matrix


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing with its caption, which is also its alternative text.

    Attributes:
        svg: The element `<svg>` as one of the functions of this module returns it. Its text is escaped.
        caption: Text below the drawing.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class IntervalRow:
    """A row of `interval_chart`.

    Attributes:
        label: Name of the row.
        mean: The value.
        half: Half the width of its interval, or None.
        text: The value in words, such as `"88.2 ± 2.0"`.
        role: `"main"` for what the chart is about, `"other"`, or `"control"`, which is drawn in gray.
    """

    label: str
    mean: float
    half: float | None
    text: str
    role: str = "other"


def interval_chart(
    rows: Sequence[IntervalRow],
    *,
    caption: str,
    limits: tuple[float, float] | None = None,
    level: float | None = None,
) -> Drawing:
    """Draws values with their intervals on one axis, with a dashed line.

    Args:
        rows: Rows from top to bottom. Those whose value is not finite keep their text and have no mark.
        caption: Caption of the drawing, which says what the values and the intervals are.
        limits: The smallest and the largest possible value, at which intervals end that reach beyond them.
        level: Value of the dashed line, such as zero for differences; by default that of the first main row, if any.

    Raises:
        ArgumentError: No row has a finite value.

    Examples:
        >>> drawing = interval_chart([IntervalRow("ours", 88.2, 2.0, "88.2 ± 2.0", "main")], caption="accuracy, %")
        >>> drawing.svg[:4]
        '<svg'
    """
    finite = [row for row in rows if math.isfinite(row.mean)]
    if not finite:
        raise ArgumentError("interval_chart() needs at least one row with a finite value, got none")
    halves = {id(row): row.half if row.half is not None and math.isfinite(row.half) else 0.0 for row in finite}
    lowest, highest = limits or (-math.inf, math.inf)
    bars = {
        id(row): (max(row.mean - halves[id(row)], lowest), min(row.mean + halves[id(row)], highest)) for row in finite
    }
    if level is None:
        level = next((row.mean for row in finite if row.role == "main"), None)
    shown = [end for both in bars.values() for end in both] + ([] if level is None else [level])
    ticks = _ticks(min(shown), max(shown))
    low, high, left, right = ticks[0], ticks[-1], 8.0, WIDTH - 8.0
    step, height = 40, 40 * len(rows)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    svg = _svg(height + 26, caption)
    for tick in ticks:
        _add(svg, "line", x1=x(tick), x2=x(tick), y1=0, y2=height, class_="grid")
        anchor = "start" if tick == low else "end" if tick == high else "middle"
        _add(svg, "text", _number(tick), x=x(tick), y=height + 18, class_="tick", text_anchor=anchor)
    if level is not None:
        _add(svg, "line", x1=x(level), x2=x(level), y1=0, y2=height, class_="level")
    for i, row in enumerate(rows):
        y = i * step
        label = _add(svg, "text", _shortened(row.label, LETTERS), x=left, y=y + 15, class_=f"label {row.role}")
        _add(label, "title", row.label)
        _add(svg, "text", row.text, x=right, y=y + 15, class_=f"label {row.role}", text_anchor="end")
        if id(row) in bars:
            start, end = map(x, bars[id(row)])
            _add(svg, "line", x1=start, x2=end, y1=y + 27, y2=y + 27, class_=f"bar {row.role}")
            _add(svg, "circle", cx=x(row.mean), cy=y + 27, r=5.5, class_=f"dot {row.role}")
    return _drawing(svg, caption)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float] | tuple[float, float, float]]],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    dashed: Collection[str] = (),
    log: bool = False,
) -> Drawing:
    """Draws a line per series; points that are not finite are left out.

    Args:
        series: Points `(x, y)` by name of the series, of which at least one is finite, or `(x, y, half)` with half the
            width of an interval, which is drawn if it is finite.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        caption: Caption of the drawing.
        dashed: Names of series that are dashed, in the color of the series before them, such as a reference for it.
        log: Whether the x axis is logarithmic, with a tick at each x. The x are then positive.

    Raises:
        ArgumentError: There is no finite point.

    Examples:
        >>> line_chart({"loss": [(1, 2.0), (2, 1.5)]}, x_label="epoch", y_label="loss", caption="Loss").svg[:4]
        '<svg'
    """
    triples = {name: [_with_half(*point) for point in points] for name, points in series.items()}
    finite = {name: [point for point in points if all(map(math.isfinite, point))] for name, points in triples.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        raise ArgumentError("line_chart() needs at least one finite point, got none")
    everything = [point for points in finite.values() for point in points]
    known = sorted({p[0] for p in everything})
    x_low, x_high = known[0], known[-1]
    x_ticks = known if log else _ticks(x_low, x_high)
    x_ticks = [tick for tick in x_ticks if tick == round(tick)] if x_label == "epoch" else x_ticks
    y_ticks = _ticks(min(y - half for _, y, half in everything), max(y + half for _, y, half in everything))
    legend = 20 * len(finite) + 8 if len(finite) > 1 else 0
    colors = list(accumulate(int(name not in dashed) for name in finite))
    left, right, top, bottom = 52.0, WIDTH - 12.0, legend + 24.0, legend + 220.0

    has_intervals = any(half for *_, half in everything)
    scale = math.log if log else float

    def x(value: float) -> float:
        return left + (scale(value) - scale(x_low)) / (scale(x_high) - scale(x_low) or 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    svg = _svg(bottom + 42, caption)
    for tick in y_ticks:
        _add(svg, "line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid")
        _add(svg, "text", _number(tick), x=left - 6, y=y(tick) + 4, class_="tick", text_anchor="end")
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            _add(svg, "text", _number(tick), x=x(tick), y=bottom + 17, class_="tick", text_anchor="middle")
    _add(svg, "text", x_label, x=right, y=bottom + 35, class_="tick", text_anchor="end")
    _add(svg, "text", y_label, x=4, y=legend + 12, class_="tick")
    for i, (name, points) in enumerate(finite.items()):
        color = _color(colors[i] - colors[0])
        kind = f"curve {color} dashed" if name in dashed else f"curve {color}"
        if legend:
            _add(svg, "line", x1=4, x2=30, y1=20 * i + 10, y2=20 * i + 10, class_=kind)
            _add(_add(svg, "text", _shortened(name, 56), x=38, y=20 * i + 14, class_="label"), "title", name)
        beside = 5 * (i - (len(finite) - 1) / 2) * has_intervals  # where they would cover each other
        path = " ".join(f"{x(a) + beside:.1f},{y(b):.1f}" for a, b, _ in points)
        _add(svg, "polyline", points=path, class_=kind)
        for a, b, half in points if len(points) <= MANY_POINTS else ():
            at = x(a) + beside
            if half:
                _add(svg, "line", x1=at, x2=at, y1=y(b - half), y2=y(b + half), class_=f"half {color}")
            _add(svg, "circle", cx=at, cy=y(b), r=3, class_=f"point {color}")
    return _drawing(svg, caption)


def scatter_chart(
    points: Sequence[tuple[float, float]], groups: Sequence[str], titles: Sequence[str], *, caption: str
) -> Drawing:
    """Draws points in the colors of their groups; the nine largest groups have a color, and all others are gray.

    Args:
        points: Finite positions `(x, y)`, which are scaled to the drawing.
        groups: Name of the group of each point.
        titles: Text that is shown while the pointer rests on a point.
        caption: Caption of the drawing.

    Raises:
        ArgumentError: There are no points.

    Examples:
        >>> scatter_chart([(0, 0), (1, 2)], ["cat", "dog"], ["a.jpg", "b.jpg"], caption="A map").svg[:4]
        '<svg'
    """
    if not points:
        raise ArgumentError("scatter_chart() needs at least one point, got none")
    frequent = [name for name, _ in Counter(groups).most_common()]
    names, rest = frequent[:COLORS], frequent[COLORS:]
    shown = sorted(names)
    gray = rest if len(rest) <= 1 else ["other classes"]
    columns = 2
    lines = -(-(len(shown) + len(gray)) // columns)
    top, size = 20.0 * lines + 12, 360.0
    spans = [(min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1)]
    scale = max(high - low for low, high in spans) or 1.0  # one scale, so that distances can be compared
    svg = _svg(top + size, caption)
    for i, name in enumerate([*shown, *gray]):
        column, line = divmod(i, lines)
        left = 8 + column * WIDTH / columns
        _add(svg, "circle", cx=left, cy=20 * line + 9, r=5, class_=f"point {_color(i) if name in names else 'rest'}")
        _add(_add(svg, "text", _shortened(name, 28), x=left + 10, y=20 * line + 14, class_="label"), "title", name)
    for point, group, title in zip(points, groups, titles, strict=True):
        across, up = (
            (value - (low + high) / 2) / scale * (size - 12) for value, (low, high) in zip(point, spans, strict=True)
        )
        color = _color(shown.index(group)) if group in names else "rest"
        circle = _add(svg, "circle", cx=WIDTH / 2 + across, cy=top + size / 2 - up, r=3.5, class_=f"point {color}")
        _add(circle, "title", title)
    return _drawing(svg, caption)


def matrix_chart(shares: Sequence[Sequence[float]], names: Sequence[str], *, caption: str) -> Drawing:
    """Draws a square matrix of shares in percent; the darker a cell, the larger its share.

    Args:
        shares: Rows of shares in `[0, 1]`; a row of NaN stays empty.
        names: Names of the rows, which are also those of the columns.
        caption: Caption of the drawing.

    Examples:
        >>> matrix_chart([[0.9, 0.1], [0.2, 0.8]], ["cat", "dog"], caption="Confusions").svg[:4]
        '<svg'
    """
    left, top = 8 * min(SHORT, max(map(len, names))) + 14.0, 82.0
    # The name of the last column is at an angle, and reaches beyond it.
    right = 4 + max(0.0, 6.2 * min(SHORT, len(names[-1])) - 15)
    cell = (WIDTH - left - right) / len(names)
    height = min(cell, 46.0)
    svg = _svg(top + height * len(names) + 4, caption)
    for i, name in enumerate(names):
        row = _add(svg, "text", _shortened(name, SHORT), x=left - 6, y=top + height * (i + 0.5) + 4, class_="label")
        row.set("text-anchor", "end")
        x, y = left + cell * (i + 0.5), top - 8
        column = _add(svg, "text", _shortened(name, SHORT), x=x, y=y, class_="label")
        column.set("transform", f"rotate(-40 {x:.1f} {y:.1f})")
        for text in (row, column):
            _add(text, "title", name)
        for j, share in enumerate(shares[i]):
            if math.isfinite(share):
                x, y = left + cell * j, top + height * i
                kind = "right" if i == j else "wrong"
                box = _add(svg, "rect", x=x + 1, y=y + 1, width=cell - 2, height=height - 2, class_=f"cell {kind}")
                box.set("fill-opacity", f"{0.06 + 0.6 * share:.3f}")
                text = _add(svg, "text", f"{100 * share:.0f}", x=x + cell / 2, y=y + height / 2 + 4, class_="tick in")
                text.set("text-anchor", "middle")
    return _drawing(svg, caption)


def _svg(height: float, caption: str) -> ElementTree.Element:
    box = f"0 0 {WIDTH} {height:.0f}"
    return ElementTree.Element("svg", {"viewBox": box, "role": "img", "aria-label": caption})


def _add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: Any) -> ElementTree.Element:
    """Adds an element; numbers are rounded, and `text_anchor` stands for `text-anchor`."""
    found = {
        name.rstrip("_").replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    element = ElementTree.SubElement(parent, tag, found)
    element.text = text
    return element


def _drawing(svg: ElementTree.Element, caption: str) -> Drawing:
    return Drawing(ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False), caption)


def _with_half(x: float, y: float, half: float = 0.0) -> tuple[float, float, float]:
    return x, y, half if math.isfinite(half) else 0.0


def _color(i: int) -> str:
    return f"s{i}" if i < COLORS else "rest"


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _ticks(low: float, high: float) -> list[float]:
    """Returns four to eight round numbers, of which the first and the last enclose the values."""
    if high - low < 1e-9 * max(1e-300, abs(low), abs(high)):
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    power: float = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
