"""The columns of a table as text: of a CSV or Parquet file, a DataFrame, or a mapping of columns."""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_pretext.errors import ArgumentError, DataError, MissingDependencyError, MissingFileError
from ssl_pretext.registry import duplicates, joined

__all__ = ["Column", "read_columns"]

DELIMITERS = ",;\t"

Column = list[str | None]  # the text of each cell; None where it is empty


def read_columns(table: Any) -> tuple[str, dict[str, Column]]:
    """Reads all columns of a table; returns its name for messages, and the columns by their names.

    Args:
        table: Path of a CSV or Parquet file; a DataFrame or another mapping from names of columns to values.

    Raises:
        ArgumentError: The table has another form, or its columns have different lengths.
        DataError: The file is damaged, or has rows of another length than its first line.
        MissingDependencyError: The package for Parquet files is missing.
        MissingFileError: The file does not exist.

    Examples:
        >>> read_columns({"file": ["a", "b"], "label": [1.0, float("nan")]})
        ('the table', {'file': ['a', 'b'], 'label': ['1', None]})
    """
    if not isinstance(table, str | Path):
        return "the table", _as_cells(table)
    path = Path(table)
    readers: dict[str, Callable[[Path], dict[str, Column]]] = {
        **dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv),
        **dict.fromkeys((".parquet", ".pq"), _read_parquet),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ArgumentError(f"a table must be a file named {joined([*readers], 'or')}, or a DataFrame, got {path}")
    if not path.is_file():
        raise MissingFileError(f"there is no table {path}; check the path")
    return path.name, readers[suffix](path)


def _read_csv(path: Path) -> dict[str, Column]:
    """Reads a CSV file whose columns are separated by a comma, a semicolon or a tab, by its first line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(DELIMITERS, key=first.count), strict=True)
            header = [title.strip() for title in next(lines, [])]
            if not header:
                raise DataError(f"{path} is empty; its first line must name the columns, such as file,label")
            if twice := duplicates(header):
                raise DataError(f"{path} has two columns {twice[0]!r}; rename one of them")
            rows = []
            for row in filter(None, lines):
                if len(row) != len(header):
                    raise DataError(
                        f"line {lines.line_num} of {path} has {len(row)} values for {len(header)} columns; put text "
                        "that contains the separator in double quotes"
                    )
                rows.append(row)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"line {lines.line_num} of {path} is not CSV: {error}") from error
    return {title: [_text(row[i]) for row in rows] for i, title in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, Column]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs pyarrow: pip install 'ssl-pretext[tables]'") from error
    try:
        return _as_cells(parquet.read_table(path).to_pydict())
    except ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error


def _as_cells(table: Any) -> dict[str, Column]:
    """The columns of a mapping or DataFrame as text."""
    if not isinstance(table, Mapping) and not hasattr(table, "columns"):  # a DataFrame has columns
        raise ArgumentError(
            f"a table must be the path of a CSV or Parquet file, a DataFrame or a mapping of columns, got "
            f"{type(table).__name__}"
        )
    columns = {str(name): [_text(value) for value in table[name]] for name in table}
    if len({*map(len, columns.values())}) > 1:
        lengths = {name: len(column) for name, column in columns.items()}
        raise ArgumentError(f"all columns of a table must have one value per image; got the lengths {lengths}")
    return columns


def _text(value: Any) -> str | None:
    """The text of a cell; None if it is empty, or missing as in NumPy and pandas. Whole numbers have no point."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    text = "" if value is None else str(value).strip()
    return None if text in ("", "<NA>", "NaT") else text
