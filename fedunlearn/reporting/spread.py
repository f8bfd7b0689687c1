"""Results of several seeds as one: means, and how far the seeds lie apart."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IN_FLOORS = "forget_js_floors"
IN_FLOORS_BY_SEED = "forget_js_floors_by_seed"
BYTES = "bytes"
APART = ("before_recovery", "curve", "details")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A number over seeds.

    Attributes:
        mean: Over the seeds that have it.
        spread: Their sample standard deviation; None for a single one.
        values: Theirs, in the order of the seeds. Where a seed has none (not measured, or not
            finite), these are fewer than the seeds of the comparison.
    """

    mean: float
    spread: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Aggregate what the seeds have, which is at least one value."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, tuple(values))


Figures = Mapping[str, Figure]


@dataclass(frozen=True)
class MethodSummary:
    """What one method did to one request.

    Attributes:
        figures: Metric to its figure; those of "recording" as ``recording.rounds`` and so on.
        before_recovery: Likewise; empty where nothing recovered.
        statuses: Status to the number of seeds that ended in it.
        claims: Those that were made, each once.
    """

    figures: Figures
    before_recovery: Figures
    statuses: Mapping[str, int]
    claims: tuple[str, ...]


@dataclass(frozen=True)
class RequestSummary:
    """One request over all seeds.

    Besides the metrics of results.json every model has ``bytes`` (up and down), and

    - ``forget_js_floors``: forget JS over the mean floor, so its mean is mean(JS) / mean(floor);
    - ``forget_js_floors_by_seed``: forget JS over the floor of the same seed.

    Attributes:
        descriptions: What left, one a seed.
        sizes: ``forgotten_examples`` and ``retained_examples``.
        floor: Empty where one model was retrained.
        trained: Of the trained model.
        methods: In the order of the scenario.
        retrained: Of the retrained model.
    """

    descriptions: tuple[str, ...]
    sizes: Figures
    floor: Figures
    trained: Figures
    methods: Mapping[str, MethodSummary]
    retrained: Figures

    def as_request(self) -> dict[str, Any]:
        """Return the form that requests have in results.json, with figures for numbers."""
        return {
            "floor": self.floor,
            "trained": self.trained,
            "methods": {
                name: {
                    **method.figures,
                    **({"before_recovery": b} if (b := method.before_recovery) else {}),
                }
                for name, method in self.methods.items()
            },
            "retrained": self.retrained,
        }


@dataclass(frozen=True)
class Comparison:
    """A scenario over several seeds.

    Attributes:
        name: Of the scenario.
        seeds: How many documents there were.
        scenario: As the first ran.
        varied: Dotted key to the values it had in turn, for the settings that were not the same.
        environments: Distinct ones, each with the version of fedunlearn.
        requests: In the order in which they came.
    """

    name: str
    seeds: int
    scenario: Mapping[str, Any]
    varied: Mapping[str, tuple[Any, ...]]
    environments: tuple[Mapping[str, Any], ...]
    requests: tuple[RequestSummary, ...]

    def kind(self, name: str) -> str:
        """Return the registered name of a method that may run under a name of its own."""
        table = self.scenario.get("unlearning", {}).get(name, {})
        return str(table.get("method", name))


def summarise(name: str, documents: Sequence[Entry]) -> Comparison:
    """Aggregate a scenario's results over seeds.

    Args:
        name: Of the scenario.
        documents: One a seed, as in results.json.

    Returns:
        The comparison.

    Raises:
        ValueError: There is no document, or they differ in their requests or methods.
    """
    if not documents:
        raise ValueError(f"{name}: there are no results to compare")
    first = documents[0]
    for number, document in enumerate(documents, start=1):
        if len(document["requests"]) != len(first["requests"]):
            raise ValueError(
                f"{name}: {len(document['requests'])} requests in results {number}, "
                f"{len(first['requests'])} in the first"
            )
        for request, wanted in zip(document["requests"], first["requests"], strict=True):
            if set(request["methods"]) != set(wanted["methods"]):
                raise ValueError(
                    f"{name}: results {number} are of {', '.join(request['methods'])}, "
                    f"the first of {', '.join(wanted['methods'])}"
                )
    environments = [
        {"fedunlearn": document["fedunlearn"], **document["environment"]} for document in documents
    ]
    requests = zip(*(document["requests"] for document in documents), strict=True)
    return Comparison(
        name=name,
        seeds=len(documents),
        scenario=first["scenario"],
        varied=_varied([document["scenario"] for document in documents]),
        environments=tuple(e for i, e in enumerate(environments) if e not in environments[:i]),
        requests=tuple(_summarise_request(request) for request in requests),
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison with plain numbers; a spread that does not exist is absent."""
    return {
        "name": comparison.name,
        "seeds": comparison.seeds,
        "scenario": comparison.scenario,
        "varied": {key: list(values) for key, values in comparison.varied.items()},
        "environments": list(comparison.environments),
        "requests": [_request_as_json(request) for request in comparison.requests],
    }


def _request_as_json(request: RequestSummary) -> dict[str, Any]:
    numbers = _plain(request.as_request())
    for name, method in request.methods.items():
        numbers["methods"][name] |= {
            "statuses": dict(method.statuses),
            "claims": list(method.claims),
        }
    return {
        "forget": {"descriptions": list(request.descriptions), **_plain(request.sizes)},
        **numbers,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        spread = {} if value.spread is None else {"spread": value.spread}
        return {"mean": value.mean, **spread, "values": list(value.values)}
    return {key: _plain(inner) for key, inner in value.items()}


def _summarise_request(requests: Sequence[Entry]) -> RequestSummary:
    floors = [request["floor"].get("forget_js") for request in requests]

    def aggregate(entries: Sequence[Entry]) -> dict[str, Figure]:
        return _aggregate([dict(_leaves(entry)) for entry in entries], floors)

    methods: dict[str, MethodSummary] = {}
    for name in requests[0]["methods"]:
        entries = [request["methods"][name] for request in requests]
        methods[name] = MethodSummary(
            figures=aggregate(entries),
            before_recovery=aggregate([entry.get("before_recovery", {}) for entry in entries]),
            statuses=Counter(entry["status"] for entry in entries),
            claims=tuple(dict.fromkeys(entry["claim"] for entry in entries)),
        )
    sizes = [dict(_leaves(request["forget"])) for request in requests]
    return RequestSummary(
        descriptions=tuple(request["forget"]["description"] for request in requests),
        sizes={
            key: figure
            for key, figure in _aggregate(sizes, floors).items()
            if key.endswith("_examples")
        },
        floor=aggregate([request["floor"] for request in requests]),
        trained=aggregate([request["trained"] for request in requests]),
        methods=methods,
        retrained=aggregate([request["retrained"] for request in requests]),
    )


def _aggregate(
    entries: Sequence[dict[str, float]], floors: Sequence[float | None]
) -> dict[str, Figure]:
    """Aggregate one model's numbers, and add those that follow from them."""
    pairs = [
        (entry["forget_js"], floor)
        for entry, floor in zip(entries, floors, strict=True)
        if floor is not None and math.isfinite(floor) and "forget_js" in entry
    ]
    mean_floor = statistics.fmean(floor for _, floor in pairs) if pairs else 0.0
    derived = {
        IN_FLOORS: [js / mean_floor for js, _ in pairs] if mean_floor > 0.0 else [],
        IN_FLOORS_BY_SEED: [js / floor for js, floor in pairs if floor > 0.0],
        BYTES: [
            entry["bytes_up"] + entry["bytes_down"]
            for entry in entries
            if {"bytes_up", "bytes_down"} <= entry.keys()
        ],
    }
    keys = dict.fromkeys(key for entry in entries for key in entry)
    measured = {key: [entry[key] for entry in entries if key in entry] for key in keys}
    return {key: Figure.of(values) for key, values in (measured | derived).items() if values}


def _leaves(entry: Entry, above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if key in APART:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                yield f"{above}{key}", float(value)


def _varied(scenarios: Sequence[Entry]) -> dict[str, tuple[Any, ...]]:
    flat = [dict(_settings(scenario)) for scenario in scenarios]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    values = {key: tuple(settings.get(key) for settings in flat) for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _settings(tables: Entry, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
