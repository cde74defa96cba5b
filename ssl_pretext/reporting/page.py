"""Markdown tables, image grids, and self-contained HTML pages that combine them with plots."""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_pretext.errors import ArgumentError, MissingDependencyError
from ssl_pretext.reporting.drawings import Drawing
from ssl_pretext.reporting.template import TEMPLATE
from ssl_pretext.system.notebook import data_uri

__all__ = [
    "Figure",
    "Gallery",
    "Section",
    "Tile",
    "Verdict",
    "html_page",
    "image_grid",
    "image_to_png",
    "markdown_table",
    "render",
]

TONES = {"Yes": "good", "No": "bad"}  # of answers, by class of the style sheet; all others are neutral


@dataclass(frozen=True)
class Figure:
    """A PNG image with its caption, which is also its alternative text."""

    png: bytes
    caption: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return data_uri(self.png)


@dataclass(frozen=True)
class Tile:
    """A small image of a gallery.

    Attributes:
        png: The image as a PNG.
        text: Text below it, such as its class.
        right: Whether it is marked as right or wrong; None marks it as neither.
    """

    png: bytes
    text: str
    right: bool | None = None

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return data_uri(self.png)

    @property
    def tone(self) -> str:
        """The class of the mark."""
        return "" if self.right is None else "good" if self.right else "bad"


@dataclass(frozen=True)
class Gallery:
    """Small images in rows, which fit on the screen of a phone.

    Attributes:
        tiles: The images, row by row.
        columns: Number of images per row, from 2 to 6.
        caption: Text below the gallery.
    """

    tiles: Sequence[Tile]
    columns: int
    caption: str


@dataclass(frozen=True)
class Verdict:
    """The card at the top of a page: a question and its answer, at first sight.

    Attributes:
        question: The question.
        answer: `"Yes"`, `"No"`, or a neutral answer such as `"Not shown"`.
        sentences: What the answer is based on: compared with what, by how much, with which labels.
        drawing: A picture of the evidence.
    """

    question: str
    answer: str
    sentences: Sequence[str] = ()
    drawing: Drawing | None = None

    @property
    def tone(self) -> str:
        """The class of the answer."""
        return TONES.get(self.answer, "open")


@dataclass(frozen=True)
class Section:
    """A part of a report page.

    Attributes:
        heading: Heading of the section.
        paragraphs: Texts, of which each line becomes a paragraph, and lines that begin with a dash become a list.
        table: Rows of a table, by column; the keys of the first row are the headings.
        figures: Images with captions.
        code: Text that is shown unchanged in a monospaced font.
        folded: Further tables by title, which are shown when their title is clicked.
        drawings: Drawings with captions.
        galleries: Small images in rows.
        html: Markup that is inserted as it is; all text in it must have been escaped.
        collapsed: Whether the section itself is shown only when its heading is clicked.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Mapping[str, object]] = ()
    figures: Sequence[Figure] = ()
    code: str = ""
    folded: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    drawings: Sequence[Drawing] = ()
    galleries: Sequence[Gallery] = ()
    html: str = ""
    collapsed: bool = False

    @property
    def blocks(self) -> list[tuple[str, Any]]:
        """The paragraphs as `("text", line)` and `("list", items)`."""
        found: list[tuple[str, Any]] = []
        for text in self.paragraphs:
            for listed, lines in itertools.groupby(text.splitlines(), key=lambda line: line.startswith("- ")):
                shown = [line for line in lines if line.strip()]
                found += [("list", [line[2:] for line in shown])] if listed else [("text", line) for line in shown]
        return found


def markdown_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Formats rows as a Markdown table.

    Args:
        rows: Values by column. A missing value becomes an empty cell, and line breaks in a value become spaces.
        columns: Keys of the columns to show, which are also the headings; by default those of the first row.

    Examples:
        >>> print(markdown_table([{"name": "pixels", "accuracy": 17.9}]))
        | name | accuracy |
        |---|---|
        | pixels | 17.9 |
    """
    columns = list(rows[0]) if columns is None else columns
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


def image_to_png(image: Tensor) -> bytes:
    """Returns an image `(C, H, W)` as a PNG for the eye.

    Photos `(3, H, W)`, of type `uint8` or with values in `[0, 1]`, and single channels in this range are shown as they
    are. Other images are shown by their first channels, each stretched from its 2nd to its 98th percentile; missing
    values are black.

    Args:
        image: The image.

    Examples:
        >>> import torch
        >>> image_to_png(torch.rand(3, 8, 8))[1:4]
        b'PNG'
    """
    from PIL import Image

    pixels = image.detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    known = pixels[pixels.isfinite()]
    if known.numel() and (len(image) > 3 or known.min() < 0 or known.max() > 1):
        low, high = (
            torch.stack([channel.nanquantile(share) for channel in pixels])[:, None, None] for share in (0.02, 0.98)
        )
        pixels = (pixels - low) / (high - low).clamp(min=1e-12)
    buffer = io.BytesIO()
    values = (pixels.nan_to_num(0).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def html_page(title: str, sections: Sequence[Section], *, verdict: Verdict | None = None, lead: str = "") -> str:
    """Renders sections as one HTML page that needs no other file and no network; all text is escaped.

    Args:
        title: Title of the page.
        sections: Sections of the page, in order.
        verdict: The answer that the page gives, on a card above the sections.
        lead: One line below the title, such as what was trained on what.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    return render(TEMPLATE, title=title, sections=sections, verdict=verdict, lead=lead)


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
