"""Class numbers from a column of a table, or from a comparison on one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.table import Table, as_number, as_numbers
from fedunlearn.errors import ScenarioError

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
COMPARISON = re.compile(r"\s*([^<>=!]*[^<>=!\s])\s*(>=|<=|==|!=|>|<)\s*([^<>=!]*[^<>=!\s])\s*")


def label_column(label: str, table: Table) -> str:
    """Return the column that a label is made of.

    Args:
        label: A column or a comparison on one.
        table: Where the column is.

    Returns:
        Its name.

    Raises:
        ScenarioError: It is neither.
    """
    if label in table.columns:
        return label
    comparison = COMPARISON.fullmatch(label)
    if comparison is None and re.search("[<>=!]", label):
        raise ScenarioError(
            f"data.label: {label!r} cannot be read; use a column, or a column, one of "
            f"{' '.join(OPERATORS)}, and a number or a word, as in 'num > 0'"
        )
    name = comparison[1] if comparison else label
    table.column(name, "label")
    return name


def classes(label: str, table: Table) -> Classes:
    """Number the classes: a column's values in sorted order, or 0 and 1 for a comparison.

    Args:
        label: A column of words or whole numbers, or a comparison on one of words or numbers.
        table: The examples.

    Returns:
        (n,), from 0 on.

    Raises:
        ScenarioError: The column does not hold labels, or there is only one.
    """
    name = label_column(label, table)
    cells = table.column(name, "label")
    if not all(cells):
        raise ScenarioError(
            f"data.label: column {name!r} has empty cells; fill them in or drop their rows"
        )
    comparison = None if name == label else COMPARISON.fullmatch(label)
    if comparison is not None:
        numbers = _compare(cells, *comparison.group(1, 2, 3))
    else:
        values = as_numbers(cells)
        if values is not None and (values != np.round(values)).any():
            raise ScenarioError(
                f"data.label: column {name!r} holds fractions; compare it with a number, as in "
                f"'{name} > 0'"
            )
        numbers = numbered(cells)
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
    return numbers


def numbered(cells: Sequence[str]) -> Classes:
    """Number distinct values from 0 on, sorted as numbers if all are, else as text: (n,)."""
    values = as_numbers(cells)
    keys = np.array(cells) if values is None else values
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _compare(cells: Sequence[str], name: str, sign: str, right: str) -> Classes:
    values = as_numbers(cells)
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
    return np.array([OPERATORS[sign](cell, word) for cell in cells], dtype=np.int64)
