"""The evaluation of models that other code unlearned, against a scenario's own retrained models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedunlearn.errors import InputError
from fedunlearn.lab.comparison import JobResult, run_plans
from fedunlearn.lab.experiment import Experiment, prepared
from fedunlearn.lab.federations import NewFederations
from fedunlearn.lab.foreign_model import ForeignModel, read_foreign_model
from fedunlearn.lab.jobs import Budgets, Job, Retrain, Train, found, replica_of
from fedunlearn.lab.measuring import RETRAINED, TRAINED, Measured, environment_of, measure
from fedunlearn.lab.result_keys import model_key
from fedunlearn.lab.result_store import FolderStore
from fedunlearn.lab.run_plan import RunPlan
from fedunlearn.lab.stages import Replica
from fedunlearn.networks import build_model
from fedunlearn.progress import Progress
from fedunlearn.scenario.loading import LoadedScenario


def evaluate_models(
    models: Mapping[str, Path],
    loaded: LoadedScenario,
    *,
    request: int | None,
    with_methods: bool,
    store: FolderStore,
    processes: int,
    progress: Progress,
) -> Measured:
    """Compare models that other code unlearned with the retrained models of a scenario.

    The models are read and checked before anything is trained.

    Args:
        models: Files of the models, by the names under which they are shown.
        loaded: The scenario.
        request: Number of the request after which the models were unlearned, counted from 1; None
            for the last.
        with_methods: Whether the scenario's own methods run too and are shown beside the models.
        store: See ``compare_scenarios``; what a comparison has trained is not trained again.
        processes: See ``compare_scenarios``.
        progress: See ``compare_scenarios``.

    Returns:
        Results of that request, and predictions.

    Raises:
        InputError: The scenario, the request or a model cannot be used.
        FederationError: A job failed.
    """
    evaluation = loaded.settings.evaluation.model_copy(update={"replicas": 0})
    settings = loaded.settings.model_copy(update={"evaluation": evaluation})
    loaded = replace(loaded, settings=settings)
    experiment = prepared(loaded)
    count = len(experiment.requests)
    if request is not None and not 1 <= request <= count:
        raise InputError(
            f"--request {request}: the scenario has {count} "
            f"{'request' if count == 1 else 'requests'}; give a number from 1 to {count}"
        )
    index = count - 1 if request is None else request - 1
    network = build_model(experiment.task.model)
    taken = {TRAINED, RETRAINED, "floor", *(experiment.methods if with_methods else ())}
    foreign: dict[str, ForeignModel] = {}
    for name, path in models.items():
        if name in taken:
            raise InputError(f"{path}: {name!r} names a row of its own; give --name another one")
        foreign[name] = read_foreign_model(path, network)
    plan: _Oracles | RunPlan = (
        RunPlan(loaded, experiment) if with_methods else _Oracles(loaded, experiment, index)
    )
    run_plans([plan], store=store, processes=processes, progress=progress, label="evaluating")
    budgets = plan.budgets if isinstance(plan, RunPlan) else None
    shown, replica = _one_request(experiment, store, index, budgets)
    oracles = [
        found(store.model(model_key(experiment, seed, experiment.requests[index])))
        for seed in experiment.oracle_seeds
    ]
    return measure(shown, [replica], [oracles], environment_of(NewFederations()), foreign)


class _Oracles:
    """The plan of an evaluation without methods: one trained model and the retrained ones."""

    def __init__(self, loaded: LoadedScenario, experiment: Experiment, index: int) -> None:
        seeds = experiment.oracle_seeds
        self._first: list[Job] = [
            Train(loaded, experiment.scenario.training.seed),
            *(Retrain(loaded, index, seed) for seed in seeds),
        ]
        self.jobs = len(self._first)

    def first(self) -> list[Job]:
        """Return all jobs."""
        return self._first

    def after(self, job: Job, result: JobResult) -> list[Job]:
        """Return no further job."""
        del job, result
        return []


def _one_request(
    experiment: Experiment, store: FolderStore, index: int, budgets: Budgets | None
) -> tuple[Experiment, Replica]:
    """Return the experiment as if it had one request only, and its trained model with outcomes.

    Without budgets no method has run, and the experiment has none.
    """
    seed = experiment.scenario.training.seed
    if budgets is None:
        unlearning = experiment.scenario.unlearning.model_copy(update={"methods": ()})
        scenario = experiment.scenario.model_copy(update={"unlearning": unlearning})
        experiment = replace(experiment, scenario=scenario, methods={})
        replica = Replica(found(store.model(model_key(experiment, seed, None))).weights, {})
    else:
        replica = replica_of(experiment, store, seed, budgets)
        outcomes = {name: (all_of[index],) for name, all_of in replica.outcomes.items()}
        replica = replace(replica, outcomes=outcomes)
    return replace(experiment, requests=(experiment.requests[index],)), replica
