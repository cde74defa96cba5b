"""Plots: the same bytes every time, nothing is cut off, and what each kind of plot shows."""

import builtins
import io
import math

import pytest
from matplotlib.figure import Figure
from PIL import Image

from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.reporting import plots
from ssl_pretext.reporting.plots import (
    arrange_rows,
    draw_levels,
    format_difference,
    interval_kind,
    new_figure,
    series_style,
    shifted_x,
    to_png,
)


def curves(*arguments, **options):
    return to_png(plots.curves(*arguments, **options))


def forest(*arguments, **options):
    return to_png(plots.forest(*arguments, **options))


def lines(*arguments, **options):
    return to_png(plots.lines(*arguments, **options))


LONG = "split-brain, both halves − pixels rgb 8×8 (xy)"
LABELS = {"title": "A title", "x_label": "across", "y_label": "up"}


def row(label="ours − pixels", mean=2.7, half=2.3, group=None):
    return {"label": label, "mean": mean, "half": half, "group": group}


ROWS = [row(), row("lost", -3.0, 1.0, "far"), row(LONG, 0.2, 1.0), row("one run", 1.0, None, "far")]
SERIES = {"ours": [(1, 5.0, 1.0), (5, 9.0, None), (20, 12.0, 0.5)], "pixels": [(1, 4.0, 1.0), (20, 8.0, None)]}


def draw_curves():
    return curves({"a": [[1, 2], [2, 3]]}, **LABELS)


def draw_forest():
    return forest(ROWS, title="A title", x_label="across")


def draw_lines():
    return lines(SERIES, **LABELS, log=True, reference={"chance": 1.0})


all_plots = pytest.mark.parametrize("draw", [draw_curves, draw_forest, draw_lines])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test saves, whose texts and positions are checked."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: [figures.append(self), save(self, *a, **k)])
    return figures


def texts(axis_labels):
    return [label.get_text() for label in axis_labels]


def legend_of(figure):
    return texts(figure.legends[0].get_texts())


def cut_off(figure):
    """Whether anything extends beyond the edges of the figure."""
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(drawn.x0, drawn.y0) < 0 or drawn.x1 > width or drawn.y1 > height


@all_plots
def test_plots_are_the_same_bytes_each_time_without_a_version(draw):
    png = draw()
    assert png == draw()
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png


@all_plots
def test_nothing_is_cut_off_and_the_legend_does_not_cover_the_data(draw, drawn):
    draw()
    (figure,) = drawn
    assert not cut_off(figure)
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_text_that_is_cut_off_is_detected(drawn):
    draw_forest()
    drawn[0].text(0.95, 0.5, LONG)
    assert cut_off(drawn[0])


@all_plots
def test_without_matplotlib_the_error_says_what_to_install(draw, monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ssl-pretext\[benchmarks\]'"):
        draw()


def test_curves_show_mean_and_range(drawn):
    curves({"a": [[1, 2], [2, 4]], "b": [[0, 0], [0, 0]]}, **LABELS)
    axes = drawn[0].axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[1.5, 3.0], [0, 0]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(1, 1), (1, 2), (2, 2), (2, 4)}
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("A title", "across", "up")
    assert legend_of(drawn[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("mean", "half", "kind", "text"),
    [
        (2.7, 2.3, "above", "+2.7 ± 2.3"),
        (-2.7, 2.3, "below", "−2.7 ± 2.3"),
        (2.3, 2.3, "unclear", "+2.3 ± 2.3"),
        (-0.2, 1.0, "unclear", "−0.2 ± 1.0"),
        (2.7, None, "alone", "+2.7"),
    ],
)
def test_kind_and_text_of_a_difference(mean, half, kind, text):
    assert interval_kind(mean, half) == kind
    assert format_difference(mean, half) == text


def test_rows_of_a_group_are_together_under_its_heading():
    places, headings = arrange_rows(ROWS)
    assert [(y, r["label"]) for y, r in places] == [(0, ROWS[0]["label"]), (1, LONG), (3.5, "lost"), (4.5, "one run")]
    assert headings == [(2.5, "far")]


def test_forest_draws_rows_values_and_hollow_markers(drawn):
    draw_forest()
    axes, values = drawn[0].axes
    labels = axes.get_yticklabels()
    assert texts(labels) == ["far", "ours − pixels", LONG, "lost", "one run"]
    assert [label.get_fontweight() for label in labels] == ["bold"] + ["normal"] * 4
    assert texts(values.get_yticklabels()) == ["+2.7 ± 2.3", "+0.2 ± 1.0", "−3.0 ± 1.0", "+1.0"]
    points = [container.lines[0] for container in axes.containers]
    assert [point.get_xdata()[0] for point in points] == [2.7, 0.2, -3.0, 1.0]
    assert [point.get_marker() for point in points] == ["o", "o", "o", "D"]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True, False, True]
    assert len({point.get_color() for point in points}) == 3
    assert [container.has_xerr for container in axes.containers] == [True, True, True, False]
    ends = axes.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert list(ends) == pytest.approx([0.4, 5.0])
    assert axes.yaxis_inverted()
    assert axes.get_ylim() == values.get_ylim()
    assert legend_of(drawn[0]) == [name for name, *_ in plots.INTERVAL_KINDS.values()]


def test_forest_shows_zero_and_only_the_legend_entries_that_occur(drawn):
    forest([row(mean=50.0, half=1.0)], title="t", x_label="x")
    low, high = drawn[0].axes[0].get_xlim()
    assert low < 0 < high
    assert legend_of(drawn[0]) == ["95% interval above 0"]


def test_forest_grows_with_rows_and_labels():
    def size(rows):
        return Image.open(io.BytesIO(forest(rows, title="t", x_label="x"))).size

    (width, low), (same, high), (wide, _) = size([row()]), size([row()] * 11), size([row(LONG)])
    assert same == width < wide
    assert high - low == pytest.approx(10 * 0.3 * 110, abs=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row, got none"),
        ([{"label": "a", "mean": 1.0, "group": None}], r"lacks \['half'\]"),
        ([row(mean=math.nan)], "finite means.* 'ours − pixels' has mean nan and half width 2.3"),
        ([row(half=-1.0)], "half widths that are 0 or more or None; .* has mean 2.7 and half width -1.0"),
        ([row(half=math.nan)], "half widths that are 0 or more or None"),
    ],
)
def test_errors_of_forest(rows, message):
    with pytest.raises(ArgumentError, match=message):
        forest(rows, title="t", x_label="x")


def test_a_logarithmic_axis_has_plain_ticks_at_the_given_positions(drawn):
    draw_lines()
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [1, 5, 20]
    assert texts(axes.get_xticklabels()) == ["1", "5", "20"]
    assert not len(axes.get_xticks(minor=True))
    assert legend_of(drawn[0]) == ["ours", "pixels", "chance"]


@pytest.mark.parametrize("log", [False, True])
def test_a_single_position_is_in_view(log, drawn):
    lines({"a": [(5, 20.0, 1.0)], "b": [(5, 21.0, None)]}, **LABELS, log=log)
    (low, high), axes = drawn[0].axes[0].get_xlim(), drawn[0].axes[0]
    assert all(low < container.lines[0].get_xdata()[0] < high for container in axes.containers)
    assert not cut_off(drawn[0])


def test_a_long_name_is_wrapped_in_the_legend(drawn):
    lines({LONG: [(0, 1.0, None), (1, 2.0, None)]}, **LABELS)
    assert legend_of(drawn[0]) == ["split-brain, both halves −\npixels rgb 8×8 (xy)"]


def test_lines_draw_means_intervals_and_levels(drawn):
    draw_lines()
    axes = drawn[0].axes[0]
    ours, pixels = axes.containers
    assert list(ours.lines[0].get_ydata()) == [5, 9, 12]
    assert list(pixels.lines[0].get_ydata()) == [4, 8]
    heights = [list(segment[:, 1]) for segment in ours.lines[2][0].get_segments() if len(segment)]
    assert [h for h in heights if not math.isnan(h[0])] == [[4, 6], [11.5, 12.5]]
    (level,) = [line for line in axes.lines if line.get_label() == "chance"]
    assert list(level.get_ydata()) == [1.0, 1.0]
    assert level.get_linestyle() == "--"


@pytest.mark.parametrize(("names", "angle"), [(["a", "b"], 0), ([f"down_blocks.{i}.resnets.1" for i in range(6)], 30)])
def test_long_names_are_rotated_and_not_cut_off(names, angle, drawn):
    lines({"ours": [(i, 1.0 + i, 0.5) for i in range(len(names))]}, **LABELS, x_names=names)
    labels = drawn[0].axes[0].get_xticklabels()
    assert texts(labels) == names
    assert {label.get_rotation() for label in labels} == {angle}
    assert not cut_off(drawn[0])


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("log", [False, True])
def test_series_are_shifted_apart_but_stay_near_their_position(count, log):
    positions = [1, 2, 5, 10]
    shifted = [shifted_x(2, i, count, positions, log) for i in range(count)]
    assert shifted == sorted(set(shifted))
    middle = math.exp(sum(map(math.log, shifted)) / count) if log else sum(shifted) / count
    assert middle == pytest.approx(2)
    assert 2 - 0.15 * 2 < shifted[0] <= shifted[-1] < 2 + 0.15 * 2
    assert shifted_x(3, 0, 1, [3], log) == 3


def test_styles_differ_for_many_more_series_than_colors():
    styles = [tuple(series_style(i).values()) for i in range(40)]
    assert len(set(styles)) == 40
    # In black and white, the first nine differ in dash or marker.
    assert len({(style[1], style[2], style[4] == "white") for style in styles[:9]}) == 9


def test_nine_series_are_all_in_the_legend(drawn):
    png = lines({f"series {i}": [(0, float(i), 0.2), (1, 2.0 * i, 0.2)] for i in range(9)}, **LABELS)
    assert len(legend_of(drawn[0])) == 9
    assert not drawn[0].legends[0].get_window_extent().overlaps(drawn[0].axes[0].get_window_extent())
    assert Image.open(io.BytesIO(png)).size[0] > 770


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        ({}, {}, r"at least one series and points in each, got \{\} points"),
        ({"a": []}, {}, r"got \{'a': 0\}"),
        ({"a": [(1, math.inf, None)]}, {}, r"lines\(\) needs finite means"),
        ({"a": [(1, 1.0, -1.0)]}, {}, "half widths that are 0 or more"),
        ({"a": [(math.nan, 1.0, None)]}, {}, "finite x, above 0 if log=True, got nan in 'a'"),
        ({"a": [(0, 1.0, None)]}, {"log": True}, "above 0 if log=True, got 0 in 'a'"),
        ({"a": [(2, 1.0, None)]}, {"x_names": ["p", "q"]}, "names for x = 0 to 1, got x = 2 in 'a'"),
        ({"a": [(1, 1.0, None)]}, {"x_names": ["p"], "log": True}, "x_names or log=True, not both"),
        ({"a": [(1, 1.0, None)]}, {"reference": {"chance": math.nan}}, "'chance' has mean nan and half width None"),
    ],
)
def test_errors_of_lines(series, options, message):
    with pytest.raises(ArgumentError, match=message):
        lines(series, **LABELS, **options)


def test_a_level_that_would_flatten_the_series_is_only_in_the_legend():
    _, axes = new_figure(4, 3)
    axes.plot([1, 2], [10.0, 12.0])
    names = draw_levels(axes, {"near": 20.0, "far": 47.25, "below": -30.0}, [10.0, 12.0])
    assert names == ["near", "↑ far: 47.2", "↓ below: -30"]
    assert axes.get_legend_handles_labels()[1] == names
    low, high = axes.get_ylim()
    assert -30 < low < 10 < 20 < high < 47
