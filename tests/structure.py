"""The import graph of packages, read from their source: which file imports which, whatever way it is written.

Names that are taken from a package are followed to the file that defines them; imports inside of functions and of
`TYPE_CHECKING` blocks count like all others.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import networkx

Sources = Mapping[str, str]  # source text by dotted module name; a package is its `__init__`
Graph = dict[str, set[str]]


def read_sources(package: Path) -> dict[str, str]:
    """The modules of a package; where a package's names are listed in a stub, the stub is read too."""
    found: dict[str, str] = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        stub = path.with_suffix(".pyi")
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text() + (f"\n{stub.read_text()}" if stub.exists() else "")
    return found


def graph_of(sources: Sources) -> Graph:
    """The modules that each module imports."""
    return {name: imported(name, sources) - {name} for name in sources}


def imported(module: str, sources: Sources) -> set[str]:
    """The modules that one module imports: packages that it names, and the files that define what it takes of them."""
    found: set[str] = set()
    for node in _imports(sources[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= {name for name in [_longest(alias.name, sources)] if name}
        else:
            origin = _origin(node, module, sources)
            if origin in sources:
                found.add(origin)
                for alias in node.names:
                    found |= _defining(origin, alias.name, sources, frozenset())
    return found


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other."""
    groups = networkx.strongly_connected_components(networkx.DiGraph(graph))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def reachable(graph: Graph, starts: Iterable[str]) -> set[str]:
    """All modules that some modules import, directly or by way of others."""
    whole = networkx.DiGraph(graph)
    return {found for start in starts for found in networkx.descendants(whole, start)}


@lru_cache(None)  # a package is looked up again for each name that is taken from it
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


@lru_cache(None)
def _imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(_parsed(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def _longest(name: str, sources: Sources) -> str | None:
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name or None


def _origin(node: ast.ImportFrom, module: str, sources: Sources) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(other.startswith(f"{module}.") for other in sources)
    base = module.split(".")
    base = base[: len(base) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _defining(package: str, name: str, sources: Sources, seen: frozenset[tuple[str, str]]) -> set[str]:
    """The modules that a name of a package stands for: a submodule, or those that the package takes it from."""
    if f"{package}.{name}" in sources:
        return {f"{package}.{name}"}
    if (package, name) in seen:
        return set()
    found: set[str] = set()
    for node in _parsed(sources[package]).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = _origin(node, package, sources)
                    if origin in sources:
                        found |= {origin} | _defining(origin, alias.name, sources, seen | {(package, name)})
    return found
