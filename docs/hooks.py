"""Fills the contributors' map from the code itself: the layers that a test holds, and the first line of each module."""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ssl_pretext"
MARK = "<!-- the layers of the code -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return markdown.replace(MARK, module_map(layers())) if MARK in markdown else markdown


def layers() -> tuple[list[str], ...]:
    """The layers of `ssl_pretext` from the top down, as tests/test_structure.py holds them."""
    for node in ast.parse((ROOT / "tests/test_structure.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return ast.literal_eval(node.value)
    raise LookupError("tests/test_structure.py has no LAYERS")


def module_map(layers: tuple[list[str], ...]) -> str:
    """A picture of the layers, each box leading to its part; then every part with its files."""
    boxes = ("".join(f'<a href="#{part}">{part}</a>' for part in layer) for layer in layers)
    picture = "\n".join(f'<div class="layer">{row}</div>' for row in boxes)
    parts = "\n\n".join(described(part) for layer in layers for part in layer)
    return f'<div class="layers">\n{picture}\n</div>\n\n{parts}'


def described(part: str) -> str:
    """A part under its heading: what it is for, and what each of its files is for."""
    folder = PACKAGE / part
    if not folder.is_dir():
        return f"### `{part}.py` {{ #{part} }}\n\n{first_line(PACKAGE / f'{part}.py')}"
    rows = [f"| `{file.name}` | {first_line(file)} |" for file in sorted(folder.glob("[!_]*.py"))]
    table = "\n".join(["| file | what it is for |", "|---|---|", *rows])
    return f"### `{part}/` {{ #{part} }}\n\n{first_line(folder / '__init__.py')}\n\n{table}"


def first_line(file: Path) -> str:
    """What a module says of itself, fit for the cell of a table."""
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    if not said:
        raise LookupError(f"{file} does not say in its first line what it is for")
    return said.splitlines()[0].replace("|", "\\|")
