"""A scenario's federation as an operator knows it."""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.removal import train
from fedunlearn.operator.site import Site


def site_of(experiment: Experiment) -> Site:
    """Return the site of a scenario: its first method removes, its training makes the first model.

    Args:
        experiment: Data, model, training, methods.

    Returns:
        The site.
    """
    split = experiment.task.split
    name, method = next(iter(experiment.methods.items()))

    def train_first(federation: Federation, record: Sequence[Recordable]) -> TrainedModel:
        return train(experiment, federation, record, experiment.scenario.training.seed)

    return Site(
        nodes=split.node_names,
        labels=split.labels,
        model=experiment.task.model,
        name=name,
        method=method,
        recovery_rounds=experiment.scenario.unlearning.recovery_rounds,
        train=train_first,
    )
