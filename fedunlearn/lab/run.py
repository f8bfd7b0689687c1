"""One run of one scenario in one federation: the jobs of its plan, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.federations import OpenFederation
from fedunlearn.lab.jobs import replica_of
from fedunlearn.lab.measuring import Measured
from fedunlearn.lab.result_keys import model_key
from fedunlearn.lab.result_store import MemoryStore
from fedunlearn.lab.run_plan import RunPlan
from fedunlearn.lab.saved_models import save_models
from fedunlearn.lab.stages import RequestOutcome
from fedunlearn.named_errors import errors_by_name
from fedunlearn.progress import Progress
from fedunlearn.scenario.loading import LoadedScenario


@dataclass(frozen=True, eq=False)
class Run:
    """A run whose federation is still open.

    Attributes:
        measured: Results and predictions.
        trained: The scenario's own model with its recordings, before any request.
        outcomes: The outcomes of the first method on that model, one for each request.
        models: Weights (d,) by name: ``initial``, ``trained``, ``retrained`` and the methods', the
            last two after the last request.
    """

    measured: Measured
    trained: TrainedModel
    outcomes: tuple[RequestOutcome, ...]
    models: Mapping[str, Tensor]


def run_scenario(
    loaded: LoadedScenario,
    *,
    transport: TransportName,
    progress: Progress,
    save_to: Path | None = None,
) -> Measured:
    """Run a scenario: train, unlearn by every method, retrain, measure.

    Everything that can be checked is checked before the first round.

    Args:
        loaded: The scenario.
        transport: ``inline`` or ``flower``.
        progress: Receives the progress of training, rounds and retraining.
        save_to: Folder for the models and the data, for other code; None for none.

    Returns:
        Results and predictions.

    Raises:
        InputError: The scenario cannot be run.
        FederationError: A round could not be completed.
    """
    experiment = Experiment.prepare(loaded)
    names = experiment.task.split.node_names
    with errors_by_name(names):
        run = simulate(
            experiment.task,
            len(names),
            lambda federation: run_in(loaded, experiment, federation, transport),
            transport=transport,
            progress=progress,
        )
    if save_to is not None:
        save_models(experiment, run.models, save_to)
    return run.measured


def run_in(
    loaded: LoadedScenario,
    experiment: Experiment,
    federation: Federation,
    transport: str,
) -> Run:
    """Run a scenario in a federation that is open.

    Args:
        loaded: The scenario.
        experiment: The same scenario, prepared.
        federation: The nodes.
        transport: Name of what carries the rounds, for the results.

    Returns:
        Results, and the model that they began with.
    """
    store, plan = MemoryStore(), RunPlan(loaded, experiment)
    federations = OpenFederation(experiment, federation, transport)
    # The last first: the methods follow on training, while its recordings are held.
    jobs = plan.first()[::-1]
    while jobs:
        job = jobs.pop()
        jobs += plan.after(job, job.run(store, federations))[::-1]
    seed = experiment.scenario.training.seed
    trained = store.recorded(model_key(experiment, seed, None))
    assert trained is not None and plan.measured is not None  # all jobs are done
    replica = replica_of(experiment, store, seed, plan.budgets)
    oracle = store.model(model_key(experiment, seed, experiment.requests[-1]))
    assert oracle is not None
    models = {
        "initial": trained.start,
        "trained": trained.weights,
        "retrained": oracle.weights,
        **{name: outcomes[-1].weights for name, outcomes in replica.outcomes.items()},
    }
    return Run(plan.measured, trained, next(iter(replica.outcomes.values())), models)
