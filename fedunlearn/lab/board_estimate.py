"""An estimate of the time that a board takes, from a few measured steps of each scenario."""

from __future__ import annotations

import time

from fedunlearn.lab.board import ScenarioWork
from fedunlearn.lab.experiment import prepared
from fedunlearn.networks import build_model
from fedunlearn.parameters import flatten
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.local_training import train_locally

# Client compute of a removal, about, in gradient equivalents: that of the default of cubic-newton.
REMOVAL = 25.0
STEPS = 4


def estimate_seconds(work: ScenarioWork, processes: int) -> float:
    """Return the wall time of the work on a scenario, about, if nothing of it is stored.

    Args:
        work: The work.
        processes: Number of jobs that run at once.
    """
    experiment = prepared(work.loaded)
    settings, split = experiment.scenario.training, experiment.task.split
    gradients = work.trainings * settings.rounds * settings.local_epochs + work.removals * REMOVAL
    return _seconds_an_example(work) * len(split.targets) * gradients / processes


def _seconds_an_example(work: ScenarioWork) -> float:
    """Return the time of a training step over its examples, without that of the first step."""
    experiment = prepared(work.loaded)
    settings, split = experiment.scenario.training, experiment.task.split
    model = build_model(experiment.task.model)
    first = min(settings.batch_size, len(split.targets))
    plan = LocalPlan(1, settings.batch_size, settings.learning_rate, settings.weight_decay, (0,))
    for count in (first, min(STEPS * first, len(split.targets))):
        examples = split.inputs[:count], split.targets[:count]
        began = time.perf_counter()
        train_locally(model, experiment.task.loss, examples, flatten(model), plan)
        took = (time.perf_counter() - began) / count
    return took
