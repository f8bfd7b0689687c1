"""The report of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedunlearn.reporting import comparison_plots as plots
from fedunlearn.reporting.comparison_sentences import findings, front_sentence, lead, statuses
from fedunlearn.reporting.pages import Section, render, sections, toml, unbroken
from fedunlearn.reporting.seed_summary import (
    IN_FLOORS,
    Figures,
    RequestSummary,
    ScenarioSummary,
)
from fedunlearn.reporting.table import (
    OF_SEEDS,
    columns_with_values,
    described,
    mean_and_spread,
    over_seeds,
)
from fedunlearn.reporting.table_columns import COLUMN_OF, FLOORS, Column

OVERVIEW = (FLOORS, COLUMN_OF["tow"])


@dataclass(frozen=True)
class _Row:
    """A row of a table.

    Attributes:
        name: Name of the model.
        colour: CSS variable of its colour; empty for rows that only explain another.
        cells: For each column the mean and what follows it.
    """

    name: str
    colour: str
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Table:
    """A table under its heading."""

    heading: str
    rows: Sequence[_Row]


@dataclass(frozen=True)
class _Plot:
    """A figure with its caption."""

    heading: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class _Ending:
    """A claim and a status, with the names and colours of all methods that share them."""

    claim: str
    status: str
    methods: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Scenario:
    """What the template shows of one scenario."""

    key: str
    name: str
    over_seeds: str
    seeds: int
    requests: int
    lead: str
    findings: Sequence[tuple[str, str, str]]
    columns: Sequence[Column]
    table: _Table
    earlier: Sequence[_Table]
    has_floor: bool
    has_recovery: bool
    partial: bool
    endings: Sequence[_Ending]
    costs: Sequence[_Plot]
    course: Sequence[_Plot]
    settings: Sequence[Section]


def render_comparison(summaries: Sequence[ScenarioSummary]) -> str:
    """Return the report of a comparison.

    Args:
        summaries: The scenarios in the order in which they are shown.

    Returns:
        A whole HTML document; the same input gives the same text.
    """
    environments = [environment for each in summaries for environment in each.environments]
    distinct = [e for i, e in enumerate(environments) if e not in environments[:i]]
    return render(
        "comparison.html.j2",
        names=[summary.name for summary in summaries],
        scenarios=[_view(each, f"s{i}") for i, each in enumerate(summaries, start=1)],
        overview=_overview(summaries) if len(summaries) > 1 else [],
        environments=[[f"{k} = {toml(value)}" for k, value in e.facts().items()] for e in distinct],
    )


def _view(summary: ScenarioSummary, key: str) -> _Scenario:
    colours = plots.colours_of(summary)
    requests = summary.requests
    columns = columns_with_values(OF_SEEDS, requests)
    tables = [
        _Table(
            _heading(request, number, summary),
            [
                _Row(name, colours.get(name, ""), _cells(figures, columns, summary.seeds))
                for name, figures in request.rows()
            ],
        )
        for number, request in enumerate(requests, start=1)
    ]
    last = requests[-1]
    return _Scenario(
        key=key,
        name=summary.name,
        over_seeds=unbroken(over_seeds(summary)),
        seeds=summary.seeds,
        requests=len(requests),
        lead=unbroken(lead(summary)),
        findings=[
            (name, colours.get(name, "muted"), unbroken(sentence))
            for name, sentence in findings(summary)
        ],
        columns=columns,
        table=tables[-1],
        earlier=tables[:-1],
        has_floor=bool(last.floor),
        has_recovery=any(method.before_recovery for method in last.methods.values()),
        partial=any(
            len(figure.values) < summary.seeds
            for request in requests
            for _, figures in request.rows()
            for figure in figures.values()
        ),
        endings=_endings(last, colours, summary.seeds),
        costs=list(_costs(summary, colours, key)),
        course=list(_course(summary, colours, key)) if len(requests) > 1 else [],
        settings=list(sections(summary.scenario, summary.varied)),
    )


def _endings(request: RequestSummary, colours: Mapping[str, str], seeds: int) -> list[_Ending]:
    shared: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, method in request.methods.items():
        ending = ", ".join(method.claims), unbroken(statuses(method, seeds))
        shared.setdefault(ending, []).append((name, colours[name]))
    return [_Ending(claim, status, names) for (claim, status), names in shared.items()]


def _heading(request: RequestSummary, number: int, summary: ScenarioSummary) -> str:
    if len(summary.requests) == 1:
        return described(request)
    return f"Request {number} of {len(summary.requests)}: {described(request)}"


def _cells(figures: Figures, columns: Sequence[Column], seeds: int) -> list[tuple[str, str]]:
    return [mean_and_spread(column, figures.get(column.key), seeds) for column in columns]


def _costs(summary: ScenarioSummary, colours: Mapping[str, str], key: str) -> Iterator[_Plot]:
    request = summary.requests[-1]
    for cost in plots.COSTS:
        name = f"{key}-{cost.key.replace('_', '-')}"
        svg = plots.quality_against_cost(request, cost, colours=colours, key=name)
        if svg:
            yield _Plot(f"Against {cost.label}", Markup(svg), front_sentence(request, cost))


def _course(summary: ScenarioSummary, colours: Mapping[str, str], key: str) -> Iterator[_Plot]:
    requests = summary.requests
    first = COLUMN_OF["forget_js"]
    if all(IN_FLOORS in request.trained for request in requests):
        first = FLOORS
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


def _overview(summaries: Sequence[ScenarioSummary]) -> list[_Table]:
    """Return one table for each metric, with the value of every method in every scenario."""
    methods = dict.fromkeys(name for summary in summaries for name in summary.requests[-1].methods)
    colours = [plots.colours_of(summary) for summary in summaries]
    tables = []
    for column in OVERVIEW:
        listed = [
            _Row(
                name,
                next(own[name] for own in colours if name in own),
                [_reached(summary, name, column) for summary in summaries],
            )
            for name in ("trained", *methods)
        ]
        if any(mean for row in listed for mean, _ in row.cells):
            tables.append(_Table(f"{_upper(column.heading)}: {column.meaning}", listed))
    return tables


def _reached(summary: ScenarioSummary, name: str, column: Column) -> tuple[str, str]:
    request = summary.requests[-1]
    method = request.methods.get(name)
    figures: Figures = method.figures if method else {}
    if name == "trained":
        figures = request.trained
    return mean_and_spread(column, figures.get(column.key), summary.seeds)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
