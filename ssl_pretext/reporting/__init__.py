"""Reporting: tables, plots, drawings, image grids and report pages."""

from ssl_pretext.reporting.drawings import (
    Drawing,
    IntervalRow,
    interval_chart,
    line_chart,
    matrix_chart,
    scatter_chart,
)
from ssl_pretext.reporting.page import (
    Figure,
    Gallery,
    Section,
    Tile,
    Verdict,
    html_page,
    image_grid,
    image_to_png,
    markdown_table,
)
from ssl_pretext.reporting.plots import curves, forest, lines, to_png

__all__ = [
    "Drawing",
    "Figure",
    "Gallery",
    "IntervalRow",
    "Section",
    "Tile",
    "Verdict",
    "curves",
    "forest",
    "html_page",
    "image_grid",
    "image_to_png",
    "interval_chart",
    "line_chart",
    "lines",
    "markdown_table",
    "matrix_chart",
    "scatter_chart",
    "to_png",
]
