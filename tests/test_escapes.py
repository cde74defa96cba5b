"""Names with HTML, formulas or terminal escape sequences are shown literally, and have no effect."""

import logging
import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import ssl_pretext as sp
from ssl_pretext.cli import main
from ssl_pretext.cli.command import run_command
from ssl_pretext.errors import DataError
from ssl_pretext.reporting.drawings import IntervalRow, interval_chart, line_chart, matrix_chart, scatter_chart
from ssl_pretext.reporting.page import Figure, Gallery, Section, Tile, Verdict, html_page, markdown_table
from ssl_pretext.reporting.plots import curves, forest, lines, to_png
from ssl_pretext.saving.contract import TrainedOn

NASTY = [
    "<script>alert(1)<\\script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}&amp;<!--",
    "javascript:alert(1)",
    "$\\frac{$",
    "_$a$_|\n|`",
]
OUR_TAGS = {
    "details",
    "summary",
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "section",
    "p",
    "div",
    "table",
    "tr",
    "th",
    "td",
    "figure",
    "img",
    "figcaption",
    "pre",
    "ul",
    "li",
    "svg",
    "line",
    "polyline",
    "circle",
    "rect",
    "text",
}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "src", "alt", "data-column"}
OF_DRAWINGS = {"viewbox", "role", "aria-label", "points", "transform", "text-anchor", "fill-opacity"}
OF_DRAWINGS |= {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "class"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    @property
    def harmless(self):
        known = ATTRIBUTES | OF_DRAWINGS
        return all(tag in OUR_TAGS and attributes.keys() <= known for tag, attributes in self.tags) and all(
            attributes["src"].startswith("data:image/png;base64,") for tag, attributes in self.tags if tag == "img"
        )


@pytest.mark.parametrize("nasty", NASTY)
def test_a_page_shows_names_literally(nasty):
    section = Section(
        nasty, [nasty], [{nasty: nasty, "other": 1}], [Figure(b"png", nasty)], nasty, {nasty: [{nasty: 1}]}
    )
    page = Page(html_page(nasty, [section]))
    assert page.harmless
    # two headings, title, paragraph, head and cell of the table, title and head of the folded one, caption, code
    assert page.text.count(nasty) == 10
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [nasty]
    assert [attributes["data-column"] for tag, attributes in page.tags if tag == "td"] == [nasty, "other", nasty]


@pytest.mark.parametrize("nasty", NASTY)
def test_drawings_galleries_and_the_verdict_show_names_literally(nasty):
    rows = [IntervalRow(nasty, 1.0, 0.5, nasty, "main"), IntervalRow(nasty, math.nan, None, nasty, "control")]
    drawings = [
        interval_chart(rows, caption=nasty),
        line_chart({nasty: [(1, 2.0)], "other": [(1, 1.0)]}, x_label=nasty, y_label=nasty, caption=nasty),
        scatter_chart([(0.0, 1.0)], [nasty], [nasty], caption=nasty),
        matrix_chart([[1.0]], [nasty], caption=nasty),
    ]
    for drawing in drawings:
        root = ElementTree.fromstring(drawing.svg)  # well-formed
        assert root.get("aria-label") == nasty.replace("\n", " ") or "\n" in nasty
        assert nasty in "".join(root.itertext()) or "\n" in nasty
    gallery = Gallery([Tile(b"png", nasty, True), Tile(b"png", nasty)], 2, nasty)
    section = Section(nasty, drawings=drawings, galleries=[gallery], collapsed=True)
    page = Page(html_page(nasty, [section], verdict=Verdict(nasty, nasty, [nasty], drawings[0]), lead=nasty))
    assert page.harmless
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [nasty, nasty]


def test_a_page_without_escaping_is_detected():
    page = html_page("title", [Section("heading")])
    assert Page(page).harmless
    for nasty in NASTY[:3]:
        assert not Page(page.replace("heading", nasty)).harmless
    assert not Page(page.replace("<h2>", "<h2 onclick='x'>")).harmless


@pytest.mark.parametrize("nasty", NASTY)
def test_plots_show_names_literally(nasty):
    labels = {"title": nasty, "x_label": nasty}
    row = {"label": nasty, "mean": 1.0, "half": 0.5, "group": nasty}
    plain = {"label": "x", "mean": 1.0, "half": 0.5, "group": "x"}
    assert to_png(forest([row], **labels)) != to_png(forest([plain], title="x", x_label="x"))
    points = [(0, 1.0, 0.1), (1, 2.0, 0.1)]
    for figure in (
        curves({nasty: [[1.0, 2.0]]}, **labels, y_label=nasty),
        lines({nasty: points}, **labels, y_label=nasty, x_names=[nasty, "b"], reference={nasty + " ": 1.5, "r": 90}),
    ):
        assert to_png(figure).startswith(b"\x89PNG")


def test_a_name_with_an_underscore_stays_in_the_legend():
    def shown(name):
        return to_png(curves({name: [[1.0, 2.0]]}, title="", x_label="", y_label=""))

    assert shown("_a") != shown("_b")


def test_line_breaks_in_a_cell_do_not_break_a_table():
    table = markdown_table([{"name": "a\nb|c\r\nd", "x": 1}], ["name", "x"])
    assert table.splitlines()[2:] == ["| a b\\|c d | 1 |"]


def test_names_cannot_control_the_terminal(capsys):
    nasty = "\x1b]0;owned\x07\x1b[2Jx\x9b31m\u202egpj.\udcff"
    logged = "\\x1b]0;owned\\x07\\x1b[2Jx\\x9b31m\\u202egpj.\\udcff"

    def work():
        logging.getLogger("ssl_pretext").info("read %s\n\tand é", nasty)
        raise DataError(f"{nasty} cannot be read")

    assert run_command("it", work) == 2
    assert capsys.readouterr() == (f"read {logged}\n\tand é\n", f"it: {logged} cannot be read\n")


def test_a_report_with_nasty_names_of_classes_and_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_PRETEXT_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "<img src=x onerror=alert(1)>\udcff"
    generator = np.random.default_rng(0)
    for name in NASTY[:4]:
        for i in range(4):
            path = data / name / f"{i}{NASTY[i]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, "PNG")
    task = sp.tasks.Rotation("autoencoder[width=0.125]", channels="lab:L")
    task.trained_on = TrainedOn(image_size=16)
    run = tmp_path / "'\"><script>alert(1)"
    task.save_pretrained(run)
    (data / NASTY[0] / f"{NASTY[1]}.jpg").write_text("no photo")
    assert main(["probe", str(run), "--data", str(data), "--probe", "knn", "--seeds", "2", "--device", "cpu"]) == 0
    page = Page(Path(run, "probe", "report.html").read_text(encoding="utf-8"))
    assert page.harmless
    assert "<img src=x onerror=alert(1)>\\udcff" in page.text
    assert run.name in page.text
