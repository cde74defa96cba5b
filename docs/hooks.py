"""Fills the contributors' map from the code: the layers that a test checks, and what each module is for."""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ssl_pretext"
STRUCTURE = ROOT / "tests/test_structure.py"
PLACEHOLDER = "<!-- the layers of the code -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the placeholder in a page; MkDocs calls this with the text of each page."""
    if PLACEHOLDER not in markdown:
        return markdown
    return markdown.replace(PLACEHOLDER, module_map(constant("LAYERS"), constant("TESTED_BY")))


def constant(name: str) -> Any:
    """The value of a constant in tests/test_structure.py, which is parsed and not imported."""
    for node in ast.parse(STRUCTURE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"{STRUCTURE} has no {name}")


def module_map(layers: tuple[list[str], ...], tests: dict[str, str]) -> str:
    """A picture of the layers, in which each box links to its part, followed by a description of every part."""
    boxes = ("".join(f'<a href="#{part}">{part}</a>' for part in layer) for layer in layers)
    picture = "\n".join(f'<div class="layer">{row}</div>' for row in boxes)
    parts = "\n\n".join(description(part, tests) for layer in layers for part in layer)
    return f'<div class="layers">\n{picture}\n</div>\n\n{parts}'


def description(part: str, tests: dict[str, str]) -> str:
    """A part under its own heading: what it is for, and a table of its files."""
    folder = PACKAGE / part
    if not folder.is_dir():
        test = tested_by(f"ssl_pretext.{part}", tests)
        tested = f"\n\nTested by {test}." if test else ""
        return f"### `{part}.py` {{ #{part} }}\n\n{first_line(PACKAGE / f'{part}.py')}{tested}"
    files = [(file, file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("[!_]*.py"))]
    rows = [
        f"| `{name}.py` | {first_line(file)} | {tested_by('.'.join(['ssl_pretext', part, *name.parts]), tests)} |"
        for file, name in files
    ]
    table = "\n".join(["| file | what it is for | tested by |", "|---|---|---|", *rows])
    return f"### `{part}/` {{ #{part} }}\n\n{first_line(folder / '__init__.py')}\n\n{table}"


def first_line(file: Path) -> str:
    """The first line of a module's docstring, escaped for the cell of a table."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    if not docstring:
        raise LookupError(f"{file} has no docstring that says what the module is for")
    return docstring.splitlines()[0].replace("|", "\\|")


def tested_by(module: str, tests: dict[str, str]) -> str:
    """The test file of a module as Markdown: the one named for it, or that of the same stem; empty if there is none."""
    file = tests.get(module, f"test_{module.rpartition('.')[2]}.py")
    return f"`{file}`" if (ROOT / "tests" / file).is_file() else ""
