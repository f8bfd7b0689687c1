"""Results as tables on the terminal: one run, or a scenario over several seeds.

A table of several seeds never shows wall time: two comparisons of the same seeds print the same
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedunlearn.reporting.results import Spent
from fedunlearn.reporting.seed_summary import (
    IN_FLOORS,
    Figure,
    Figures,
    RequestSummary,
    ScenarioSummary,
)
from fedunlearn.reporting.table_columns import (
    COLUMN_OF,
    COLUMNS,
    COSTS,
    EXPENDABLE,
    FLOORS,
    QUALITY,
    Column,
    byte_unit,
)

_AFTER_JS = 1 + [column.key for column in QUALITY].index("forget_js")
OF_RUN = COLUMNS
OF_SEEDS = (*QUALITY[:_AFTER_JS], FLOORS, *QUALITY[_AFTER_JS:], *COSTS)
COURSE = (IN_FLOORS, "tow")
AT_MOST_DESCRIBED = 4
WIDTH_OF_PIPES = 140
UNBOUNDED = 10_000
GAP = 3  # between columns: a space on both sides of the divider
COUNT = Column("examples", "", "", "{:.0f}".format)


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn.

    Attributes:
        title: The line above the table.
        columns: Its columns.
        rows: Name of the model and its cells, one for each column.
        bold: The rows that are printed bold.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[str]]]
    bold: Iterable[str]

    def fitted(self, width: int, expendable: Sequence[str]) -> Grid:
        """Return the table with as few columns left out as make it fit.

        Args:
            width: Width of the terminal in characters.
            expendable: Keys of the columns that may be left out, in the order of leaving out.

        Returns:
            The table with the columns that stay.
        """
        names = max(len(part) for name, _ in self.rows for part in name.split(", "))
        needed = {
            column.key: max(len(column.heading), *(len(row[place]) for _, row in self.rows))
            for place, column in enumerate(self.columns)
        }
        for key in expendable:
            if names + sum(needed.values()) + GAP * (len(needed) + 1) < width:
                break
            needed.pop(key, None)
        places = [place for place, column in enumerate(self.columns) if column.key in needed]
        return replace(
            self,
            columns=[self.columns[place] for place in places],
            rows=[(name, [cells[place] for place in places]) for name, cells in self.rows],
        )

    def drawn(self) -> Table:
        """Return the table as the terminal prints it."""
        table = Table(
            title=self.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
        )
        table.add_column("model")
        for column in self.columns:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for name, cells in self.rows:
            table.add_row(name, *cells, style="bold" if name in self.bold else None)
        return table


def columns_with_values(
    columns: Sequence[Column], requests: Sequence[RequestSummary]
) -> list[Column]:
    """Return the columns that some row of some request has a value for."""
    present = {key for request in requests for _, figures in request.rows() for key in figures}
    return [column for column in columns if column.key in present]


def mean_and_spread(column: Column, figure: Figure | None, seeds: int) -> tuple[str, str]:
    """Format a figure in two parts.

    Args:
        column: Formats the numbers.
        figure: The figure; None where no seed has it.
        seeds: Number of seeds of the comparison.

    Returns:
        The mean, and what follows it: the spread, unless it is zero or there is one seed, and the
        number of seeds that have the figure, unless all do.
    """
    if figure is None:
        return "", ""
    mean, spread = column.show(figure.mean), ""
    if figure.spread:
        if column.key.startswith("bytes"):
            size, _ = byte_unit(figure.mean)
            digits = len(f"{figure.mean / size:.3g}".partition(".")[2])
            spread = f"{figure.spread / size:.{digits}f}"
        elif column.key == "rounds":
            mean, spread = f"{figure.mean:.1f}", f"{figure.spread:.1f}"
        else:
            spread = column.show(figure.spread)
    after = [f"± {spread}"] if spread else []
    if len(figure.values) < seeds:
        after.append(f"({len(figure.values)}/{seeds})")
    return mean, " ".join(after)


def cell(column: Column, figure: Figure | None, seeds: int) -> str:
    """Format a figure as one cell; empty where there is none."""
    return " ".join(mean_and_spread(column, figure, seeds)).strip()


def recording_cost(spent: Spent | Figures) -> str:
    """Format the cost of recording for a method when training ended.

    Args:
        spent: The cost in one run, or a method's figures over seeds, of which the mean is shown.

    Returns:
        Rounds, client compute and bytes.
    """
    keys = ("rounds", "gradient_equivalents", "bytes_up", "bytes_down")
    if isinstance(spent, Spent):
        values = [spent.numbers()[key] for key in keys]
    else:
        values = [spent[f"recording.{key}"].mean for key in keys]
    shown = [COLUMN_OF[key].show(value) for key, value in zip(keys, values, strict=True)]
    return "{} rounds, {} gradients, {} up, {} down".format(*shown)


def described(request: RequestSummary) -> str:
    """Return the descriptions of the forget sets, each once, at most a few of them."""
    distinct = list(dict.fromkeys(request.descriptions))
    if len(distinct) <= AT_MOST_DESCRIBED:
        return " / ".join(distinct)
    shown = distinct[: AT_MOST_DESCRIBED - 1]
    return f"{' / '.join(shown)} / {len(distinct) - len(shown)} more"


def over_seeds(summary: ScenarioSummary) -> str:
    """Say which statistic the numbers are."""
    if summary.seeds == 1:
        return "One seed"
    return f"Mean ± standard deviation over {summary.seeds} seeds"


def request_grid(summary: ScenarioSummary, number: int, columns: Sequence[Column]) -> Grid:
    """Return the table of one request: trained, the methods, retrained, floor.

    Args:
        summary: The scenario over its seeds.
        number: Index of the request.
        columns: The columns to choose from: those that have a value are shown.

    Returns:
        The table.
    """
    request, seeds = summary.requests[number], summary.seeds
    shown = columns_with_values(columns, summary.requests if columns == OF_SEEDS else [request])
    gone, stay = (
        cell(COUNT, request.sizes[key], seeds)
        for key in ("forgotten_examples", "retained_examples")
    )
    several = len(summary.requests) > 1 and columns == OF_SEEDS
    place = f", request {number + 1} of {len(summary.requests)}" if several else ""
    title = f"{summary.name}{place}: {described(request)} leaves, {gone} examples; {stay} stay"
    return Grid(
        title=f"{title}. {over_seeds(summary)}" if columns == OF_SEEDS else title,
        columns=shown,
        rows=[
            (name, [cell(column, figures.get(column.key), seeds) for column in shown])
            for name, figures in request.rows()
        ],
        bold=request.methods,
    )


def course_grid(summary: ScenarioSummary) -> Grid:
    """Return the table of a sequence: one row a model, one column for each metric and request."""
    requests = summary.requests
    metrics = [c for c in columns_with_values(OF_SEEDS, requests) if c.key in COURSE]
    rows: dict[str, list[str]] = {}
    for metric in metrics:
        for request in requests:
            models: Mapping[str, Figures] = {
                "trained": request.trained,
                **{name: method.figures for name, method in request.methods.items()},
            }
            for name, figures in models.items():
                text = cell(metric, figures.get(metric.key), summary.seeds)
                rows.setdefault(name, []).append(text)
    return Grid(
        title=f"{summary.name}: after each of {len(requests)} requests. {over_seeds(summary)}",
        columns=[
            replace(metric, key=f"{metric.key} {place}", heading=f"{metric.heading} {place + 1}")
            for metric in metrics
            for place in range(len(requests))
        ],
        rows=list(rows.items()),
        bold=requests[0].methods,
    )


def expendable_of_course(requests: int) -> list[str]:
    """Return the keys of a course's columns as they may be left out: first and last at the end."""
    last = [requests // 2, 0, requests - 1]
    order = [*(place for place in range(requests) if place not in last), *last[:2]]
    return [f"{key} {place}" for place in order for key in reversed(COURSE)]


def print_run(summary: ScenarioSummary) -> None:
    """Print every request of a run, with the status of every method."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    for number, request in enumerate(summary.requests):
        whole = request_grid(summary, number, OF_RUN)
        shown = whole.fitted(console.width, EXPENDABLE)
        console.print(shown.drawn())
        if len(shown.columns) < len(whole.columns):
            console.print("More columns are in results.json and report.html.", style="dim")
        for name, method in request.methods.items():
            console.print(f"{name}: {', '.join(method.statuses)}", highlight=False)
            if "recording.rounds" in method.figures:
                console.print(
                    f"{name}: recording when training ended took "
                    f"{recording_cost(method.figures)}, not counted above",
                    highlight=False,
                )


def print_seeds(summary: ScenarioSummary) -> None:
    """Print the course of a scenario with several requests, then all of the last request."""
    console = Console()
    several = len(summary.requests)
    wholes = [course_grid(summary)] if several > 1 else []
    wholes.append(request_grid(summary, several - 1, OF_SEEDS))
    expendable = [expendable_of_course(several), EXPENDABLE][-len(wholes) :]
    left_out = False
    for whole, keys in zip(wholes, expendable, strict=True):
        if console.is_terminal:
            shown = whole.fitted(console.width, keys)
            left_out |= len(shown.columns) < len(whole.columns)
        else:  # a pipe has no width: the table takes the width that it needs
            shown = whole
            console.width = UNBOUNDED
            console.width = console.measure(shown.drawn()).maximum
        console.print(shown.drawn())
    if left_out:
        console.print("More columns are in the files.", style="dim")
