"""The schema of comparison.json: results of several seeds as means with their spread."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from fedunlearn.errors import InputError
from fedunlearn.reporting.documents import Document, JsonObject, Sparse, Versioned
from fedunlearn.reporting.results import Environment, MethodResults, RequestResults, Results

IN_FLOORS = "forget_js_floors"
IN_FLOORS_BY_SEED = "forget_js_floors_by_seed"
BYTES = "bytes"


class Figure(Sparse):
    """A number over seeds.

    Attributes:
        mean: Mean over the seeds that have the number.
        spread: Their sample standard deviation; None for a single seed.
        values: The values in the order of the seeds. Where a seed has none (not measured, or not
            finite), there are fewer values than seeds.
    """

    mean: float
    spread: float | None = None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Aggregate the values of the seeds, of which there is at least one."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), spread=spread, values=tuple(values))


Figures = Mapping[str, Figure]


class MethodSummary(Document):
    """One method on one request, over all seeds.

    Attributes:
        figures: Metrics and costs by key; those of the recording as ``recording.rounds`` and so on.
        before_recovery: The metrics before recovery rounds; empty where there were none.
        statuses: Number of seeds that ended with each status.
        claims: The claims that were made, each once.
    """

    figures: dict[str, Figure]
    before_recovery: dict[str, Figure]
    statuses: dict[str, int]
    claims: tuple[str, ...]


class RequestSummary(Document):
    """One request over all seeds.

    Besides the metrics of results.json every model has ``bytes`` (up and down), and

    - ``forget_js_floors``: forget JS over the mean floor, so its mean is mean(JS) / mean(floor);
    - ``forget_js_floors_by_seed``: forget JS over the floor of the same seed.

    Attributes:
        descriptions: The forget set in words, one text a seed.
        sizes: ``forgotten_examples`` and ``retained_examples``.
        floor: The floor; empty where only one model was retrained.
        trained: The trained model.
        methods: The methods in the order of the scenario.
        retrained: The retrained model.
    """

    descriptions: tuple[str, ...]
    sizes: dict[str, Figure]
    floor: dict[str, Figure]
    trained: dict[str, Figure]
    methods: dict[str, MethodSummary]
    retrained: dict[str, Figure]

    def rows(self) -> list[tuple[str, Figures]]:
        """Return name and figures of every row of a table, in reading order."""
        listed: list[tuple[str, Figures]] = [("trained", self.trained)]
        for name, method in self.methods.items():
            if method.before_recovery:
                listed.append((f"{name}, before recovery", method.before_recovery))
            listed.append((name, method.figures))
        listed.append(("retrained", self.retrained))
        return [*listed, ("floor", self.floor)] if self.floor else listed


class SeedEnvironment(Document):
    """The software and hardware of one or more seeds.

    Attributes:
        fedunlearn: Version of the package.
        environment: The rest.
    """

    fedunlearn: str
    environment: Environment

    def facts(self) -> dict[str, object]:
        """Return everything in one mapping."""
        return {"fedunlearn": self.fedunlearn, **self.environment.model_dump()}


class ScenarioSummary(Document):
    """A scenario over several seeds.

    Attributes:
        name: Name of the scenario.
        seeds: Number of results.
        scenario: The settings of the first seed.
        varied: The settings that differ between seeds: dotted key to the value of each seed.
        environments: The distinct environments.
        requests: The requests in the order in which they were made.
    """

    name: str
    seeds: int
    scenario: JsonObject
    varied: dict[str, tuple[JsonValue, ...]]
    environments: tuple[SeedEnvironment, ...]
    requests: tuple[RequestSummary, ...]

    def registered_name(self, name: str) -> str:
        """Return the registered name of a method, which may have another one in the scenario."""
        unlearning = self.scenario.get("unlearning")
        table = unlearning.get(name) if isinstance(unlearning, dict) else None
        registered = table.get("method", name) if isinstance(table, dict) else name
        return str(registered)


class Comparison(Versioned):
    """comparison.json: one or more scenarios over their seeds.

    Attributes:
        schema_version: Version of this schema.
        scenarios: The scenarios in the order in which they are shown.
    """

    version: ClassVar[int] = 1
    what: ClassVar[str] = "comparison"

    schema_version: Literal[1] = Field(1, alias="schema")
    scenarios: tuple[ScenarioSummary, ...]


def summarise(name: str, runs: Sequence[Results]) -> ScenarioSummary:
    """Aggregate a scenario's results over seeds.

    Args:
        name: Name of the scenario.
        runs: The results of each seed.

    Returns:
        The summary.

    Raises:
        InputError: There are no results, or they differ in their requests or methods.
    """
    if not runs:
        raise InputError(f"{name}: there are no results to compare")
    first = runs[0]
    for number, run in enumerate(runs, start=1):
        if len(run.requests) != len(first.requests):
            raise InputError(
                f"{name}: {len(run.requests)} requests in results {number}, "
                f"{len(first.requests)} in the first"
            )
        for request, wanted in zip(run.requests, first.requests, strict=True):
            if set(request.methods) != set(wanted.methods):
                raise InputError(
                    f"{name}: results {number} are of {', '.join(request.methods)}, "
                    f"the first of {', '.join(wanted.methods)}"
                )
    environments = [
        SeedEnvironment(fedunlearn=run.fedunlearn, environment=run.environment) for run in runs
    ]
    requests = zip(*(run.requests for run in runs), strict=True)
    return ScenarioSummary(
        name=name,
        seeds=len(runs),
        scenario=first.scenario,
        varied=_varied([run.scenario for run in runs]),
        environments=tuple(e for i, e in enumerate(environments) if e not in environments[:i]),
        requests=tuple(_summarise_request(request) for request in requests),
    )


def _summarise_request(requests: Sequence[RequestResults]) -> RequestSummary:
    floors = [request.floor.forget_js for request in requests]

    def aggregate(entries: Sequence[Sparse | None]) -> dict[str, Figure]:
        return _aggregate([entry.numbers() if entry else {} for entry in entries], floors)

    methods: dict[str, MethodSummary] = {}
    for name in requests[0].methods:
        entries = [request.methods[name] for request in requests]
        methods[name] = MethodSummary(
            figures=_aggregate([_with_recording(entry) for entry in entries], floors),
            before_recovery=aggregate([entry.before_recovery for entry in entries]),
            statuses=dict(Counter(entry.status for entry in entries)),
            claims=tuple(dict.fromkeys(entry.claim for entry in entries)),
        )
    return RequestSummary(
        descriptions=tuple(request.forget.description for request in requests),
        sizes={
            key: Figure.of([float(getattr(request.forget, key)) for request in requests])
            for key in ("forgotten_examples", "retained_examples")
        },
        floor=aggregate([request.floor for request in requests]),
        trained=aggregate([request.trained for request in requests]),
        methods=methods,
        retrained=aggregate([request.retrained for request in requests]),
    )


def _with_recording(entry: MethodResults) -> dict[str, float]:
    recording = entry.recording.numbers() if entry.recording else {}
    return entry.numbers() | {f"recording.{key}": value for key, value in recording.items()}


def _aggregate(
    entries: Sequence[Mapping[str, float]], floors: Sequence[float | None]
) -> dict[str, Figure]:
    pairs = [
        (entry["forget_js"], floor)
        for entry, floor in zip(entries, floors, strict=True)
        if floor is not None and "forget_js" in entry
    ]
    mean_floor = statistics.fmean(floor for _, floor in pairs) if pairs else 0.0
    derived = {
        IN_FLOORS: [js / mean_floor for js, _ in pairs] if mean_floor > 0.0 else [],
        IN_FLOORS_BY_SEED: [js / floor for js, floor in pairs if floor > 0.0],
        BYTES: [
            entry["bytes_up"] + entry["bytes_down"] for entry in entries if "bytes_up" in entry
        ],
    }
    keys = dict.fromkeys(key for entry in entries for key in entry)
    measured = {key: [entry[key] for entry in entries if key in entry] for key in keys}
    return {key: Figure.of(values) for key, values in (measured | derived).items() if values}


def _varied(scenarios: Sequence[JsonObject]) -> dict[str, tuple[JsonValue, ...]]:
    flat = [dict(_settings(scenario)) for scenario in scenarios]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    values = {key: tuple(settings.get(key) for settings in flat) for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _settings(tables: JsonObject, above: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
