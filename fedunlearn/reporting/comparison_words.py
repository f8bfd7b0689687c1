"""What is said about a comparison: sentences made from its numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from fedunlearn.reporting.columns import COLUMNS, Column
from fedunlearn.reporting.comparison_plots import Cost, cost_front
from fedunlearn.reporting.comparison_table import FLOORS, described, one_line
from fedunlearn.reporting.spread import (
    IN_FLOORS,
    Comparison,
    Figure,
    MethodSummary,
    RequestSummary,
)
from fedunlearn.reporting.table import recording_cost

COUNT = Column("examples", "", "", "{:.0f}".format)
_COLUMN = {column.key: column for column in (*COLUMNS, FLOORS)}


def lead(comparison: Comparison) -> str:
    """Say what was compared, what left, and how far apart models are to begin with."""
    seeds, request = comparison.seeds, comparison.requests[-1]
    varied = "; ".join(
        f"{key} = {', '.join(map(str, values))}" for key, values in comparison.varied.items()
    )
    text = "One seed" if seeds == 1 else f"{seeds} seeds"
    text += f" ({varied}). " if varied else ". "
    if len(comparison.requests) > 1:
        text += f"{len(comparison.requests)} requests, one after the other; said here of the last. "
    gone, stay = (
        one_line(COUNT, request.sizes.get(key), seeds)
        for key in ("forgotten_examples", "retained_examples")
    )
    text += f"What leaves: {described(request)}; {gone} training examples, {stay} stay. "
    js = _said("forget_js", request.trained.get("forget_js"), seeds)
    text += f"On what left the trained model is {js} nats from a model retrained without it"
    if "forget_js" not in request.floor:
        return f"{text}; the floor was not measured."
    floor = _said("forget_js", request.floor["forget_js"], seeds)
    return f"{text}; models retrained from different seeds are {floor} apart: the floor."


def findings(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Say which method came nearest, and which harmed.

    Yields:
        Name of the method, or nothing for a finding about several, and the sentence.
    """
    seeds, request = comparison.seeds, comparison.requests[-1]
    metric = IN_FLOORS if IN_FLOORS in request.trained else "forget_js"
    nearest = _ranked(request, metric)
    if nearest:
        yield nearest[0], _nearest(request, nearest, metric, seeds)
    best = _ranked(request, "tow", descending=True)
    if best:
        tow = _said("tow", request.methods[best[0]].figures["tow"], seeds)
        before = _said("tow", request.trained.get("tow"), seeds)
        yield best[0], f"has the highest ToW: {tow}, against {before} of the trained model."
    if metric == IN_FLOORS:
        within = [name for name in nearest if _mean(request, name, IN_FLOORS) <= 1.0]
        if len(within) > 1:
            yield "", f"Within the floor on what left: {', '.join(within)}."
    if "forget_js" in request.trained:
        before_js = request.trained["forget_js"].mean
        worse = [name for name in nearest if _mean(request, name, "forget_js") > before_js]
        if worse:
            listed = ", ".join(worse)
            yield "", f"Further from the retrained model than before any removal: {listed}."
    partial = [
        f"{name} ({_measured(method)})"
        for name, method in request.methods.items()
        if _measured(method) < seeds
    ]
    if partial:
        listed = ", ".join(partial)
        yield "", f"Forget JS was not measured, or is no number, on all {seeds} seeds: {listed}."


def front_said(request: RequestSummary, cost: Cost) -> str:
    """Say which methods no other beats in both forget JS and a cost."""
    front = cost_front(request, cost)
    listed = ", ".join(
        f"{name} ({cost.write(float(f'{_mean(request, name, cost.key):.3g}'))})" for name in front
    )
    if len(front) == 1:
        return f"{listed} is cheapest and nearest at once."
    return f"On the front, from cheap to near: {listed}."


def statuses(method: MethodSummary, seeds: int) -> str:
    """Say how a method ended, and what recording for it took."""
    if len(method.statuses) == 1 and seeds > 1:
        text = f"{next(iter(method.statuses))}, on every seed"
    else:
        text = "; ".join(
            f"{status} ({count} of {seeds})" if seeds > 1 else status
            for status, count in method.statuses.items()
        )
    spent = {
        key.removeprefix("recording."): figure.mean
        for key, figure in method.figures.items()
        if key.startswith("recording.")
    }
    if not spent:
        return f"{text}."
    return (
        f"{text}. Recording when training ended took {recording_cost({'recording': spent})} more."
    )


def _nearest(request: RequestSummary, ranked: list[str], metric: str, seeds: int) -> str:
    first = request.methods[ranked[0]].figures[metric]
    unit = " floors" if metric == IN_FLOORS else " nats"
    text = f"ends nearest to the retrained model on what left: {_said(metric, first, seeds)}{unit}"
    before = request.trained.get(metric)
    text += f", where the trained model is at {_said(metric, before, seeds)}." if before else "."
    if len(ranked) == 1:
        return text
    second = request.methods[ranked[1]].figures[metric]
    text += f" Next is {ranked[1]} with {_said(metric, second, seeds)}"
    if len(first.values) == len(second.values) == seeds > 1:
        ahead = sum(a < b for a, b in zip(first.values, second.values, strict=True))
        return f"{text}, which is further away on {ahead} of {seeds} seeds."
    return f"{text}."


def _ranked(request: RequestSummary, metric: str, *, descending: bool = False) -> list[str]:
    having = [name for name, method in request.methods.items() if metric in method.figures]
    return sorted(having, key=lambda name: _mean(request, name, metric), reverse=descending)


def _mean(request: RequestSummary, name: str, metric: str) -> float:
    return request.methods[name].figures[metric].mean


def _measured(method: MethodSummary) -> int:
    return len(method.figures["forget_js"].values) if "forget_js" in method.figures else 0


def _said(metric: str, figure: Figure | None, seeds: int) -> str:
    return one_line(_COLUMN[metric], figure, seeds)
