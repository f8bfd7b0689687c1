"""An estimate of the time that a board takes, from one measured round of each scenario."""

from __future__ import annotations

import time

from fedunlearn.federation.training import TrainingPlan
from fedunlearn.lab.board import Board, ScenarioWork
from fedunlearn.lab.experiment import prepared
from fedunlearn.lab.federations import NewFederations
from fedunlearn.parameters import initial_weights

# Client compute of a removal, about, in gradient equivalents: that of the default of cubic-newton.
REMOVAL = 25.0


def estimate_seconds(board: Board, processes: int) -> dict[str, float]:
    """Return the wall time of each scenario, about, if nothing of it is stored.

    Args:
        board: The board.
        processes: Number of jobs that run at once.
    """
    return {one.loaded.name: _seconds(one) / processes for one in board.work}


def _seconds(work: ScenarioWork) -> float:
    experiment = prepared(work.loaded)
    settings = experiment.scenario.training
    plan = TrainingPlan(settings, 1, seed=settings.seed)
    start = initial_weights(experiment.task.model, settings.seed)
    began = time.perf_counter()
    NewFederations().run(
        work.loaded, lambda federation: federation.train(start, plan, label="measuring")
    )
    a_round = time.perf_counter() - began
    return a_round * (
        work.trainings * settings.rounds + work.removals * REMOVAL / settings.local_epochs
    )
