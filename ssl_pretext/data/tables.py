"""Labels, groups and splits of images from a table, whose rows are found among the images of a folder."""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl_pretext.data.columns import Column, read_columns
from ssl_pretext.data.integers import MISSING
from ssl_pretext.data.listing import Listing, why_not_read
from ssl_pretext.data.splits import Role, split_role
from ssl_pretext.errors import ArgumentError, DataError
from ssl_pretext.registry import did_you_mean, joined

__all__ = ["TARGETS", "Annotations", "Table", "read_table"]

TARGETS = ("class", "labels", "numbers")
COLUMNS = ("file", "label", "split", "group")
SEPARATORS = re.compile(r"[|;]")  # between the names of labels
WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
EXAMPLES = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """What a table says of images.

    Attributes:
        labels: Class of each image, an index into `classes`, or `MISSING`.
        classes: Names of the classes.
        targets: Labels or numbers by name, `(N,)` each; None if there are only classes.
        groups: Group of each image, if the table has a column for it.
        splits: What each image is for, if the table has a column for it.
    """

    labels: list[int]
    classes: list[str]
    targets: dict[str, npt.NDArray[np.float64]] | None = None
    groups: list[str] | None = None
    splits: list[Role] | None = None

    def subset(self, positions: Sequence[int]) -> "Annotations":
        """Returns what the table says of some of the images."""
        return replace(
            self,
            labels=[self.labels[i] for i in positions],
            targets=self.targets and {name: column[positions] for name, column in self.targets.items()},
            groups=self.groups and [self.groups[i] for i in positions],
            splits=self.splits and [self.splits[i] for i in positions],
        )


class Row(NamedTuple):
    """A row of a table: the cells of the label columns, of the split and of the group."""

    label: tuple[str | None, ...]
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Table:
    """A table of images with the columns that are used.

    Attributes:
        name: Name of the table in messages.
        target: What the labels are, one of `TARGETS`.
        columns: Names of the columns: those of the labels as a tuple, others as a tuple of one or none.
        files: The file of each row.
        rows: The other cells of each row.
    """

    name: str
    target: str
    columns: Mapping[str, tuple[str, ...]]
    files: Sequence[str]
    rows: Sequence[Row]

    def find(self, listing: Listing) -> tuple[list[int], Annotations]:
        """Finds the images that the table names, and returns their positions in a listing and what it says of them.

        Raises:
            DataError: The table names files that the listing does not have, names an image twice with different cells,
                or has a cell that does not fit.
        """
        rows = self.rows_of(listing)
        log.info("%s names %d of the %d images in %s", self.name, len(rows), len(listing.names), listing.folder)
        chosen = sorted(rows)
        return chosen, self._annotations([rows[i] for i in chosen], [listing.names[i] for i in chosen])

    def rows_of(self, listing: Listing) -> dict[int, Row]:
        """Finds the images that the table names, and returns their rows by their positions in a listing.

        Raises:
            DataError: The table names files that the listing does not have, or an image twice with different cells.
        """
        rows: dict[int, Row] = {}
        for position, file, row in zip(self._positions(listing), self.files, self.rows, strict=True):
            if (first := rows.setdefault(position, row)) != row:
                what = next(name for name, a, b in zip(Row._fields, first, row, strict=True) if a != b)
                titles = joined(self.columns[what])
                raise DataError(
                    f"{self.name} names {file} twice, with different values of {titles}; keep one of the rows"
                )
        return rows

    def _positions(self, listing: Listing) -> list[int]:
        """The position in a listing of the file of each row."""
        # A table may have absolute paths, and the folder may be given as a relative one or as a link.
        folders = (listing.folder, listing.folder.absolute(), listing.folder.resolve())
        roots = [f"{folder.as_posix().rstrip('/')}/" for folder in folders]
        # In each mapping the positions of images by a way to name them; the first way that leads to an image counts.
        ways: list[dict[str, set[int]]] = [{}, {}, {}, {}]
        for position, (name, source) in enumerate(zip(listing.names, listing.sources, strict=True)):
            paths = {name, *(file.relative_to(listing.folder).as_posix() for file in source.files)}
            for path in map(PurePosixPath, paths):
                stem = path.with_suffix("") if path.suffix and path.name != path.suffix else path
                for way, key in zip(ways, (str(path), str(stem), path.name, stem.name), strict=True):
                    way.setdefault(key, set()).add(position)
        found: list[int] = []
        lost: dict[str, None] = {}
        for file in self.files:
            key = file.replace("\\", "/")
            key = key.removeprefix(next(filter(key.startswith, roots), "./"))
            positions = next((way[key] for way in ways if key in way), set())
            if len(positions) > 1:
                names = joined([listing.names[i] for i in sorted(positions)[:EXAMPLES]])
                raise DataError(
                    f"{self.name} names {file}, which may be {names}; write the path relative to {listing.folder}"
                )
            if not positions:
                lost[file] = None
            found.extend(positions)
        if lost:
            few = joined([*lost][:EXAMPLES])
            skipped = {item["name"]: item["reason"] for item in listing.skipped}
            reason = next((why for file in lost if (why := skipped.get(file) or why_not_read(file))), None)
            raise DataError(
                f"{self.name} names {len(lost)} file{'s' * (len(lost) > 1)} that {listing.folder} does not have as "
                f"images, such as {few}{f' ({reason})' if reason else ''}; its images are named like {listing.names[0]}"
            )
        return found

    def _annotations(self, rows: Sequence[Row], names: Sequence[str]) -> Annotations:
        groups = splits = None
        if self.columns["group"]:
            groups = [row.group or "" for row in rows]
            if missing := [name for name, group in zip(names, groups, strict=True) if not group]:
                raise DataError(
                    f"the column {self.columns['group'][0]} of {self.name} has no group for {len(missing)} of "
                    f"{len(rows)} images, such as {missing[0]}; give each image a group, its own if it stands alone"
                )
        if self.columns["split"]:
            splits = [self._role(row.split, name) for row, name in zip(rows, names, strict=True)]
        cells = [[row.label[i] for row in rows] for i in range(len(self.columns["label"]))]
        if not any(cell for column in cells for cell in column):
            raise DataError(f"the column {joined(self.columns['label'])} of {self.name} is empty for all images")
        if unknown := sum(all(column[i] is None for column in cells) for i in range(len(rows))):
            log.info("%d of the %d images that %s names have no label", unknown, len(rows), self.name)
        if self.target == "class":
            given = self._class_names(cells[0])
            classes = _order({name for name in given if name is not None})
            places = {name: place for place, name in enumerate(classes)}
            labels = [MISSING if name is None else places[name] for name in given]
            return Annotations(labels, classes, None, groups, splits)
        targets = (
            self._several(cells[0]) if self.target == "labels" and len(cells) == 1 else self._numbers(cells, names)
        )
        return Annotations([0] * len(rows), ["unlabeled"], targets, groups, splits)

    def _class_names(self, cells: Column) -> Column:
        """The classes of a column; whole numbers lose their point, with which pandas writes columns that have gaps."""
        known = {cell for cell in cells if cell is not None}
        if all(map(WHOLE.fullmatch, known)):
            return [cell and cell.partition(".")[0] for cell in cells]
        numbers = {cell: _number(cell) for cell in sorted(known)}
        named: dict[float, str] = {}
        for cell, number in numbers.items() if all(map(math.isfinite, numbers.values())) else ():
            if named.setdefault(number, cell) != cell:
                raise DataError(
                    f"the column {self.columns['label'][0]} of {self.name} has the classes {named[number]} and {cell}, "
                    "which are the same number; write each class in one way, or set target to numbers"
                )
        return cells

    def _role(self, value: str | None, name: str) -> Role:
        role = None if value is None else split_role(value)
        if role is None:
            raise DataError(
                f"the column {self.columns['split'][0]} of {self.name} must be train, val or test for each image, got "
                f"{value or 'nothing'} for {name}"
            )
        return role

    def _several(self, cells: Column) -> dict[str, npt.NDArray[np.float64]]:
        """The labels of a column with the names of those that apply; an empty cell is unknown."""
        given = [cell and {name for part in SEPARATORS.split(cell) if (name := part.strip())} for cell in cells]
        names = sorted({name for found in given if found for name in found})
        return {name: np.array([math.nan if not found else name in found for found in given], float) for name in names}

    def _numbers(self, cells: Sequence[Column], names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        what = "0 or 1, since several columns are labels" if self.target == "labels" else "a finite number"
        targets = {}
        for title, column in zip(self.columns["label"], cells, strict=True):
            numbers = [math.nan if cell is None else _number(cell) for cell in column]
            for cell, number, name in zip(column, numbers, names, strict=True):
                fits = number in (0, 1) if self.target == "labels" else math.isfinite(number)
                if not fits and not math.isnan(number):
                    raise DataError(f"the column {title} of {self.name} must be {what}, got {cell!r} for {name}")
            targets[title] = np.array(numbers, float)
        return targets


def read_table(table: Any, columns: Mapping[str, str | Sequence[str]] | None, target: str) -> Table:
    """Reads the columns of a table that say something of images.

    Args:
        table: Path of a CSV or Parquet file; a DataFrame or another mapping from names of columns to values.
        columns: Names of the columns, by `"file"`, `"label"`, `"split"` and `"group"`; by default the columns with
            these names, of which `split` and `group` may be missing, and `labels` in place of `label`.
        target: What the labels are, one of `TARGETS`.

    Raises:
        ArgumentError: A column or the target is unknown.
        DataError: The file is not a table.
        MissingDependencyError: The package for Parquet files is missing.
        MissingFileError: The file does not exist.
    """
    if target not in TARGETS:
        raise ArgumentError(f"target of a table must be {joined(TARGETS, 'or')}, got {target!r}")
    name, cells = read_columns(table)
    chosen = {what: _choose(what, dict(columns or {}), [*cells], name) for what in COLUMNS}
    if wrong := (columns or {}).keys() - {*COLUMNS}:
        raise ArgumentError(
            f"columns must name {joined(COLUMNS, 'or')}, got {min(wrong)!r}.{did_you_mean(min(wrong), COLUMNS)}"
        )
    if target == "class" and chosen["label"] == ("labels",) and "label" not in (columns or {}):
        raise ArgumentError(
            f"{name} has the column labels, which is for several labels per image; set target to labels, or, if it "
            "has one class per image, name it: {_option('label=labels')}"
        )
    if target == "class" and len(chosen["label"]) > 1:
        raise ArgumentError(
            f"one column has the class, but columns names {joined(chosen['label'])}; set target to labels or numbers"
        )
    (file,) = chosen["file"]
    if None in cells[file]:
        raise DataError(f"the column {file} of {name} has no file in row {cells[file].index(None) + 1}")
    count = len(cells[file])
    if not count:
        raise DataError(f"{name} has no rows")
    split, group = (cells[chosen[what][0]] if chosen[what] else [None] * count for what in ("split", "group"))
    labels = zip(*(cells[title] for title in chosen["label"]), strict=True)
    return Table(name, target, chosen, [cell or "" for cell in cells[file]], [*map(Row, labels, split, group)])


def _choose(what: str, columns: Mapping[str, str | Sequence[str]], known: Sequence[str], name: str) -> tuple[str, ...]:
    """The names of the columns for a purpose; none if the table has none and needs none."""
    if what not in columns:
        if what in known:
            return (what,)
        if what == "label" and "labels" in known:
            return ("labels",)
        if what in ("split", "group"):
            return ()
    given = columns.get(what, what)
    titles = (given,) if isinstance(given, str) else tuple(given)
    if what != "label" and len(titles) != 1:
        raise ArgumentError(f"columns must name one column for the {what}, got {list(titles)}")
    for title in titles:
        if title not in known:
            hint = did_you_mean(title, known)
            advice = "" if what in columns else f"; name the one for the {what}: {_option(f'{what}=NAME')}"
            raise ArgumentError(f"{name} has no column {title!r}.{hint} It has the columns {joined(known)}{advice}")
    if not titles:
        raise ArgumentError("columns must name at least one column for the label, got none")
    return titles


def _option(text: str) -> str:
    """How a column is named in Python and on the command line."""
    what, _, title = text.partition("=")
    return f"columns={{'{what}': '{title}'}}, or --columns {text} on the command line"


def _number(text: str) -> float:
    """The number in a cell; infinite if it is none."""
    try:
        return float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        return math.inf


def _order(names: Iterable[str]) -> list[str]:
    """Sorts the names of classes; numbers by value, if all are whole numbers."""
    names = [*names]
    numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)
