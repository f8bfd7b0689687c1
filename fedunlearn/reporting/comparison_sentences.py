"""The sentences of a comparison's report, made from its numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

from fedunlearn.reporting.comparison_plots import CostAxis, cost_front
from fedunlearn.reporting.seed_summary import (
    IN_FLOORS,
    Figure,
    MethodSummary,
    RequestSummary,
    ScenarioSummary,
)
from fedunlearn.reporting.table import COUNT, cell, described, recording_cost
from fedunlearn.reporting.table_columns import COLUMN_OF


def lead(summary: ScenarioSummary) -> str:
    """Say what was compared, what left, and how far the trained model is from the retrained one."""
    seeds, request = summary.seeds, summary.requests[-1]
    varied = "; ".join(
        f"{key} = {', '.join(map(str, values))}" for key, values in summary.varied.items()
    )
    text = "One seed" if seeds == 1 else f"{seeds} seeds"
    text += f" ({varied}). " if varied else ". "
    if len(summary.requests) > 1:
        text += (
            f"{len(summary.requests)} requests, one after the other; the last is described here. "
        )
    gone, stay = (
        cell(COUNT, request.sizes.get(key), seeds)
        for key in ("forgotten_examples", "retained_examples")
    )
    text += f"What leaves: {described(request)}; {gone} training examples, {stay} stay. "
    js = _formatted("forget_js", request.trained.get("forget_js"), seeds)
    text += f"On the forget set the trained model is {js} nats from a model retrained without it"
    if "forget_js" not in request.floor:
        return f"{text}; the floor was not measured."
    floor = _formatted("forget_js", request.floor["forget_js"], seeds)
    return f"{text}; models retrained from different seeds are {floor} apart: the floor."


def findings(summary: ScenarioSummary) -> Iterator[tuple[str, str]]:
    """Say which method came nearest to the retrained model, and which did harm.

    Yields:
        The name of the method, empty for a finding about several, and the sentence.
    """
    seeds, request = summary.seeds, summary.requests[-1]
    metric = IN_FLOORS if IN_FLOORS in request.trained else "forget_js"
    nearest = _ranked(request, metric)
    if nearest:
        yield nearest[0], _nearest(request, nearest, metric, seeds)
    best = _ranked(request, "tow", descending=True)
    if best:
        tow = _formatted("tow", request.methods[best[0]].figures["tow"], seeds)
        before = _formatted("tow", request.trained.get("tow"), seeds)
        yield best[0], f"has the highest ToW: {tow}, against {before} of the trained model."
    if metric == IN_FLOORS:
        within = [name for name in nearest if _mean(request, name, IN_FLOORS) <= 1.0]
        if len(within) > 1:
            yield "", f"Within the floor on the forget set: {', '.join(within)}."
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


def front_sentence(request: RequestSummary, cost: CostAxis) -> str:
    """Name the methods that no other beats in both forget JS and a cost."""
    front = cost_front(request, cost)
    listed = ", ".join(
        f"{name} ({cost.write(float(f'{_mean(request, name, cost.key):.3g}'))})" for name in front
    )
    if len(front) == 1:
        return f"{listed} is both the cheapest and the nearest."
    return f"On the front, from cheap to near: {listed}."


def statuses(method: MethodSummary, seeds: int) -> str:
    """Say how a method ended, and what recording for it cost."""
    if len(method.statuses) == 1 and seeds > 1:
        text = f"{next(iter(method.statuses))}, on every seed"
    else:
        text = "; ".join(
            f"{status} ({count} of {seeds})" if seeds > 1 else status
            for status, count in method.statuses.items()
        )
    if "recording.rounds" not in method.figures:
        return f"{text}."
    return f"{text}. Recording when training ended took {recording_cost(method.figures)} more."


def _nearest(request: RequestSummary, ranked: list[str], metric: str, seeds: int) -> str:
    first = request.methods[ranked[0]].figures[metric]
    unit = " floors" if metric == IN_FLOORS else " nats"
    text = "ends nearest to the retrained model on the forget set: "
    text += f"{_formatted(metric, first, seeds)}{unit}"
    before = request.trained.get(metric)
    text += (
        f", where the trained model is at {_formatted(metric, before, seeds)}." if before else "."
    )
    if len(ranked) == 1:
        return text
    second = request.methods[ranked[1]].figures[metric]
    text += f" Next is {ranked[1]} with {_formatted(metric, second, seeds)}"
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


def _formatted(metric: str, figure: Figure | None, seeds: int) -> str:
    return cell(COLUMN_OF[metric], figure, seeds)
