"""Drawings put values where they belong, and leave out what is not finite."""

import math
from xml.etree import ElementTree

import pytest

from ssl_pretext.errors import ArgumentError
from ssl_pretext.reporting.drawings import IntervalRow, interval_chart, line_chart, matrix_chart, scatter_chart


def elements(drawing, tag, name):
    """The elements of a drawing with a tag whose class has a name."""
    root = ElementTree.fromstring(drawing.svg)
    return [one for one in root.iter(tag) if name in one.get("class", "").split()]


def test_intervals_are_on_one_axis():
    rows = [IntervalRow("ours", 60, 10, "60 ± 10", "main"), IntervalRow("pixels", 50, 5, "50 ± 5", "control")]
    drawing = interval_chart(rows, caption="accuracy, %")
    (ours,), (pixels,) = elements(drawing, "circle", "main"), elements(drawing, "circle", "control")
    (bar,), (short,) = elements(drawing, "line", "bar main".split()[1]), elements(drawing, "line", "control")
    width, half = (float(one.get("x2")) - float(one.get("x1")) for one in (bar, short))
    assert width == pytest.approx(2 * half, abs=0.3)
    assert float(ours.get("cx")) - float(pixels.get("cx")) == pytest.approx(width / 2, abs=0.3)
    ticks = {one.text: float(one.get("x")) for one in elements(drawing, "text", "tick")}
    assert ticks["50"] == pytest.approx(float(pixels.get("cx")), abs=0.1)
    (level,) = elements(drawing, "line", "level")
    assert level.get("x1") == ours.get("cx")


def test_rows_without_a_finite_value_have_no_mark():
    rows = [IntervalRow("ours", 60, math.inf, "60"), IntervalRow("diverged", math.nan, None, "nan")]
    drawing = interval_chart(rows, caption="")
    assert len(elements(drawing, "circle", "dot")) == 1
    assert "nan" not in drawing.svg.replace(">nan<", "")
    with pytest.raises(ArgumentError, match="at least one row with a finite value"):
        interval_chart(rows[1:], caption="")


def test_intervals_end_at_what_is_possible():
    rows = [IntervalRow("ours", 60, 10, "60 ± 10", "main"), IntervalRow("hardly known", 40, 90, "40 ± 90")]
    drawing = interval_chart(rows, caption="accuracy, %", limits=(0, 100))
    ticks = {one.text: float(one.get("x")) for one in elements(drawing, "text", "tick")}
    (bar,) = elements(drawing, "line", "other")
    assert [float(bar.get(end)) for end in ("x1", "x2")] == pytest.approx([ticks["0"], ticks["100"]])
    assert {*ticks} <= {str(number) for number in range(0, 101)}


def test_differences_stand_beside_a_line_at_zero():
    rows = [IntervalRow("minus pixels", 20, 5, "+20.0 ± 5.0"), IntervalRow("minus twin", 8, 2, "+8.0 ± 2.0")]
    drawing = interval_chart(rows, caption="", level=0.0)
    (level,) = elements(drawing, "line", "level")
    (first, second) = elements(drawing, "circle", "other")
    zero = float(level.get("x1"))
    assert float(first.get("cx")) - zero == pytest.approx(20 / 8 * (float(second.get("cx")) - zero), abs=0.5)
    assert zero >= 0, "zero is on the axis, though no interval reaches it"


def test_numbers_of_labels_are_apart_by_their_ratio_and_have_intervals():
    series = {"net": [(5, 40.0, 4.0), (50, 60.0, 2.0)], "pixels": [(5, 30.0, math.nan), (500, 50.0, 1.0)]}
    drawing = line_chart(series, x_label="labels", y_label="accuracy", caption="", log=True)
    ticks = {
        one.text: float(one.get("x")) for one in elements(drawing, "text", "tick") if one.text in ("5", "50", "500")
    }
    assert ticks["50"] - ticks["5"] == pytest.approx(ticks["500"] - ticks["50"], abs=0.2)
    bars = elements(drawing, "line", "half")
    heights = [float(one.get("y1")) - float(one.get("y2")) for one in bars]
    assert heights == pytest.approx([4 * heights[2], 2 * heights[2], heights[2]], rel=0.02), "an unknown one has no bar"
    assert len({one.get("x1") for one in bars[:1] + elements(drawing, "circle", "s1")[:1]}) == 2, "side by side"


def test_curves_fall_where_values_fall():
    series = {"loss": [(1, 3.0), (2, math.nan), (3, 1.0)], "empty": [(1, math.inf)]}
    drawing = line_chart(series, x_label="epoch", y_label="loss", caption="")
    (curve,) = elements(drawing, "polyline", "curve")
    (x1, y1), (x2, y2) = ([float(part) for part in point.split(",")] for point in curve.get("points").split())
    assert x1 < x2
    assert y1 < y2, "y grows downward"
    with pytest.raises(ArgumentError, match="at least one finite point"):
        line_chart({"empty": []}, x_label="", y_label="", caption="")


def test_a_constant_curve_and_a_single_point_can_be_drawn():
    assert elements(line_chart({"a": [(1, 0.0)]}, x_label="", y_label="", caption=""), "circle", "point")
    assert interval_chart([IntervalRow("a", 0.0, 0.0, "0")], caption="").svg


def test_groups_beyond_the_ninth_are_gray():
    points, groups = [(float(i), 0.0) for i in range(22)], [str(i % 11) for i in range(22)]
    drawing = scatter_chart(points, groups, groups, caption="")
    circles = elements(drawing, "circle", "point")
    assert len(circles) == 22 + 9 + 1, "points and a legend of nine groups and the others"
    assert len(elements(drawing, "circle", "rest")) == 4 + 1
    positions = [float(one.get("cx")) for one in circles[10:]]
    assert positions == sorted(positions)
    assert "other classes" in drawing.svg
    one_more = scatter_chart(points[:10], [f"class {i}" for i in range(10)], groups[:10], caption="")
    assert {f"class {i}" for i in range(10)} <= {one.text for one in elements(one_more, "text", "label")}
    assert "other classes" not in one_more.svg, "a single one has its name"
    with pytest.raises(ArgumentError, match="at least one point"):
        scatter_chart([], [], [], caption="")


def test_a_matrix_shows_shares_in_percent():
    drawing = matrix_chart([[0.75, 0.25], [math.nan, math.nan]], ["a", "b"], caption="")
    assert [one.text for one in elements(drawing, "text", "in")] == ["75", "25"]
    (right,) = elements(drawing, "rect", "right")
    (wrong,) = elements(drawing, "rect", "wrong")
    assert float(right.get("fill-opacity")) > float(wrong.get("fill-opacity"))


def test_the_names_beside_a_matrix_are_inside_the_drawing():
    names = ["HerbaceousVegetation", "PermanentCrop", "Mmmmmmmmmmmmm"]
    drawing = matrix_chart([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], names, caption="")
    width = float(ElementTree.fromstring(drawing.svg).get("viewBox").split()[2])
    em = 13 * 0.62  # the mean width of a letter of the font
    for one in elements(drawing, "text", "label"):
        text = one.text if one.text else ""
        length, x, y = em * len(text), float(one.get("x")), float(one.get("y"))
        if one.get("text-anchor") == "end":
            assert x - length >= 0, text
        else:
            angle = math.radians(40)
            assert x + length * math.cos(angle) <= width, text
            assert y - length * math.sin(angle) >= 0, text
