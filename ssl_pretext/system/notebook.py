"""HTML for notebooks: small tables and pictures, whose text is escaped; pictures inside of a page."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["data_uri", "html_paragraphs", "html_picture", "html_table"]


def html_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns rows as a table; the keys of the first row are the headings.

    Examples:
        >>> html_table([{"name": "<b>", "images": 3}])
        '<table><tr><th>name</th><th>images</th></tr><tr><td>&lt;b&gt;</td><td>3</td></tr></table>'
    """
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    body = ("".join(f"<td>{escape(str(value))}</td>" for value in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{cells}</tr>' for cells in body)}</table>"


def html_paragraphs(sentences: Sequence[str]) -> str:
    """Returns sentences as paragraphs."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def data_uri(picture: bytes, kind: str = "png") -> str:
    """Returns a picture as an address that contains it, for a page that needs no other file.

    Args:
        picture: The content of the file.
        kind: Its format, `"png"` or `"jpeg"`.
    """
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def html_picture(png: bytes, text: str) -> str:
    """Returns a PNG file as a picture inside of the page, with a text for those who do not see it."""
    return f'<img src="{data_uri(png)}" alt="{escape(text)}" title="{escape(text)}">'
