"""Columns of numbers and words as features, standardised by what training sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.cells import numbers_in
from fedunlearn.data.table import Table
from fedunlearn.errors import ScenarioError

Features = NDArray[np.float64]
Rows = NDArray[np.int64]

MAX_WORDS = 100


def features(
    table: Table,
    columns: Sequence[str],
    zero_is_missing: Sequence[str],
    training: Rows,
    words: Sequence[str] = (),
) -> Features:
    """Turn columns into features.

    Numbers: missing ones become the median, then all are standardised; beside a column with
    missing values stands one that says where, as 0 and 1. Words: one 0 or 1 for each. Medians,
    means, deviations and the list of words come from the training rows alone.

    Args:
        table: All rows.
        columns: Which become features.
        zero_is_missing: Those of them in which 0 means missing.
        training: Rows that training sees.
        words: Columns that hold words, whatever they look like.

    Returns:
        (n, d) of all rows: numbers, where they were missing, words.

    Raises:
        ScenarioError: A column cannot become features.
    """
    numbers: dict[str, Features] = {}
    texts: dict[str, Sequence[str]] = {}
    for name in columns:
        cells = table.columns[name]
        values = numbers_in(table, name, "path", words=name in words)
        if values is not None:
            numbers[name] = values
        elif len(set(cells)) <= MAX_WORDS:
            texts[name] = cells
        else:
            raise ScenarioError(
                f"data.path: column {name!r} holds more than {MAX_WORDS} different words; list "
                "columns of text in data.text, or leave it out of the file"
            )
    for name in zero_is_missing:
        if name not in columns:
            table.column(name, "zero-is-missing")
            raise ScenarioError(
                f"data.zero-is-missing: {name!r} is no feature but the label or the node's column"
            )
        if name not in numbers:
            raise ScenarioError(f"data.zero-is-missing: column {name!r} holds words, not numbers")
        numbers[name] = np.where(numbers[name] == 0.0, np.nan, numbers[name])
    blocks = []
    if numbers:
        blocks += _of_numbers(np.stack(list(numbers.values()), axis=1), training)
    if texts:
        blocks.append(_of_words(np.array(list(texts.values()), dtype=object).T, training))
    if not blocks:
        raise ScenarioError(
            "data.path: no column is left for features beside the label's and the node's; add one"
        )
    return np.concatenate(blocks, axis=1)


def _of_numbers(values: Features, training: Rows) -> list[Features]:
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.preprocessing import StandardScaler

    fill = SimpleImputer(strategy="median", keep_empty_features=True).fit(values[training])
    filled = fill.transform(values)
    scaled = StandardScaler().fit(filled[training]).transform(filled)
    # Of a column that is whole in training, the model could not learn what missing means.
    where = MissingIndicator(features="missing-only", error_on_new=False).fit(values[training])
    return [scaled, where.transform(values).astype(np.float64)]


def _of_words(words: NDArray[np.object_], training: Rows) -> Features:
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(words[training])
    encoded: Features = encoder.transform(words)
    return encoded
