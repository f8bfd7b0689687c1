"""A scenario's csv as tensors: features or texts, labels, and the node of each example."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedunlearn.data.cells import require_no_marker
from fedunlearn.data.class_labels import classes, label_column, numbered
from fedunlearn.data.draw import Indices, at_most, hold_out
from fedunlearn.data.encoders import ENCODERS
from fedunlearn.data.features import features
from fedunlearn.data.scenario_data import ScenarioData
from fedunlearn.data.table import Table, read_table
from fedunlearn.errors import ScenarioError
from fedunlearn.names import Names
from fedunlearn.scenario.data import DataSettings
from fedunlearn.tokens import joined, token_ids

MIN_EXAMPLES = 2


def read_csv(settings: DataSettings) -> ScenarioData:
    """Read a csv; every group of a natural partition keeps examples to train on.

    Args:
        settings: Settings of a csv.

    Returns:
        Its examples, with the nodes of a natural partition.

    Raises:
        ScenarioError: The file or a key cannot be used.
    """
    assert settings.path is not None and settings.label is not None  # the settings require them
    table = read_table(settings.path).with_missing(settings.missing)
    label = label_column(settings.label, table)
    for name in settings.words:
        table.column(name, "words")
    targets, labels = classes(settings.label, table, words=label in settings.words)
    groups, nodes = natural_groups(table, label, settings)
    train, test = held_out(groups, settings)
    train = limited(train, groups, settings)
    if settings.text:
        inputs = texts(table, label, settings, np.union1d(train, test))
    else:
        names = [name for name in table.columns if name not in (label, settings.by)]
        values = features(table, names, settings.zero_is_missing, train, settings.words)
        inputs = torch.tensor(values, dtype=torch.float32)
    of_all = torch.from_numpy(targets)
    return ScenarioData(
        (inputs[train], of_all[train]),
        (inputs[test], of_all[test]),
        Names("class", labels),
        groups[train] if nodes else None,
        nodes,
    )


def held_out(groups: Indices, settings: DataSettings) -> tuple[Indices, Indices]:
    """Draw what trains and what tests, where the data does not say.

    Args:
        groups: The node of each example (n,) where the partition is natural, else 0.
        settings: Their seed draws.

    Returns:
        Indices for training and for testing.

    Raises:
        ScenarioError: There are too few examples.
    """
    train, test = hold_out(groups, settings.seed)
    if not len(test):
        raise ScenarioError(
            f"data.path: {settings.path} has too few rows to hold any out for testing; give it "
            "four or more (natural: on one node at least)"
        )
    return train, test


def limited(train: Indices, groups: Indices, settings: DataSettings) -> Indices:
    """Draw from the training examples as many as the settings allow, one of every group first.

    Args:
        train: Indices.
        groups: Group of each example, as for ``held_out``.
        settings: Limit and seed.

    Returns:
        Indices; all of them where no limit is set.

    Raises:
        ScenarioError: The limit is below the number of groups.
    """
    if settings.limit is None:
        return train
    if settings.limit < len(np.unique(groups)):
        raise ScenarioError(
            f"data.limit: {settings.limit} examples for {len(np.unique(groups))} nodes; give "
            "every node one"
        )
    return train[at_most(settings.limit, groups[train], settings.seed)]


def texts(table: Table, label: str, settings: DataSettings, used: Indices | None = None) -> Tensor:
    """Turn a table's columns of text into token ids, or into features by a frozen encoder.

    Args:
        table: All rows.
        label: The label's column.
        settings: Which columns are text, and the encoder if there is one.
        used: Indices of the rows that will be used, for an encoder; None for all.

    Returns:
        Token ids (n, length), int64; or features (n, d), float32, which are 0 in unused rows.

    Raises:
        ScenarioError: A column is not there, or is the label's or the node's.
    """
    for name in settings.text:
        table.column(name, "text")
        if name in (label, settings.by):
            raise ScenarioError(f"data.text: {name!r} is the label's or the node's column")
    rows = joined([table.columns[name] for name in settings.text])
    if settings.encoder is None:
        return torch.from_numpy(token_ids(rows))
    places = np.arange(len(rows)) if used is None else used
    encoded = ENCODERS[settings.encoder]([rows[place] for place in places])
    inputs = encoded.new_zeros(len(rows), encoded.shape[1])
    inputs[torch.from_numpy(places)] = encoded
    return inputs


def natural_groups(
    table: Table, label: str, settings: DataSettings
) -> tuple[Indices, Names | None]:
    """Number the values of the column that names the node, where the partition is natural.

    Args:
        table: All rows.
        label: The label's column.
        settings: The partition, and what it goes by.

    Returns:
        Numbers (n,), from 0 on, and the names that they stand for; 0 throughout and no names where
        the partition is another.

    Raises:
        ScenarioError: The column does not name two nodes or more, of two examples or more.
    """
    name = settings.by
    cells = table.column(name, "by") if name is not None else ()
    if settings.partition != "natural" or name is None:
        return np.zeros(table.length, dtype=np.int64), None
    if name == label:
        raise ScenarioError(f"data.by: {name!r} is the label's column; give another")
    require_no_marker(table, name, "by", words=name in settings.words)
    groups, names = numbered(cells)
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        raise ScenarioError(
            f"data.by: column {name!r} names one node only; give a column of two or more values"
        )
    if settings.nodes is not None and settings.nodes != len(sizes):
        raise ScenarioError(
            f"data.nodes: {settings.nodes}, but column {name!r} names {len(sizes)}; leave it out"
        )
    if sizes.min() < MIN_EXAMPLES:
        raise ScenarioError(
            f"data.by: node {names[int(sizes.argmin())]}, of {len(sizes)} that column {name!r} "
            f"names, has fewer than {MIN_EXAMPLES} examples; merge it or drop its rows"
        )
    return groups, Names("node", names)
