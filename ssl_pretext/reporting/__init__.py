"""Reporting: tables, plots, image grids and report pages."""

from ssl_pretext.reporting.page import Figure, Section, html_page, image_grid, markdown_table
from ssl_pretext.reporting.plots import curves, forest, lines, to_png

__all__ = ["Figure", "Section", "curves", "forest", "html_page", "image_grid", "lines", "markdown_table", "to_png"]
