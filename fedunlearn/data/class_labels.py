"""Classes, their numbers and names, from a column of a table or from a comparison on one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.cells import as_number, is_written_number, numbers_in, require_no_marker
from fedunlearn.data.table import Table
from fedunlearn.errors import ScenarioError
from fedunlearn.names import as_decimal, in_order

Classes = NDArray[np.int64]

MAX_CLASSES = 1000
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
OPPOSITES = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}
# A column, a sign, and a number, a word, or a text in quotes, in which there may be signs.
COMPARISON = re.compile(
    r"\s*([^<>=!]*[^<>=!\s])\s*(>=|<=|==|!=|>|<)\s*('[^']*'|\"[^\"]*\"|[^<>=!]*[^<>=!\s])\s*"
)


def label_column(label: str, table: Table) -> str:
    """Return the column that a label is made of.

    Args:
        label: A column or a comparison on one.
        table: Where the column is.

    Returns:
        Its name.

    Raises:
        ScenarioError: The label is neither a column nor a comparison on one.
    """
    if label in table.columns:
        return label
    comparison = COMPARISON.fullmatch(label)
    if comparison is None and re.search("[<>=!]", label):
        raise ScenarioError(
            f"data.label: {label!r} cannot be read; use a column, or a column, one of "
            f"{' '.join(OPERATORS)}, and a number, a word or a text in quotes, as in 'num > 0'"
        )
    name = comparison[1] if comparison else label
    table.column(name, "label")
    return name


def classes(label: str, table: Table, *, words: bool = False) -> tuple[Classes, tuple[str, ...]]:
    """Number the classes in the order of their names.

    Args:
        label: A column of words or whole numbers, or a comparison on one of words or numbers.
        table: The examples.
        words: Whether the user says that the column holds words.

    Returns:
        Numbers (n,), from 0 on, and the names that they stand for: the texts of the column; of a
        comparison its opposite and itself.

    Raises:
        ScenarioError: The column does not hold labels, or there is only one.
    """
    name = label_column(label, table)
    cells = table.column(name, "label")
    require_no_marker(table, name, "label", words=words)
    comparison = None if name == label else COMPARISON.fullmatch(label)
    if comparison is not None:
        sign, right = comparison.group(2, 3)
        numbers = _compare(table, name, sign, right, words)
        names: tuple[str, ...] = (f"{name} {OPPOSITES[sign]} {right}", f"{name} {sign} {right}")
    else:
        _require_whole(table, name, words)
        numbers, names = numbered(cells)
    count = len(np.unique(numbers))
    if count < 2:
        raise ScenarioError(
            f"data.label: {label!r} gives a single class; give one that has two or more"
        )
    if count > MAX_CLASSES:
        raise ScenarioError(
            f"data.label: {label!r} gives more than {MAX_CLASSES} classes; give a column of "
            "classes, or a comparison"
        )
    return numbers, names


def numbered(cells: Sequence[str]) -> tuple[Classes, tuple[str, ...]]:
    """Number distinct texts from 0 on.

    Args:
        cells: One text a row.

    Returns:
        The number of each row (n,), and the texts, by number; see ``in_order``.
    """
    names = in_order(cells)
    places = {name: number for number, name in enumerate(names)}
    return np.array([places[cell] for cell in cells], dtype=np.int64), names


def _require_whole(table: Table, name: str, words: bool) -> None:
    """Refuse labels that are numbers in an odd form, or fractions."""
    cells = table.columns[name]
    odd = [row for row, cell in enumerate(cells) if is_written_number(cell)]
    if odd and not words:
        numbers_in(table, name, "label")  # refuses where most of the cells are numbers
    values = [as_decimal(cell) for cell in dict.fromkeys(cells)]
    if all(value is not None for value in values) and any(
        value != value.to_integral_value() for value in values if value is not None
    ):
        raise ScenarioError(
            f"data.label: column {name!r} holds fractions; compare it with a number, as in "
            f"'{name} > 0'"
        )


def _compare(table: Table, name: str, sign: str, right: str, words: bool) -> Classes:
    values = numbers_in(table, name, "label", words=words)
    if values is not None:
        number = as_number(right)
        if number is None:
            raise ScenarioError(
                f"data.label: column {name!r} holds numbers, which {right!r} is not; compare it "
                "with a number"
            )
        return np.asarray(OPERATORS[sign](values, number)).astype(np.int64)
    if sign not in ("==", "!="):
        raise ScenarioError(
            f"data.label: column {name!r} holds words, which have no {sign}; use == or !="
        )
    word = right[1:-1] if len(right) > 1 and right[0] == right[-1] in "'\"" else right
    return np.array([OPERATORS[sign](cell, word) for cell in table.columns[name]], dtype=np.int64)
