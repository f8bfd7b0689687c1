"""Search for the settings of methods: the same number of trials for each, on seeds of their own.

Every method defines a grid in its file, with its defaults among the points. A trial is one point of
it; where a grid has more points than trials are allowed, trials are drawn, the defaults always. A
trial's score is the mean, over seeds and requests, of forget JS plus retain JS: the distance from
the retrained model on the forget set and on the retain set. A method without a grid has a single
trial with its settings in the scenario.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedunlearn.lab.comparison import compare_scenarios
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.progress import Progress
from fedunlearn.reporting.results import Results
from fedunlearn.reporting.tuning_results import Trial
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.unlearning.method import UnlearningMethod


def tune_methods(
    loaded: LoadedScenario,
    numbers: Sequence[int],
    *,
    trials: int,
    store: FolderStore,
    processes: int,
    progress: Progress,
) -> list[Trial]:
    """Try every method of a scenario at points of its grid.

    Args:
        loaded: The scenario; its first method, with its settings there, sets the client compute of
            the others.
        numbers: Numbers of the runs, see ``with_seed``.
        trials: The largest number of points of a method.
        store: See ``compare_scenarios``.
        processes: See ``compare_scenarios``.
        progress: See ``compare_scenarios``.

    Returns:
        All trials, best first within each method, methods in the scenario's order.
    """
    experiment = Experiment.prepare(loaded)
    tables = loaded.settings.unlearning.of_method
    wide: dict[str, dict[str, object]] = {}
    points: dict[str, tuple[str, dict[str, object]]] = {}
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
    (runs,) = compare_scenarios(
        [replace(loaded, settings=settings)],
        numbers,
        store=store,
        processes=processes,
        progress=progress,
    )
    tried = []
    for variant, (name, point) in points.items():
        scores = tuple(_score(results, variant) for results in runs)
        known = [score for score in scores if score is not None]
        score = sum(known) / len(scores) if len(known) == len(scores) else None
        tried.append(
            Trial.model_validate(
                {"method": name, "settings": point, "score": score, "scores": scores}
            )
        )
    order = list(experiment.methods)
    return sorted(
        tried,
        key=lambda trial: (
            order.index(trial.method),
            math.inf if trial.score is None else trial.score,
        ),
    )


def grid_points(method: UnlearningMethod[Any], trials: int) -> list[dict[str, object]]:
    """Return at most ``trials`` points of a method's grid; one empty point without a grid.

    The defaults are always among them, where they are a point of the grid.
    """
    grid = method.grid
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(points) <= trials:
        return points
    defaults = type(method)().settings.model_dump(by_alias=True)
    own = {key: defaults[key] for key in grid}
    held = [number for number, point in enumerate(points) if point == own]
    others = [number for number in range(len(points)) if number not in held]
    chosen = random.Random(0).sample(others, trials - len(held))
    return [points[number] for number in sorted(held + chosen)]


def _score(results: Results, method: str) -> float | None:
    """Return the mean over requests; None where the model's predictions are not numbers."""
    distances = []
    for request in results.requests:
        entry = request.methods[method]
        if entry.forget_js is None or entry.retain_js is None:
            return None
        distances.append(entry.forget_js + entry.retain_js)
    return sum(distances) / len(distances)
