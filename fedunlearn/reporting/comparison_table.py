"""Comparisons over seeds as tables and as CSV.

Wall time is in neither: two comparisons of the same seeds give the same text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from fedunlearn.reporting import table
from fedunlearn.reporting.columns import (
    ASKED_FOR,
    COSTS,
    LEAST_TELLING,
    QUALITY,
    SECONDS,
    Column,
    byte_unit,
    having_values,
)
from fedunlearn.reporting.spread import (
    IN_FLOORS,
    Comparison,
    Figure,
    Figures,
    RequestSummary,
)

FLOORS = Column(
    IN_FLOORS,
    "floors",
    "Forget JS over the floor: the mean of one over the mean of the other.",
    "{:.2f}".format,
)
# Left out of a narrow terminal in this order.
EXPENDABLE = (
    *(*LEAST_TELLING, "bytes_down", "bytes_up", "retain_js", "mia_auc", *ASKED_FOR),
    *("gradient_equivalents", "forget_accuracy", "test_accuracy", "retain_accuracy", "forget_js"),
)
COURSE = (IN_FLOORS, "tow")
AT_MOST_DESCRIBED = 4
UNBOUNDED = 10_000


def columns_of(requests: Sequence[RequestSummary]) -> list[Column]:
    """Return the columns that some row has a value for: quality first, cost last."""
    after_js = 1 + [column.key for column in QUALITY].index("forget_js")
    columns = (*QUALITY[:after_js], FLOORS, *QUALITY[after_js:], *COSTS)
    listed = [row for request in requests for row in table.rows(request.as_request())]
    return having_values(columns, listed)


def written(column: Column, figure: Figure | None, seeds: int) -> tuple[str, str]:
    """Write a figure.

    Args:
        column: How.
        figure: What; None where no seed has it.
        seeds: Of the comparison.

    Returns:
        The mean, and what follows it: the spread, unless it is zero or there is one seed, and how
        many seeds have it, unless all do.
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


def one_line(column: Column, figure: Figure | None, seeds: int) -> str:
    """Write a figure as one cell."""
    return " ".join(written(column, figure, seeds)).strip()


def described(request: RequestSummary) -> str:
    """Say what left: every description once, as many as can be read."""
    distinct = list(dict.fromkeys(request.descriptions))
    if len(distinct) <= AT_MOST_DESCRIBED:
        return " / ".join(distinct)
    shown = distinct[: AT_MOST_DESCRIBED - 1]
    return f"{' / '.join(shown)} / {len(distinct) - len(shown)} more"


def title(comparison: Comparison, number: int) -> str:
    """Say what the table of one request is about."""
    request = comparison.requests[number]
    gone, stay = (
        one_line(Column(key, "", "", "{:.0f}".format), request.sizes.get(key), comparison.seeds)
        for key in ("forgotten_examples", "retained_examples")
    )
    several = len(comparison.requests)
    place = f", request {number + 1} of {several}" if several > 1 else ""
    return (
        f"{comparison.name}{place}: {described(request)} leaves, {gone} examples; {stay} stay. "
        f"{over_seeds(comparison)}"
    )


def over_seeds(comparison: Comparison) -> str:
    """Say what the numbers are."""
    if comparison.seeds == 1:
        return "One seed"
    return f"Mean ± standard deviation over {comparison.seeds} seeds"


def request_table(comparison: Comparison, number: int, width: int | None = None) -> Table:
    """Return the table of one request.

    Args:
        comparison: The scenario over its seeds.
        number: Of the request, from 0.
        width: In characters; None for all columns.

    Returns:
        Trained, the methods in the order of the scenario, retrained, floor.
    """
    request = comparison.requests[number]
    columns = columns_of(comparison.requests)
    listed = table.rows(request.as_request())

    def cells(figures: Figures, shown: Sequence[Column]) -> list[str]:
        return [one_line(column, figures.get(column.key), comparison.seeds) for column in shown]

    if width is not None:
        texts = [(name, cells(figures, columns)) for name, figures in listed]
        columns = table.fit(columns, texts, width, EXPENDABLE)
    result = table.new_table(title(comparison, number), columns)
    for name, figures in listed:
        style = "bold" if name in request.methods else None
        result.add_row(name, *cells(figures, columns), style=style)
    return result


def course_table(comparison: Comparison, width: int | None = None) -> Table:
    """Return how a sequence of requests went: one row a model, one column a metric and request.

    Args:
        comparison: Of several requests.
        width: In characters; None for every request. Where they do not fit, the first, the middle
            and the last stay longest.

    Returns:
        Trained, and the methods in the order of the scenario.
    """
    requests = comparison.requests
    of_metric = {column.key: column for column in columns_of(requests) if column.key in COURSE}
    columns = [
        replace(column, key=f"{key} {place}", heading=f"{column.heading} {place + 1}")
        for key, column in of_metric.items()
        for place in range(len(requests))
    ]
    figures: dict[str, dict[str, Figure]] = {}
    for place, request in enumerate(requests):
        models = {"trained": request.trained}
        models |= {name: method.figures for name, method in request.methods.items()}
        for name, measured in models.items():
            figures.setdefault(name, {}).update(
                {f"{key} {place}": measured[key] for key in of_metric if key in measured}
            )
    listed = [
        (name, [one_line(column, row.get(column.key), comparison.seeds) for column in columns])
        for name, row in figures.items()
    ]
    shown = columns
    if width is not None:
        expendable = [
            f"{key} {place}"
            for place in _least_telling(len(requests))
            for key in reversed(of_metric)
        ]
        shown = table.fit(columns, listed, width, expendable)
    result = table.new_table(
        f"{comparison.name}: after each of {len(requests)} requests. {over_seeds(comparison)}",
        shown,
    )
    kept = [columns.index(column) for column in shown]
    for name, texts in listed:
        style = "bold" if name in requests[0].methods else None
        result.add_row(name, *(texts[place] for place in kept), style=style)
    return result


def print_comparison(comparison: Comparison) -> None:
    """Print a scenario: its course where there are several requests, then all of the last one."""
    console = Console()
    last = len(comparison.requests) - 1
    whole = [course_table(comparison)] if last else []
    whole.append(request_table(comparison, last))
    shown = whole
    if console.is_terminal:
        width = console.width
        shown = [course_table(comparison, width)] if last else []
        shown.append(request_table(comparison, last, width))
    for part in shown:
        if not console.is_terminal:  # a pipe has no width, and what is cut there is lost
            console.width = UNBOUNDED
            console.width = console.measure(part).maximum
        console.print(part)
    if any(
        len(part.columns) < len(other.columns) for part, other in zip(shown, whole, strict=True)
    ):
        console.print("More columns are in the files.", style="dim")


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """Return every figure on a line of its own.

    Args:
        comparisons: In the order in which they are written.

    Returns:
        scenario, request (from 1), model, metric, mean, spread (empty for one seed), seeds (that
        have the metric).
    """
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(("scenario", "request", "model", "metric", "mean", "spread", "seeds"))
    for comparison in comparisons:
        for number, request in enumerate(comparison.requests, start=1):
            for model, figures in table.rows(request.as_request()):
                for metric, figure in _timeless(figures).items():
                    spread = "" if figure.spread is None else figure.spread
                    place = (comparison.name, number, model, metric)
                    lines.writerow((*place, figure.mean, spread, len(figure.values)))
    return buffer.getvalue()


def _timeless(figures: Figures) -> dict[str, Figure]:
    return {
        key: figure
        for key, figure in figures.items()
        if isinstance(figure, Figure) and key.rpartition(".")[2] != SECONDS.key
    }


def _least_telling(count: int) -> list[int]:
    """Order places by how soon they may go: first, middle and last at the end."""
    kept = [count // 2, 0, count - 1]
    return [*(place for place in range(count) if place not in kept), kept[0], kept[1]]
