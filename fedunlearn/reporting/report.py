"""The report: one HTML file that needs nothing beside it.

Words and figures are made from the numbers of results.json and the table's own formatters; nothing
here decides what is good. How near the floor counts as near is said on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedunlearn.reporting import deletions, plots
from fedunlearn.reporting.columns import COLUMNS, Column
from fedunlearn.reporting.evidence import Evidence
from fedunlearn.reporting.pages import render, sections, toml, unbroken
from fedunlearn.reporting.table import cells, columns_of, recording_cost, rows

Request = Mapping[str, Any]

NEAR = 1.5
CLAIMS = {
    "EMPIRICAL": "measured in this run; no certificate that the influence of the data is gone",
    "EXACT_RETRAIN": "by construction the model that retraining without the data gives",
}
FACTS = {
    "weight": "cubic weight M",
    "damping": "damping",
    "step_norm": "length of the step",
    "gradient_norm": "norm of the gradient the step follows",
    "gradient_norm_at_trained": "norm of the whole gradient at the trained model",
    "predicted": "change of the objective foretold by the cubic model",
    "quadratic": "change foretold by its quadratic part",
    "actual": "change of the objective as nodes measured it",
    "residual": "relative residual of the step",
    "products": "curvature products",
    "share": "share of the data that has left",
    "leverage": "leverage: of the curvature in some direction",
    "inside": "share of the leaver's gradient that was recorded",
    "gain": "gain ratio",
}
_SHOW = {column.key: column.show for column in COLUMNS}


@dataclass(frozen=True)
class _Named:
    """Something that belongs to a model: a sentence, a row, a figure.

    Attributes:
        name: Of the model.
        colour: Its CSS variable.
        content: Text, or the cells of a row.
    """

    name: str
    colour: str
    content: str | Markup | Sequence[str]


@dataclass(frozen=True)
class _Step:
    """The figures of a method that knows its Ritz values."""

    name: str
    colour: str
    spectrum: Markup
    gains: Markup | None
    negative: int
    zero: int
    facts: Mapping[str, str]


def render_report(results: Mapping[str, Any], evidence: Sequence[Evidence]) -> str:
    """Return the report of a run.

    Args:
        results: As in results.json.
        evidence: One entry a request.

    Returns:
        A whole HTML document; the same input gives the same text.

    Raises:
        ValueError: There are not as many entries of evidence as requests.
    """
    recovery = results["scenario"].get("unlearning", {}).get("recovery-rounds", 0)
    columns = columns_of(results["requests"])
    requests = [
        _view(request, shown, recovery, columns, f"r{number}")
        for number, (request, shown) in enumerate(
            zip(results["requests"], evidence, strict=True), start=1
        )
    ]
    return render(
        "report.html.j2",
        name=results["name"],
        version=results["fedunlearn"],
        requests=requests,
        deletions=[
            deletions.view(deletion, f"d{number}")
            for number, deletion in enumerate(results.get("deletions", ()), start=1)
        ],
        columns=columns,
        settings=list(sections(results["scenario"])),
        environment=[f"{key} = {toml(value)}" for key, value in results["environment"].items()],
        near=NEAR,
    )


def _view(
    request: Request, evidence: Evidence, recovery: int, columns: Sequence[Column], key: str
) -> dict[str, Any]:
    """Return what the template shows of one request."""
    methods = request["methods"]
    colours = plots.colour_names(methods)
    norm = request["trained"].get("gradient_norm")
    return {
        "key": key,
        "heading": f"Forgetting {request['forget']['description']}",
        "lead": unbroken(_lead(request)),
        "findings": [
            _Named(name, colours[name], unbroken(_finding(name, request, recovery)))
            for name in methods
        ],
        "rows": [
            _Named(name, colours.get(name, ""), cells(row, columns)) for name, row in rows(request)
        ],
        "has_recovery": any("before_recovery" in entry for entry in methods.values()),
        "has_floor": bool(request["floor"]),
        "methods": [
            _Named(
                name,
                colours[name],
                (entry["claim"], CLAIMS.get(entry["claim"], ""), entry["status"]),
            )
            for name, entry in methods.items()
        ],
        "gradient_norm": None if norm is None else f"{norm:.4g}",
        "panels": [
            _Named(
                name,
                colours[name],
                Markup(
                    plots.heat_map(
                        means,
                        evidence.classes,
                        evidence.counts,
                        name=evidence.name,
                        model=name,
                        key=f"{key}-heat{i}",
                    )
                ),
            )
            for i, (name, means) in enumerate(evidence.mean_probabilities.items())
        ],
        "examples": [
            _Named(
                evidence.name(example.target),
                "",
                Markup(
                    plots.example_bars(
                        example, name=evidence.name, colours=colours, key=f"{key}-example{i}"
                    )
                ),
            )
            for i, example in enumerate(evidence.examples)
        ],
        "curve": _curve(request, colours, recovery, f"{key}-curve"),
        "basis": [name for name, entry in methods.items() if _provisional(entry, recovery)],
        "recovery": recovery,
        "retraining_rounds": _SHOW["rounds"](request["retrained"]["rounds"]),
        "steps": [
            _step(name, colours[name], entry["details"], f"{key}-step{i}")
            for i, (name, entry) in enumerate(methods.items())
            if _ritz(entry)
        ],
    }


def _lead(request: Request) -> str:
    """Say what left, how far it stands from retraining, and what distance means nothing."""
    forget, before = request["forget"], request["trained"]["forget_js"]
    gone = forget["forgotten_examples"]
    total = gone + forget["retained_examples"]
    text = (
        f"{gone} of {total} training examples ({_SHOW['forget_accuracy'](gone / total)} %) leave. "
        f"On them the trained model is {_js(before)} nats (forget JS) from a model retrained "
        "without them. "
    )
    floor = request["floor"].get("forget_js")
    if floor is None:
        return text + (
            "How far apart two such models are by their seeds alone, the floor, was not measured: "
            "only one was retrained."
        )
    text += f"Models retrained from different seeds are {_js(floor)} apart: the floor. "
    if before <= floor:
        text += (
            "So the trained model was within the floor to begin with: by this measure there is "
            "little to remove, and it can hardly tell the methods apart."
        )
    return text


def _finding(name: str, request: Request, recovery: int) -> str:
    """Say what one method did."""
    entry, trained, retrained = request["methods"][name], request["trained"], request["retrained"]
    before, after = trained["forget_js"], entry["forget_js"]
    if not math.isfinite(after):
        return "gave a model whose predictions are not numbers. Do not use it."
    verb = "lowers" if after < before else "leaves" if after == before else "raises"
    change = f"at {_js(after)}" if after == before else f"from {_js(before)} to {_js(after)}"
    text = f"{verb} forget JS {change} in {_SHOW['rounds'](entry['rounds'])} rounds"
    first = entry.get("before_recovery", {}).get("forget_js")
    if first is not None:
        text += f", the last {recovery} of them recovery ({_js(first)} before)"
    rounds = _SHOW["rounds"](retrained["rounds"])
    text += f"; retraining takes {rounds}. {_verdict(before, after, request['floor'])}"
    if "recording" in entry:
        text += f" Recording when training ended took {recording_cost(entry)} more."
    accuracy = [
        _SHOW["retain_accuracy"](model["retain_accuracy"]) for model in (entry, trained, retrained)
    ]
    return text + (
        " Accuracy on what stays is {} %, against {} % before and {} % retrained.".format(*accuracy)
    )


def _verdict(before: float, after: float, floors: Mapping[str, float]) -> str:
    worse = "further from the retrained model than before any removal"
    if "forget_js" not in floors:
        return f"That is {worse}." if after > before else ""
    floor = floors["forget_js"]
    if after <= floor:
        where = "That is within the floor"
        return f"{where}, though {worse}." if after > before else f"{where}."
    times = f"{after / floor:.1f} times the floor" if floor > 0.0 else "above a floor of zero"
    if after > before:
        return f"That is {times} and {worse}."
    return f"That is {times}: {'near it' if after <= NEAR * floor else 'not near it'}."


def _js(value: float) -> str:
    return _SHOW["forget_js"](value)


def _curve(request: Request, colours: Mapping[str, str], recovery: int, key: str) -> Markup:
    methods = request["methods"]
    references = {"trained": request["trained"]["forget_js"]}
    if "forget_js" in request["floor"]:
        references["floor"] = request["floor"]["forget_js"]
    return Markup(
        plots.forget_curves(
            {
                name: [(point["rounds"], point["forget_js"]) for point in entry.get("curve", ())]
                for name, entry in methods.items()
            },
            references,
            colours=colours,
            provisional={name: _provisional(entry, recovery) for name, entry in methods.items()},
            key=key,
        )
    )


def _provisional(entry: Request, recovery: int) -> int:
    """Count the points of a curve, after its first, at which a Krylov space was still growing."""
    return max(0, len(entry.get("curve", ())) - 2 - recovery) if _ritz(entry) else 0


def _ritz(entry: Request) -> Sequence[float]:
    values: Sequence[float] = entry.get("details", {}).get("ritz_values", ())
    return values


def _step(name: str, colour: str, details: dict[str, Any], key: str) -> _Step:
    ritz, candidates = details["ritz_values"], details.get("candidates")
    gains = None
    if candidates:
        svg = plots.gain_ratios(candidates, details["weight"], colour=colour, key=f"{key}-gains")
        gains = Markup(svg)
    damping = details.get("damping")
    return _Step(
        name=name,
        colour=colour,
        spectrum=Markup(plots.spectrum(ritz, damping, colour=colour, key=f"{key}-ritz")),
        gains=gains,
        negative=sum(value < 0.0 for value in ritz),
        zero=sum(value == 0.0 for value in ritz),
        facts={
            FACTS.get(fact, fact.replace("_", " ")): f"{value:.4g}"
            for fact, value in sorted(
                (details | details.get("validity", {})).items(), key=lambda item: _rank(item[0])
            )
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )


def _rank(fact: str) -> tuple[int, str]:
    return (list(FACTS).index(fact) if fact in FACTS else len(FACTS), fact)
