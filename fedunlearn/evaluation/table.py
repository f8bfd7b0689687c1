"""The comparison as a table: trained, every method, retrained, and the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: In results.json.
        heading: Over the column.
        meaning: One sentence for the report.
        show: How a value is written.
    """

    key: str
    heading: str
    meaning: str
    show: Callable[[float], str]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _divergence(value: float) -> str:
    return f"{value:.4f}"


def byte_unit(value: float) -> tuple[float, str]:
    """Return the unit in which a number of bytes is written, and its size in bytes."""
    size = 1.0
    for unit in ("B", "kB", "MB"):
        if value < 1000 * size:
            return size, unit
        size *= 1000
    return size, "GB"


def _bytes(value: float) -> str:
    size, unit = byte_unit(value)
    return f"{value / size:.3g} {unit}"


COLUMNS = (
    Column(
        "forget_js",
        "forget JS",
        "Jensen-Shannon divergence (nats) to the retrained model on the forget set; "
        "the closer to the floor the better.",
        _divergence,
    ),
    Column("retain_js", "retain JS", "The same on what stays.", _divergence),
    Column(
        "forget_accuracy",
        "forget %",
        "Accuracy on the forget set; the aim is the retrained model's, not 0.",
        _share,
    ),
    Column("retain_accuracy", "retain %", "Accuracy on what stays.", _share),
    Column("test_accuracy", "test %", "Accuracy on held-out examples.", _share),
    Column(
        "tow",
        "ToW",
        "Product over forget, retain and test of 1 - |accuracy - retrained accuracy|; 1 is best.",
        lambda value: f"{value:.3f}",
    ),
    Column(
        "mia_auc",
        "MIA AUC",
        "How well a loss threshold tells forgotten from held-out examples; the aim is the "
        "retrained model's.",
        lambda value: f"{value:.3f}",
    ),
    Column("rounds", "rounds", "Broadcasts with their answers.", lambda value: f"{value:.0f}"),
    Column("bytes_up", "up", "Payload from nodes to server.", _bytes),
    Column("bytes_down", "down", "Payload from server to nodes.", _bytes),
    Column(
        "gradient_equivalents",
        "gradients",
        "Client compute; 1 is one gradient over all retained examples.",
        lambda value: f"{value:.1f}",
    ),
    Column("seconds", "s", "Wall time on this machine.", lambda value: f"{value:.1f}"),
)


# Left out of a narrow terminal in this order.
EXPENDABLE = ("seconds", "bytes_down", "bytes_up", "mia_auc", "retain_js", "gradient_equivalents")
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


def cells(row: Row, columns: Sequence[Column] = COLUMNS) -> list[str]:
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
    return fit(COLUMNS, [(name, cells(row)) for name, row in rows(request)], width, EXPENDABLE)


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
        if len(columns) < len(COLUMNS):
            console.print("More columns are in results.json and report.html.", style="dim")
        for name, entry in request["methods"].items():
            console.print(f"{name}: {entry['status']}", highlight=False)
            if "recording" in entry:
                console.print(
                    f"{name}: recording when training ended took {recording_cost(entry)}, "
                    "not counted above",
                    highlight=False,
                )
