"""One run of one scenario in one federation: the jobs of its plan, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    measured: Measured
    trained: TrainedModel
    outcomes: tuple[RequestOutcome, ...]


def run_scenario(
    loaded: LoadedScenario, *, transport: TransportName, progress: Progress
) -> Measured:
    """Run a scenario: train, unlearn by every method, retrain, measure.

    Everything that can be checked is checked before the first round.

    Args:
        loaded: The scenario.
        transport: ``inline`` or ``flower``.
        progress: Receives the progress of training, rounds and retraining.

    Returns:
        Results and predictions.

    Raises:
        InputError: The scenario cannot be run.
        FederationError: A round could not be completed.
    """
    experiment = Experiment.prepare(loaded)
    names = experiment.task.split.node_names
    with errors_by_name(names):
        return simulate(
            experiment.task,
            len(names),
            lambda federation: run_in(loaded, experiment, federation, transport).measured,
            transport=transport,
            progress=progress,
        )


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
    return Run(plan.measured, trained, next(iter(replica.outcomes.values())))
