"""One scenario, start to end: train, forget, retrain, compare."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.measuring import Measuring
from fedunlearn.lab.removal import (
    Removal,
    Replica,
    Retrained,
    remove,
    remove_by_all,
    retrain,
    train,
)
from fedunlearn.named_errors import errors_by_name
from fedunlearn.progress import Progress
from fedunlearn.reporting.evidence import Evidence
from fedunlearn.scenario.loading import LoadedScenario


@dataclass(frozen=True)
class Outcome:
    """What a scenario gave.

    Attributes:
        results: As in results.json.
        evidence: Predictions for the report, one entry a request.
    """

    results: dict[str, Any]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, eq=False)
class Ran:
    """What a scenario left in a federation.

    Attributes:
        requests: Their entries of results.json.
        evidence: For the report, one entry a request.
        trained: The scenario's own model, before any request.
        removals: What every method made of it, one entry a request.
    """

    requests: list[dict[str, Any]]
    evidence: list[Evidence]
    trained: TrainedModel
    removals: Mapping[str, tuple[Removal, ...]]


def run_scenario(
    loaded: LoadedScenario, *, transport: TransportName, progress: Progress
) -> Outcome:
    """Run a scenario.

    Everything that can be checked is checked before the first round.

    Args:
        loaded: The scenario.
        transport: ``inline`` or ``flower``.
        progress: Hears of training, rounds and oracles.

    Returns:
        Results and evidence.

    Raises:
        InputError: The scenario cannot be run.
        FederationError: A round could not be completed.
    """
    experiment = Experiment.prepare(loaded)
    with errors_by_name(experiment.task.split.node_names):
        ran = simulate(
            experiment.task,
            len(experiment.task.split.nodes),
            lambda federation: run_in(experiment, federation),
            transport=transport,
            progress=progress,
        )
    return Outcome(document(experiment, ran.requests, transport), tuple(ran.evidence))


def document(
    experiment: Experiment, requests: list[dict[str, Any]], transport: str
) -> dict[str, Any]:
    """Return results.json; ``transport`` says what carried the rounds."""
    return {
        "fedunlearn": version("fedunlearn"),
        "name": experiment.name,
        "scenario": experiment.as_run(),
        "names": experiment.names(),
        "environment": _environment(transport),
        "requests": requests,
    }


def run_in(experiment: Experiment, federation: Federation) -> Ran:
    """Run an experiment in a federation that is open.

    Args:
        experiment: What to do.
        federation: The nodes.

    Returns:
        Results, and the model that they began with.
    """
    trained, replicas = _replicas(experiment, federation)
    measuring = Measuring(experiment)
    results: list[dict[str, Any]] = []
    evidence: list[Evidence] = []
    for index in range(len(experiment.requests)):
        oracles = _oracles(experiment, federation, index)
        result, shown = measuring.request(index, replicas, oracles)
        results.append(result)
        evidence.append(shown)
    return Ran(results, evidence, trained, replicas[0].removals)


def _replicas(experiment: Experiment, federation: Federation) -> tuple[TrainedModel, list[Replica]]:
    """Return the scenario's own model, and what every method made of it and of the further ones."""
    models: list[TrainedModel] = []
    replicas: list[Replica] = []
    budgets: list[float] | None = None
    for seed in experiment.replica_seeds:
        trained = train(experiment, federation, experiment.to_record(), seed)
        unlearn = partial(remove, experiment, federation, trained)
        removals = remove_by_all(list(experiment.methods), unlearn, budgets)
        if budgets is None:
            budgets = [removal.compute for removal in next(iter(removals.values()))]
        models.append(trained)
        replicas.append(Replica(trained.weights, removals))
        del models[1:]  # of the others nobody asks but for what was made of them
    return models[0], replicas


def _oracles(experiment: Experiment, federation: Federation, index: int) -> list[Retrained]:
    seeds = experiment.oracle_seeds
    return [
        retrain(experiment, federation, index, seed, f"retraining oracle {n} of {len(seeds)}")
        for n, seed in enumerate(seeds, start=1)
    ]


def _environment(transport: str) -> dict[str, Any]:
    return {
        "transport": transport,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "flwr": version("flwr"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
