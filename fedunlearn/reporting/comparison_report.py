"""The report of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedunlearn.reporting import comparison_plots as plots
from fedunlearn.reporting.columns import COLUMNS, Column
from fedunlearn.reporting.comparison_table import (
    FLOORS,
    columns_of,
    described,
    over_seeds,
    written,
)
from fedunlearn.reporting.comparison_words import findings, front_said, lead, statuses
from fedunlearn.reporting.pages import render, sections, toml, unbroken
from fedunlearn.reporting.spread import IN_FLOORS, Comparison, Figure, Figures, RequestSummary
from fedunlearn.reporting.table import rows

OVERVIEW = (FLOORS, *(column for column in COLUMNS if column.key == "tow"))


@dataclass(frozen=True)
class _Row:
    """A row of a table.

    Attributes:
        name: Of the model.
        colour: Its CSS variable; empty for rows that only explain another.
        cells: Each a mean and what follows it.
    """

    name: str
    colour: str
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Table:
    """A table and what it is about."""

    heading: str
    rows: Sequence[_Row]


@dataclass(frozen=True)
class _Plot:
    """A figure and what is said beside it."""

    heading: str
    svg: Markup
    said: str


def render_comparison(comparisons: Sequence[Comparison]) -> str:
    """Return the report of a comparison.

    Args:
        comparisons: One a scenario, in the order in which they are shown.

    Returns:
        A whole HTML document; the same input gives the same text.
    """
    environments = [environment for each in comparisons for environment in each.environments]
    distinct = [e for i, e in enumerate(environments) if e not in environments[:i]]
    return render(
        "comparison.html.j2",
        names=[comparison.name for comparison in comparisons],
        scenarios=[_view(each, f"s{i}") for i, each in enumerate(comparisons, start=1)],
        overview=_overview(comparisons) if len(comparisons) > 1 else [],
        environments=[[f"{key} = {toml(value)}" for key, value in e.items()] for e in distinct],
    )


def _view(comparison: Comparison, key: str) -> dict[str, Any]:
    """Return what the template shows of one scenario."""
    colours = plots.colours_of(comparison)
    columns = columns_of(comparison.requests)
    requests = comparison.requests
    tables = [
        _Table(
            _heading(request, number, comparison),
            [
                _Row(name, colours.get(name, ""), _cells(figures, columns, comparison.seeds))
                for name, figures in rows(request.as_request())
            ],
        )
        for number, request in enumerate(requests, start=1)
    ]
    last = requests[-1]
    return {
        "key": key,
        "name": comparison.name,
        "over_seeds": unbroken(over_seeds(comparison)),
        "seeds": comparison.seeds,
        "requests": len(requests),
        "lead": unbroken(lead(comparison)),
        "findings": [
            (name, colours.get(name, "muted"), unbroken(said))
            for name, said in findings(comparison)
        ],
        "columns": columns,
        "table": tables[-1],
        "earlier": tables[:-1],
        "has_floor": bool(last.floor),
        "has_recovery": any(method.before_recovery for method in last.methods.values()),
        "partial": any(
            len(figure.values) < comparison.seeds
            for request in requests
            for _, figures in rows(request.as_request())
            for figure in figures.values()
            if isinstance(figure, Figure)
        ),
        "methods": _endings(last, colours, comparison.seeds),
        "costs": list(_costs(comparison, colours, key)),
        "course": list(_course(comparison, colours, key)) if len(requests) > 1 else [],
        "settings": list(sections(comparison.scenario, comparison.varied)),
    }


def _endings(
    request: RequestSummary, colours: Mapping[str, str], seeds: int
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return claim and status, with the names and colours of all methods that share them."""
    shared: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, method in request.methods.items():
        ending = ", ".join(method.claims), unbroken(statuses(method, seeds))
        shared.setdefault(ending, []).append((name, colours[name]))
    return [(claim, status, names) for (claim, status), names in shared.items()]


def _heading(request: RequestSummary, number: int, comparison: Comparison) -> str:
    if len(comparison.requests) == 1:
        return described(request)
    return f"Request {number} of {len(comparison.requests)}: {described(request)}"


def _cells(figures: Figures, columns: Sequence[Column], seeds: int) -> list[tuple[str, str]]:
    return [written(column, figures.get(column.key), seeds) for column in columns]


def _costs(comparison: Comparison, colours: Mapping[str, str], key: str) -> Iterator[_Plot]:
    request = comparison.requests[-1]
    for cost in plots.COSTS:
        name = f"{key}-{cost.key.replace('_', '-')}"
        svg = plots.quality_against_cost(request, cost, colours=colours, key=name)
        if svg:
            yield _Plot(f"Against {cost.label}", Markup(svg), front_said(request, cost))


def _course(comparison: Comparison, colours: Mapping[str, str], key: str) -> Iterator[_Plot]:
    requests = comparison.requests
    js = next(column for column in COLUMNS if column.key == "forget_js")
    first = FLOORS if all(IN_FLOORS in request.trained for request in requests) else js
    for column in (first, *OVERVIEW[1:]):
        series = {
            "trained": [request.trained.get(column.key) for request in requests],
            **{
                name: [request.methods[name].figures.get(column.key) for request in requests]
                for name in requests[0].methods
            },
        }
        divergence = column.key != "tow"
        label = "forget JS, in floors" if column is FLOORS else column.heading
        svg = plots.course(
            series,
            label=label,
            reference=("floor", 1.0) if column is FLOORS else None,
            logarithmic=divergence,
            colours=colours,
            key=f"{key}-course-{column.key.replace('_', '-')}",
        )
        yield _Plot(_upper(label), Markup(svg), column.meaning)


def _overview(comparisons: Sequence[Comparison]) -> list[_Table]:
    """Return a table a metric: what every method reached in every scenario."""
    methods = dict.fromkeys(
        name for comparison in comparisons for name in comparison.requests[-1].methods
    )
    colours = [plots.colours_of(comparison) for comparison in comparisons]
    tables = []
    for column in OVERVIEW:
        listed = [
            _Row(
                name,
                next(own[name] for own in colours if name in own),
                [_reached(comparison, name, column) for comparison in comparisons],
            )
            for name in ("trained", *methods)
        ]
        if any(mean for row in listed for mean, _ in row.cells):
            tables.append(_Table(f"{_upper(column.heading)}: {column.meaning}", listed))
    return tables


def _reached(comparison: Comparison, name: str, column: Column) -> tuple[str, str]:
    request = comparison.requests[-1]
    method = request.methods.get(name)
    figures: Figures = method.figures if method else {}
    if name == "trained":
        figures = request.trained
    return written(column, figures.get(column.key), comparison.seeds)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
