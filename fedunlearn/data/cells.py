"""What the cells of a column are: numbers, words, or numbers with an odd text among them.

A number is a plain ASCII decimal. One odd cell must not turn a column of numbers into a column of
words, so such a column is refused, with the odd text and its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.table import Table
from fedunlearn.errors import ScenarioError
from fedunlearn.names import DECIMAL, quoted

# What programs write where a value is missing: pandas' list, and what else is common.
MISSING_MARKERS = frozenset(
    {
        *("#n/a", "#n/a n/a", "#na", "#null!", "#value!", "<na>", "n/a", "n.a.", "na", "nil"),
        *("-1.#ind", "-1.#qnan", "1.#ind", "1.#qnan", "-nan", "+nan", "nan", "nat", "none", "null"),
        *("?", "??", "???", "-", "--", "---", ".", "..", "...", "*", "\\n", "missing", "(null)"),
    }
)
_MONEY, _SPACE = "[$\u20ac\u00a3\u00a5]", "[\\s\u00a0\u202f]"
_GROUPED = rf"\d{{1,3}}(?:[.,'\u2019\u066c]\d{{3}}|{_SPACE}\d{{3}})+(?:[.,\u066b]\d+)?"
# A number as people write it: with signs of money or percent, separators, digits of any script.
_WRITTEN = re.compile(
    rf"[(<>~\u2248]?=?{_SPACE}*{_MONEY}?{_SPACE}*[+\-\u2212]?{_SPACE}*{_MONEY}?{_SPACE}*"
    rf"(?:{_GROUPED}|\d+(?:[.,\u066b]\d*)?|[.,]\d+)(?:[eE][+\-]?\d+)?"
    rf"{_SPACE}*(?:[%\u2030]|{_MONEY})?\)?"
)


def as_number(text: str) -> float | None:
    """Return a finite number that is written as a plain ASCII decimal, or None."""
    if not DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def is_marker(text: str) -> bool:
    """Return whether a text is what programs write where a value is missing."""
    return text.lower() in MISSING_MARKERS


def is_written_number(text: str) -> bool:
    """Return whether a text is a number in a form that is not a plain ASCII decimal."""
    return as_number(text) is None and _WRITTEN.fullmatch(text) is not None


def numbers_in(
    table: Table, name: str, key: str, *, words: bool = False
) -> NDArray[np.float64] | None:
    """Return a column's numbers.

    Args:
        table: All rows.
        name: Name of the column.
        key: Key of the scenario, for error messages.
        words: Whether the user says that the column holds words.

    Returns:
        (n,), NaN where a cell is empty; None where the column holds words.

    Raises:
        ScenarioError: Most of the cells are numbers and some are not.
    """
    cells = table.columns[name]
    values = np.full(len(cells), np.nan)
    odd: list[int] = []
    plain = written = others = 0
    for row, cell in enumerate(cells):
        if not cell:
            continue
        number = as_number(cell)
        if number is not None:
            values[row] = number
            plain += 1
            continue
        odd.append(row)
        if is_written_number(cell):
            written += 1
        elif not is_marker(cell):
            others += 1
    if words:
        return None
    if not odd:
        return values
    if plain + written > others:
        _refuse(table, name, key, odd)
    return None


def require_no_marker(table: Table, name: str, key: str, *, words: bool = False) -> None:
    """Refuse a column of names in which something stands for a missing one.

    Args:
        table: All rows.
        name: Name of the column.
        key: Key of the scenario, for error messages.
        words: Whether the user says that all its texts are names.

    Raises:
        ScenarioError: A cell is empty, or holds what programs write for a missing value.
    """
    cells = table.columns[name]
    empty = next((row for row, cell in enumerate(cells) if not cell), None)
    if empty is not None:
        raise ScenarioError(
            f"data.{key}: column {name!r} has empty cells, the first in {table.place(empty)}; fill "
            "them in or drop their rows"
        )
    marker = next((row for row, cell in enumerate(cells) if is_marker(cell)), None)
    if marker is not None and not words:
        raise ScenarioError(
            f"data.{key}: column {name!r} holds {quoted(cells[marker])} in {table.place(marker)}"
            ", which usually means a missing value; fill it in or drop its row, or list the column "
            "in data.words where it is a name"
        )


def _refuse(table: Table, name: str, key: str, odd: Sequence[int]) -> None:
    cell, count = table.columns[name][odd[0]], len(odd)
    more = f" ({count} such cells)" if count > 1 else ""
    raise ScenarioError(
        f"data.{key}: column {name!r} holds numbers, but {quoted(cell)} in {table.place(odd[0])}"
        f"{more}; write a plain decimal, or list the text in data.missing where it means that the "
        "value is missing, or the column in data.words where it holds words"
    )
