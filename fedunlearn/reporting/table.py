"""The comparison as a table: trained, every method, retrained, and the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedunlearn.reporting.columns import (
    ASKED_FOR,
    COLUMNS,
    LEAST_TELLING,
    Column,
    having_values,
)

Row = Mapping[str, Any]


# Left out of a narrow terminal in this order.
EXPENDABLE = (
    *(*LEAST_TELLING, "seconds", "bytes_down", "bytes_up", "mia_auc", "retain_js"),
    *(*ASKED_FOR, "gradient_equivalents"),
)
WIDTH_OF_PIPES = 140
GAP = 3  # between columns: a space on both sides of the divider


def rows(request: Mapping[str, Any]) -> list[tuple[str, Row]]:
    """Return the rows of one request, in reading order; their values may be of any kind."""
    methods = [
        (name, entry)
        for method, measured in request["methods"].items()
        for name, entry in (
            (f"{method}, before recovery", measured.get("before_recovery")),
            (method, measured),
        )
        if entry
    ]
    listed = [("trained", request["trained"]), *methods, ("retrained", request["retrained"])]
    return [*listed, ("floor", request["floor"])] if request["floor"] else listed


def columns_of(requests: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that some row of some request has a value for."""
    return having_values(COLUMNS, [row for request in requests for row in rows(request)])


def cells(row: Row, columns: Sequence[Column]) -> list[str]:
    """Return a row's values as text; empty where nothing was measured."""
    return [column.show(row[column.key]) if column.key in row else "" for column in columns]


def recording_cost(entry: Row) -> str:
    """Say what recording for a method took when training ended."""
    shown = {column.key: column.show for column in COLUMNS}
    spent = entry["recording"]
    rounds, gradients, up, down = (
        shown[key](spent[key])
        for key in ("rounds", "gradient_equivalents", "bytes_up", "bytes_down")
    )
    return f"{rounds} rounds, {gradients} gradients, {up} up, {down} down"


def fitting_columns(request: Mapping[str, Any], width: int) -> list[Column]:
    """Return the columns that fit into so many characters; the least telling are left out."""
    columns = columns_of([request])
    listed = [(name, cells(row, columns)) for name, row in rows(request)]
    return fit(columns, listed, width, EXPENDABLE)


def fit(
    columns: Sequence[Column],
    listed: Sequence[tuple[str, Sequence[str]]],
    width: int,
    expendable: Sequence[str],
) -> list[Column]:
    """Leave out columns until a table fits.

    Args:
        columns: All there are.
        listed: Each row's name and its cells in these columns.
        width: Of the terminal, in characters.
        expendable: Keys of the columns that may go, the first first.

    Returns:
        Those that stay, in order.
    """
    names = max(len(part) for name, _ in listed for part in name.split(", "))
    needed = {
        column.key: max(len(column.heading), *(len(row[place]) for _, row in listed))
        for place, column in enumerate(columns)
    }
    for key in expendable:
        if names + sum(needed.values()) + GAP * (len(needed) + 1) < width:
            break
        needed.pop(key, None)
    return [column for column in columns if column.key in needed]


def new_table(title: str, columns: Sequence[Column]) -> Table:
    """Return a table without rows; its first column takes the model's name."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    table.add_column("model")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    return table


def print_tables(results: Mapping[str, Any]) -> None:
    """Print one table for each request."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    for request in results["requests"]:
        forget = request["forget"]
        columns = fitting_columns(request, console.width)
        table = new_table(
            f"{results['name']}: {forget['description']} leaves, "
            f"{forget['forgotten_examples']} examples; {forget['retained_examples']} stay",
            columns,
        )
        for name, row in rows(request):
            style = "bold" if name in request["methods"] else None
            table.add_row(name, *cells(row, columns), style=style)
        console.print(table)
        if len(columns) < len(columns_of([request])):
            console.print("More columns are in results.json and report.html.", style="dim")
        for name, entry in request["methods"].items():
            console.print(f"{name}: {entry['status']}", highlight=False)
            if "recording" in entry:
                console.print(
                    f"{name}: recording when training ended took {recording_cost(entry)}, "
                    "not counted above",
                    highlight=False,
                )
