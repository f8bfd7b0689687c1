"""Settings of methods by search: the same number of trials for each, on seeds of their own.

Every method states a grid in its file. A trial is one point of it; where a grid has more points
than trials are allowed, they are drawn. A trial's score is the mean, over seeds and requests, of
forget JS plus retain JS: how far the model is from the retrained one, on what left and on what
stays. A method that another package brings without a grid has its settings as they are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedunlearn.lab.comparison import compare_scenarios
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.store import Store
from fedunlearn.progress import Progress
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.unlearning.method import UnlearningMethod


@dataclass(frozen=True)
class Trial:
    """One point of a method's grid.

    Attributes:
        method: As the scenario names it.
        settings: The keys that were tried, with their values.
        scores: One a seed; mean over requests of forget JS plus retain JS, in nats.
    """

    method: str
    settings: Mapping[str, Any]
    scores: tuple[float, ...]

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return sum(self.scores) / len(self.scores)


def tune_methods(
    loaded: LoadedScenario,
    numbers: Sequence[int],
    *,
    trials: int,
    store: Store,
    processes: int,
    progress: Progress,
) -> list[Trial]:
    """Try every method of a scenario at points of its grid.

    Args:
        loaded: The scenario; its first method, as it is, sets the client compute of the others.
        numbers: Of the runs.
        trials: At most so many points a method.
        store: As for ``compare_scenarios``.
        processes: Likewise.
        progress: Likewise.

    Returns:
        All trials, best first within each method, methods in the scenario's order.
    """
    experiment = Experiment.prepare(loaded)
    tables = loaded.settings.unlearning.of_method
    wide: dict[str, dict[str, Any]] = {}
    points: dict[str, tuple[str, dict[str, Any]]] = {}
    first = next(iter(experiment.methods))
    for name, method in experiment.methods.items():
        own = dict(tables.get(name, {}))
        registered = own.pop("method", method.name)
        if name == first:
            wide[name] = {"method": registered, **own}
        for number, point in enumerate(grid_points(method, trials), start=1):
            variant = f"{name} trial {number}"
            wide[variant] = {"method": registered, **own, **point}
            points[variant] = (name, point)
    unlearning = loaded.settings.unlearning.model_copy(
        update={"methods": tuple(wide), "of_method": wide}
    )
    evaluation = loaded.settings.evaluation.model_copy(update={"replicas": 0, "relearn": False})
    settings = loaded.settings.model_copy(
        update={"unlearning": unlearning, "evaluation": evaluation}
    )
    (documents,) = compare_scenarios(
        [replace(loaded, settings=settings)],
        numbers,
        store=store,
        processes=processes,
        progress=progress,
    )
    tried = [
        Trial(name, point, tuple(_score(document, variant) for document in documents))
        for variant, (name, point) in points.items()
    ]
    order = list(experiment.methods)
    return sorted(tried, key=lambda trial: (order.index(trial.method), trial.score))


def grid_points(method: UnlearningMethod[Any], trials: int) -> list[dict[str, Any]]:
    """Return at most so many points of a method's grid; a single empty one where it has none."""
    grid = method.grid
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(points) <= trials:
        return points
    chosen = sorted(random.Random(0).sample(range(len(points)), trials))
    return [points[number] for number in chosen]


def _score(document: Mapping[str, Any], method: str) -> float:
    entries = [request["methods"][method] for request in document["requests"]]
    return float(sum(entry["forget_js"] + entry["retain_js"] for entry in entries) / len(entries))
