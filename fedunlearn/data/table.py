"""A csv file as named columns of text."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedunlearn.errors import ScenarioError
from fedunlearn.names import as_decimal, nearest

NAMED_IN_ERRORS = 20
# What pandas calls a column without a name when it reads a file and writes it again.
PANDAS_INDEX = re.compile(r"Unnamed: [0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Attributes:
        columns: The cells of each column, from the first row to the last; a missing one is empty.
        length: Number of rows.
        lines: Line of the file in which each row ends; None for rows that are not of a text file.
    """

    columns: Mapping[str, Sequence[str]]
    length: int
    lines: Sequence[int] | None = None

    def column(self, name: str, key: str) -> Sequence[str]:
        """Return the cells of a column.

        Args:
            name: Name of the column.
            key: The scenario's key that names it, for the error.

        Returns:
            One cell a row.

        Raises:
            ScenarioError: There is no such column.
        """
        if name in self.columns:
            return self.columns[name]
        raise ScenarioError(
            f"data.{key}: no column {name!r}{nearest(name, self.columns)}; columns are "
            + listed(list(self.columns))
        )

    def place(self, row: int) -> str:
        """Return where a row is, for a message."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def with_missing(self, missing: Collection[str]) -> Table:
        """Return the table with empty cells in the place of those that hold one of some texts."""
        columns = {
            name: tuple("" if cell in missing else cell for cell in cells)
            for name, cells in self.columns.items()
        }
        return replace(self, columns=columns)


def read_table(path: Path) -> Table:
    """Read a csv with commas, in UTF-8, whose first line names the columns.

    Args:
        path: A ``.csv`` or ``.csv.gz``.

    Returns:
        Its cells, without the blanks around them.

    Raises:
        ScenarioError: The file is not a table of this form.
    """
    rows = _rows(_read(path), path)
    if not rows:
        raise ScenarioError(f"data.path: {path} is empty; its first line must name the columns")
    names = [name.strip() for name in rows[0][1]]
    _require_header(names, path)
    body = rows[1:]
    for line, row in body:
        if len(row) != len(names):
            raise ScenarioError(
                f"data.path: {path}, line {line} has {len(row)} cells but line 1 names "
                f"{len(names)} columns; give every row one cell a column"
            )
    if not body:
        raise ScenarioError(f"data.path: {path} has no rows; give it rows below the first line")
    cells = zip(*([cell.strip() for cell in row] for _, row in body), strict=True)
    lines = tuple(line for line, _ in body)
    return Table(dict(zip(names, cells, strict=True)), len(body), lines)


def listed(names: Sequence[str]) -> str:
    """Return names of columns for an error, the first ones if they are many."""
    more = ["..."] if len(names) > NAMED_IN_ERRORS else []
    return ", ".join([*(repr(name) for name in names[:NAMED_IN_ERRORS]), *more])


def _read(path: Path) -> str:
    if not path.name.lower().endswith((".csv", ".csv.gz")):
        raise ScenarioError(f"data.path: {path} is not a csv; give a .csv or .csv.gz")
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ScenarioError(
            f"data.path: {path} cannot be unpacked; give a whole gzip file, or a plain .csv"
        ) from None
    except OSError as error:
        raise ScenarioError(
            f"data.path: {path} cannot be read: {error.strerror}; give a .csv or .csv.gz"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ScenarioError(
            f"data.path: {path} is not a csv in UTF-8; save it as one with commas"
        ) from None


def _rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with the number of its last line."""
    if "\0" in text:  # the csv module reads on, into nonsense
        raise ScenarioError(f"data.path: {path} is not a csv; it holds null characters")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    longest = csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # of the whole process
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error:  # its own message may quote a cell
        raise ScenarioError(
            f"data.path: {path}, line {reader.line_num} is not csv; close its quotes, and "
            "separate cells by commas"
        ) from None
    finally:
        csv.field_size_limit(longest)


def _require_header(names: Sequence[str], path: Path) -> None:
    """Check the first line, without repeating it: it may be data."""
    if not names[0] or any(PANDAS_INDEX.fullmatch(name) for name in names):
        raise ScenarioError(
            f"data.path: {path}, line 1 has a column without a name, as pandas writes its "
            "index; save the file with index=False, or name that column"
        )
    if any(not name or as_decimal(name) is not None for name in names):
        raise ScenarioError(
            f"data.path: {path}, line 1 must name the columns; a name is empty or a number"
        )
    if len(set(names)) < len(names):
        raise ScenarioError(f"data.path: {path}, line 1 names a column twice; rename one")
    if len(names) == 1:
        raise ScenarioError(
            f"data.path: {path}, line 1 names one column only; separate columns by commas"
        )
