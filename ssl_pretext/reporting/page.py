"""Markdown tables, image grids, and self-contained HTML pages that combine them with plots."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_pretext.errors import ArgumentError, MissingDependencyError

__all__ = ["Figure", "Section", "html_page", "image_grid", "markdown_table", "render"]


@dataclass(frozen=True)
class Figure:
    """A PNG image with its caption, which is also its alternative text."""

    png: bytes
    caption: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a report page.

    Attributes:
        heading: Heading of the section.
        paragraphs: Texts, each of which becomes a paragraph.
        table: Rows of a table, by column; the keys of the first row are the headings.
        figures: Images with captions.
        code: Text that is shown unchanged in a monospaced font.
        folded: Further tables by title, which are shown when their title is clicked.
        html: Markup that is inserted as it is; all text in it must have been escaped.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Mapping[str, object]] = ()
    figures: Sequence[Figure] = ()
    code: str = ""
    folded: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    html: str = ""


def markdown_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Formats rows as a Markdown table.

    Args:
        rows: Values by column. A missing value becomes an empty cell, and line breaks in a value become spaces.
        columns: Keys of the columns to show, which are also the headings.

    Examples:
        >>> print(markdown_table([{"name": "pixels", "accuracy": 17.9}], ["name", "accuracy"]))
        | name | accuracy |
        |---|---|
        | pixels | 17.9 |
    """
    lines = [columns, ["---"] * len(columns), *([str(row.get(column, "")) for column in columns] for row in rows)]
    cells = ([" ".join(cell.splitlines()).replace("|", "\\|") for cell in line] for line in lines)
    head, rule, *body = ("| " + " | ".join(line) + " |" for line in cells)
    return "\n".join([head, rule.replace(" ", ""), *body])


def image_grid(rows: Sequence[Sequence[Tensor]], titles: Sequence[str], *, side: int = 96) -> bytes:
    """Draws rows of images under column titles, enlarged without smoothing; returns a PNG.

    Args:
        rows: RGB images `(3, H, W)` in `[0, 1]`, as many in each row as there are titles.
        titles: Titles of the columns.
        side: Smallest number of pixels of the longer side of an image.

    Raises:
        ArgumentError: There are no rows, or a row does not have as many images as there are titles.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or any(len(row) != len(titles) for row in rows):
        raise ArgumentError(
            f"image_grid() needs rows of {len(titles)} images, one for each title; got rows of "
            f"{[len(row) for row in rows]} images"
        )
    height, width = rows[0][0].shape[-2:]
    scale = max(1, -(-side // max(height, width)))
    height, width, gap, head = height * scale, width * scale, 6, 22
    # With many rows, the grid has two blocks next to each other; otherwise it would be very tall.
    blocks = 2 if len(rows) > 4 else 1
    lines = -(-len(rows) // blocks)
    block = len(titles) * (width + gap) + 3 * gap
    page = Image.new("RGB", (blocks * block - 2 * gap, head + lines * (height + gap) + gap), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    for b in range(blocks):
        for c, title in enumerate(titles):
            left = b * block + gap + c * (width + gap)
            draw.text((left + width / 2, head / 2 + 2), title, fill="black", font=font, anchor="mm")
    for i, row in enumerate(rows):
        b, line = divmod(i, lines)
        for c, image in enumerate(row):
            pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            page.paste(picture, (b * block + gap + c * (width + gap), head + line * (height + gap)))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Renders sections as one HTML page that needs no other file and no network; all text is escaped.

    Args:
        title: Title of the page.
        sections: Sections of the page, in order.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    return render(TEMPLATE, title=title, sections=sections)


def render(template: str, **values: object) -> str:
    """Renders a template of jinja2 for a page; the values are escaped.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingDependencyError("report pages need jinja2: pip install 'ssl-pretext[benchmarks]'") from error
    page: Any = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return str(page.render(**values))


TEMPLATE = """\
{% macro show(rows) %}
<div class="scroll"><table>
<tr>{% for column in rows[0] %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6069; --line: #d9dde3; --paper: #fff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3a9b2; --line: #3a3f46; --paper: #16181b; --tint: #1f2226; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; white-space: pre-line; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--soft); }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .9rem; }
pre { overflow: auto; max-height: 24rem; padding: .8rem; background: var(--tint); border-radius: 4px;
  font-size: .82rem; }
@media (max-width: 44rem) {
  th, td { padding: .35rem .5rem; } td:first-child { white-space: normal; min-width: 7.5rem; }
  figure img { max-width: none; width: 35rem; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.heading }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.table %}
{{ show(section.table) }}
{% endif %}
{% for title, rows in section.folded.items() %}
<details><summary>{{ title }}</summary>
{{ show(rows) }}
</details>
{% endfor %}
{% for figure in section.figures %}
<figure><div class="scroll"><img src="{{ figure.source }}" alt="{{ figure.caption }}"></div>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{{ section.html | safe }}
{% if section.code %}
<pre>{{ section.code }}</pre>
{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
