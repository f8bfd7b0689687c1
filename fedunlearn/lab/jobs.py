"""The jobs of a run: each is small enough to be done, stored and resumed by itself.

A job travels to a worker process as a scenario and a few numbers. What it computes goes into the
store, which the jobs after it read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch

from fedunlearn.errors import FederationError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import (
    Recordable,
    TrainedModel,
    TrainingObserver,
    WeightsObserver,
)
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.federations import Federations
from fedunlearn.lab.measuring import Measured, environment_of, measure
from fedunlearn.lab.result_keys import model_key, outcomes_key, results_key
from fedunlearn.lab.result_store import ResultStore
from fedunlearn.lab.stages import (
    FittedModel,
    Replica,
    RequestOutcome,
    retrain,
    train,
    unlearn_requests,
)
from fedunlearn.parameters import initial_weights
from fedunlearn.scenario.loading import LoadedScenario

T = TypeVar("T")
Budgets = tuple[float, ...]


@dataclass(frozen=True)
class Job(ABC):
    """One piece of work on one scenario.

    Attributes:
        loaded: The scenario, with the seeds of the run.
    """

    loaded: LoadedScenario

    @abstractmethod
    def run(self, store: ResultStore, federations: Federations) -> Budgets | Measured | None:
        """Do the work, unless the store has its result, and return what the next jobs need."""


@dataclass(frozen=True)
class Train(Job):
    """Trains the model that is to forget.

    Attributes:
        seed: Seed of initialisation and order.
    """

    seed: int

    def run(self, store: ResultStore, federations: Federations) -> None:
        """See Job."""
        experiment = federations.experiment(self.loaded)
        key = model_key(experiment, self.seed, None)
        if store.model(key) is not None:
            return
        record = experiment.to_record() if store.holds_recordings else ()

        def body(federation: Federation) -> None:
            with federation.measure() as meter:
                trained = train(experiment, federation, record, self.seed)
                cost = meter.cost(len(experiment.task.split.targets))
            store.save_model(key, FittedModel(trained.weights, cost))
            store.save_recorded(key, trained)

        federations.run(self.loaded, body)


@dataclass(frozen=True)
class Retrain(Job):
    """Retrains without everything that has left by a request.

    Attributes:
        request: Index of the request.
        seed: Seed of initialisation and order.
    """

    request: int
    seed: int

    def run(self, store: ResultStore, federations: Federations) -> None:
        """See Job."""
        experiment = federations.experiment(self.loaded)
        key = model_key(experiment, self.seed, experiment.requests[self.request])
        if store.model(key) is not None:
            return
        seeds = experiment.oracle_seeds
        label = f"retraining oracle {1 + seeds.index(self.seed)} of {len(seeds)}"

        def body(federation: Federation) -> FittedModel:
            return retrain(experiment, federation, self.request, self.seed, label)

        store.save_model(key, federations.run(self.loaded, body))


@dataclass(frozen=True)
class Unlearn(Job):
    """Lets one method remove every request.

    Attributes:
        seed: Seed of the trained model.
        method: Name of the method.
        budgets: Client compute for each request; None for the first method, which sets it.
    """

    seed: int
    method: str
    budgets: Budgets | None

    def run(self, store: ResultStore, federations: Federations) -> Budgets:
        """Return the client compute of each request; see Job."""
        experiment = federations.experiment(self.loaded)
        key = outcomes_key(experiment, self.seed, self.method, self.budgets)
        outcomes = store.outcomes(key)
        if outcomes is None:
            outcomes = federations.run(
                self.loaded, lambda federation: self._unlearn(experiment, federation, store)
            )
            store.save_outcomes(key, outcomes)
        return tuple(outcome.compute for outcome in outcomes)

    def _unlearn(
        self, experiment: Experiment, federation: Federation, store: ResultStore
    ) -> tuple[RequestOutcome, ...]:
        wanted = experiment.methods[self.method].to_record()
        trained = self._trained(experiment, federation, store, wanted)
        return unlearn_requests(experiment, federation, trained, self.method, self.budgets)

    def _trained(
        self,
        experiment: Experiment,
        federation: Federation,
        store: ResultStore,
        wanted: tuple[Recordable, ...],
    ) -> TrainedModel:
        """Return the trained model, trained once more where a method records during training."""
        key = model_key(experiment, self.seed, None)
        recorded = store.recorded(key)
        if recorded is not None:
            return recorded
        model = store.model(key)
        if model is None or any(
            isinstance(item, TrainingObserver | WeightsObserver) for item in wanted
        ):
            trained = train(experiment, federation, wanted, self.seed)
            if model is not None and not torch.equal(trained.weights, model.weights):
                raise FederationError("training the same model twice gave different weights")
            return trained
        initial = initial_weights(experiment.task.model, self.seed)
        settings = experiment.training(self.seed)
        return federation.record(TrainedModel(model.weights, initial, settings), wanted)


@dataclass(frozen=True)
class Measure(Job):
    """Compares every model with the retrained ones.

    Attributes:
        budgets: Client compute that the first method set.
    """

    budgets: Budgets

    def run(self, store: ResultStore, federations: Federations) -> Measured:
        """Return the results of the run; see Job."""
        experiment = federations.experiment(self.loaded)
        environment = environment_of(federations)
        key = results_key(experiment, self.budgets, environment) if store.persistent else ""
        stored = store.results(key)
        if stored is not None:
            return Measured(stored, ())
        replicas = [
            replica_of(experiment, store, seed, self.budgets) for seed in experiment.replica_seeds
        ]
        oracles = [
            [
                found(store.model(model_key(experiment, seed, forget)))
                for seed in experiment.oracle_seeds
            ]
            for forget in experiment.requests
        ]
        measured = measure(experiment, replicas, oracles, environment)
        store.save_results(key, measured.results)
        return measured


def replica_of(experiment: Experiment, store: ResultStore, seed: int, budgets: Budgets) -> Replica:
    """Return a trained model with the outcomes of every method on it.

    Args:
        experiment: The scenario.
        store: The store that holds them.
        seed: Seed of the model.
        budgets: Client compute that the first method set.

    Returns:
        The replica.
    """
    trained = found(store.model(model_key(experiment, seed, None))).weights
    outcomes: dict[str, tuple[RequestOutcome, ...]] = {}
    for name in experiment.methods:
        key = outcomes_key(experiment, seed, name, budgets if outcomes else None)
        outcomes[name] = found(store.outcomes(key))
    return Replica(trained, outcomes)


def found(stored: T | None) -> T:
    """Return a stored result.

    Args:
        stored: What the store gave.

    Raises:
        FederationError: It is not there any more.
    """
    if stored is None:
        raise FederationError("a stored result is gone; did another program change the cache?")
    return stored
