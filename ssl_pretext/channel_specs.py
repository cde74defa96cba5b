"""The text form of selected channels, such as `lab:ab` or `sentinel2:B02,B03`: splitting, joining and quoting."""

import re
from collections.abc import Sequence

__all__ = ["join_spec", "split_names", "split_spec"]

_SPECIAL = re.compile(r'[:,"]|^\s|\s$')


def split_spec(text: str) -> tuple[str, str | None]:
    """Splits the name of a space from the names of its channels, which are None if there is no colon.

    Examples:
        >>> split_spec("lab:ab"), split_spec("rgb"), split_spec('"a:b":x')
        (('lab', 'ab'), ('rgb', None), ('a:b', 'x'))
    """
    space, *names = _split(text, ":")
    return _unquoted(space), ":".join(names) if names else None


def split_names(text: str, known: Sequence[str], *, short: bool) -> tuple[str, ...]:
    """Splits the names of channels at commas or plus signs outside of quotation marks.

    A plus sign can also be part of a name, such as `CD4+`: it separates only what is not itself a name. Names are not
    checked; the caller refuses those that are unknown.

    Args:
        text: Names of channels.
        known: Names of all channels of the space.
        short: Whether names may follow each other without a separator, as in `ab` or `CbCr`.

    Examples:
        >>> split_names('CD4+, "Band 4, red"', ["CD4+", "Band 4, red"], short=False)
        ('CD4+', 'Band 4, red')
        >>> split_names("B02+B03", ["B02", "B03"], short=False)
        ('B02', 'B03')
        >>> split_names("ab", ["L", "a", "b"], short=True)
        ('a', 'b')
    """
    found: list[str] = []
    for item in [text] if text in known else _split(text, ","):
        whole = _unquoted(item)
        if whole in known or item.strip().startswith('"'):
            found.append(whole)
        elif "+" in item:
            found += map(_unquoted, _split(item, "+"))
        else:
            found += _split_short(whole, known) if short else [whole]
    return tuple(found)


def join_spec(space: str, names: Sequence[str], *, short: bool) -> str:
    """Joins the name of a space and those of channels; the inverse of `split_spec` and `split_names`.

    Names that contain a comma, a colon or a quotation mark are quoted as in CSV files.

    Examples:
        >>> join_spec("lab", "ab", short=True), join_spec("chips", ["B02", "near: infrared"], short=False)
        ('lab:ab', 'chips:B02,"near: infrared"')
    """
    return f"{quoted(space)}:{('' if short else ',').join(map(quoted, names))}"


def quoted(name: str) -> str:
    """Returns a name in quotation marks if it would otherwise be read differently."""
    return '"{}"'.format(name.replace('"', '""')) if _SPECIAL.search(name) else name


def _split(text: str, mark: str) -> list[str]:
    """Splits text at a mark outside of quotation marks; in linear time, because the text may be from elsewhere."""
    parts = [""]
    for number, piece in enumerate(text.split('"')):
        parts[-1] += '"' if number else ""
        first, *others = [piece] if number % 2 else piece.split(mark)  # every second piece is inside of a pair
        parts[-1] += first
        parts += others
    return parts


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _split_short(text: str, known: Sequence[str]) -> list[str]:
    """Splits names that follow each other; what is no name is returned letter by letter, for the error message."""
    found = re.findall("|".join(map(re.escape, known)), text)
    return found if "".join(found) == text else list(text)
