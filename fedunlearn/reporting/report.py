"""The report of a run: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from fedunlearn.reporting import plots
from fedunlearn.reporting.deletion_view import view as deletion_view
from fedunlearn.reporting.forget_set_predictions import ForgetSetPredictions
from fedunlearn.reporting.pages import render, sections, toml, unbroken
from fedunlearn.reporting.results import MethodResults, RequestResults, Results
from fedunlearn.reporting.run_sentences import NEAR, finding, formatted, lead
from fedunlearn.reporting.seed_summary import RequestSummary, summarise
from fedunlearn.reporting.table import OF_RUN, cell, columns_with_values
from fedunlearn.reporting.table_columns import Column

CLAIMS = {
    "EMPIRICAL": "measured in this run; no certificate that the influence of the data is gone",
    "EXACT": "the weights of retraining, up to the relative error that the status states",
    "CERTIFIED": "(epsilon, delta)-indistinguishable from retraining without the data, to a party "
    "that does not know the noise of training",
    "EXACT_RETRAIN": "by construction the model that retraining without the data gives",
}
FACTS = {
    "weight": "cubic weight M",
    "damping": "damping",
    "step_norm": "length of the step",
    "gradient_norm": "norm of the gradient the step follows",
    "gradient_norm_at_trained": "norm of the whole gradient at the trained model",
    "predicted": "change of the objective predicted by the cubic model",
    "quadratic": "change predicted by its quadratic part",
    "actual": "change of the objective as nodes measured it",
    "residual": "relative residual of the step",
    "products": "curvature products",
    "share": "share of the data that has left",
    "leverage": "leverage: share of the curvature in some direction",
    "inside": "share of the leaving data's gradient that was recorded",
    "gain": "gain ratio",
}


class _StepDetails(BaseModel):
    """What a method that solved its step in a subspace reports of it."""

    model_config = ConfigDict(extra="ignore")

    ritz_values: tuple[float, ...]
    damping: float | None = None
    weight: float = 0.0
    candidates: tuple[plots.CandidateWeight, ...] = ()


@dataclass(frozen=True)
class _Row:
    """A row of the table; the colour is empty for rows that only explain another."""

    name: str
    colour: str
    cells: Sequence[str]


@dataclass(frozen=True)
class _Finding:
    """The sentences about a method."""

    name: str
    colour: str
    text: str


@dataclass(frozen=True)
class _Ending:
    """How a method ended: its claim, what the claim means, and its status."""

    name: str
    colour: str
    claim: str
    meaning: str
    status: str


@dataclass(frozen=True)
class _Figure:
    """A figure under its name."""

    name: str
    colour: str
    svg: Markup


@dataclass(frozen=True)
class _Step:
    """The figures of a method that reports its Ritz values."""

    name: str
    colour: str
    spectrum: Markup
    gains: Markup | None
    negative: int
    zero: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class _Request:
    """What the template shows of one request."""

    key: str
    heading: str
    lead: str
    findings: Sequence[_Finding]
    rows: Sequence[_Row]
    has_recovery: bool
    has_floor: bool
    endings: Sequence[_Ending]
    gradient_norm: str | None
    panels: Sequence[_Figure]
    examples: Sequence[_Figure]
    curve: Markup
    basis: Sequence[str]
    recovery: int
    retraining_rounds: str
    steps: Sequence[_Step]


def render_report(results: Results, predictions: Sequence[ForgetSetPredictions]) -> str:
    """Return the report of a run.

    Args:
        results: The results of the run.
        predictions: Predictions on the forget set, one entry a request.

    Returns:
        A whole HTML document; the same input gives the same text.

    Raises:
        ValueError: There are not as many entries of predictions as requests.
    """
    unlearning = results.scenario.get("unlearning")
    recovery = unlearning.get("recovery-rounds", 0) if isinstance(unlearning, dict) else 0
    assert isinstance(recovery, int)
    summary = summarise(results.name, [results])
    columns = columns_with_values(OF_RUN, summary.requests)
    requests = [
        _view(request, measured, shown, recovery, columns, f"r{number}")
        for number, (request, measured, shown) in enumerate(
            zip(results.requests, summary.requests, predictions, strict=True), start=1
        )
    ]
    environment = results.environment.model_dump()
    return render(
        "report.html.j2",
        name=results.name,
        version=results.fedunlearn,
        requests=requests,
        deletions=[
            deletion_view(deletion, f"d{number}")
            for number, deletion in enumerate(results.deletions or (), start=1)
        ],
        columns=columns,
        settings=list(sections(results.scenario)),
        environment=[f"{key} = {toml(value)}" for key, value in environment.items()],
        near=NEAR,
    )


def _view(
    request: RequestResults,
    summary: RequestSummary,
    predictions: ForgetSetPredictions,
    recovery: int,
    columns: Sequence[Column],
    key: str,
) -> _Request:
    methods = request.methods
    colours = plots.colour_names(methods)
    norm = request.trained.gradient_norm
    steps = {name: step for name, entry in methods.items() if (step := _step_details(entry))}
    return _Request(
        key=key,
        heading=f"Forgetting {request.forget.description}",
        lead=unbroken(lead(request)),
        findings=[
            _Finding(name, colours[name], unbroken(finding(request, name, recovery)))
            for name in methods
        ],
        rows=[
            _Row(
                name,
                colours.get(name, ""),
                [cell(column, figures.get(column.key), 1) for column in columns],
            )
            for name, figures in summary.rows()
        ],
        has_recovery=any(entry.before_recovery for entry in methods.values()),
        has_floor=bool(summary.floor),
        endings=[
            _Ending(name, colours[name], entry.claim, CLAIMS.get(entry.claim, ""), entry.status)
            for name, entry in methods.items()
        ],
        gradient_norm=None if norm is None else f"{norm:.4g}",
        panels=_panels(predictions, colours, key),
        examples=_examples(predictions, colours, key),
        curve=_curve(request, steps, colours, recovery, key),
        basis=[name for name in steps if _provisional(methods[name], recovery)],
        recovery=recovery,
        retraining_rounds=formatted("rounds", request.retrained.rounds),
        steps=[
            _step(name, colours[name], step, methods[name].details, f"{key}-step{i}")
            for i, (name, step) in enumerate(steps.items())
        ],
    )


def _panels(
    predictions: ForgetSetPredictions, colours: Mapping[str, str], key: str
) -> list[_Figure]:
    return [
        _Figure(
            name,
            colours[name],
            plots.heat_map(
                means,
                predictions.classes,
                predictions.counts,
                name=predictions.name,
                model=name,
                key=f"{key}-heat{i}",
            ),
        )
        for i, (name, means) in enumerate(predictions.mean_probabilities.items())
    ]


def _examples(
    predictions: ForgetSetPredictions, colours: Mapping[str, str], key: str
) -> list[_Figure]:
    return [
        _Figure(
            predictions.name(example.target),
            "",
            plots.example_bars(
                example, name=predictions.name, colours=colours, key=f"{key}-example{i}"
            ),
        )
        for i, example in enumerate(predictions.examples)
    ]


def _curve(
    request: RequestResults,
    steps: Mapping[str, _StepDetails],
    colours: Mapping[str, str],
    recovery: int,
    key: str,
) -> Markup:
    references = {"trained": request.trained.forget_js, "floor": request.floor.forget_js}
    return plots.forget_curves(
        {
            name: [
                (point.rounds, point.forget_js)
                for point in entry.curve or ()
                if point.forget_js is not None
            ]
            for name, entry in request.methods.items()
        },
        {name: value for name, value in references.items() if value is not None},
        colours=colours,
        provisional={name: _provisional(request.methods[name], recovery) for name in steps},
        key=f"{key}-curve",
    )


def _provisional(entry: MethodResults, recovery: int) -> int:
    """Count the points of a curve, after its first, at which a Krylov space was still growing."""
    return max(0, len(entry.curve or ()) - 2 - recovery)


def _step_details(entry: MethodResults) -> _StepDetails | None:
    """Return what a method reports of its step; None for one that reports no Ritz values."""
    try:
        details = _StepDetails.model_validate(entry.details)
    except ValidationError:
        return None
    return details if details.ritz_values else None


def _step(
    name: str, colour: str, step: _StepDetails, details: Mapping[str, JsonValue], key: str
) -> _Step:
    gains = None
    if step.candidates:
        gains = plots.gain_ratios(step.candidates, step.weight, colour=colour, key=f"{key}-gains")
    validity = details.get("validity")
    known = {**details, **(validity if isinstance(validity, dict) else {})}
    return _Step(
        name=name,
        colour=colour,
        spectrum=plots.spectrum(step.ritz_values, step.damping, colour=colour, key=f"{key}-ritz"),
        gains=gains,
        negative=sum(value < 0.0 for value in step.ritz_values),
        zero=sum(value == 0.0 for value in step.ritz_values),
        facts={
            FACTS.get(fact, fact.replace("_", " ")): f"{value:.4g}"
            for fact, value in sorted(known.items(), key=lambda item: _rank(item[0]))
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )


def _rank(fact: str) -> tuple[int, str]:
    return (list(FACTS).index(fact) if fact in FACTS else len(FACTS), fact)
