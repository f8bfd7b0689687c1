"""Pieces of a comparison, each small enough to be done, kept and resumed by itself.

A job travels to a worker process as a scenario and a few numbers; what it makes goes into the
store, which the jobs after it read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fedunlearn.errors import FederationError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import Recordable, TrainedModel, TrainingObserver
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.measuring import Measuring
from fedunlearn.lab.removal import (
    Removal,
    Replica,
    Retrained,
    remove,
    retrain,
    train,
)
from fedunlearn.lab.runner import document
from fedunlearn.lab.store import Store, model_key, removals_key
from fedunlearn.named_errors import errors_by_name
from fedunlearn.parameters import initial_weights
from fedunlearn.scenario.loading import LoadedScenario

T = TypeVar("T")

# Scenarios that this process has ready, the latest last.
_READY: OrderedDict[tuple[str, str], Experiment] = OrderedDict()
KEPT = 4


@dataclass(frozen=True)
class Job(ABC):
    """One piece of work on one scenario.

    Attributes:
        loaded: The scenario, with the seeds that are its own.
    """

    loaded: LoadedScenario

    @abstractmethod
    def run(self, store: Store) -> Any:
        """Do it, unless the store has it already, and return what the next jobs must know."""

    @property
    def experiment(self) -> Experiment:
        """The scenario made ready; kept between the jobs of a process."""
        return _prepared(self.loaded)

    def simulate(self, body: Callable[[Federation], T]) -> T:
        """Run a body of work in the federation of the scenario."""
        names = self.experiment.task.split.node_names
        with errors_by_name(names):
            return simulate(self.experiment.task, len(names), body)


@dataclass(frozen=True)
class Train(Job):
    """Trains the model that is to forget.

    Attributes:
        seed: Of initialisation and order.
    """

    seed: int

    def run(self, store: Store) -> None:
        """See Job."""
        key = model_key(self.experiment, self.seed, None)
        if store.load_models(key) is not None:
            return

        def body(federation: Federation) -> Retrained:
            with federation.measure() as meter:
                trained = train(self.experiment, federation, (), self.seed)
                cost = meter.cost(len(self.experiment.task.split.targets))
            return Retrained(trained.weights, cost)

        store.save_models(key, [self.simulate(body)])


@dataclass(frozen=True)
class Oracle(Job):
    """Retrains without all that has left by a request.

    Attributes:
        request: Its index.
        seed: Of initialisation and order.
    """

    request: int
    seed: int

    def run(self, store: Store) -> None:
        """See Job."""
        key = model_key(self.experiment, self.seed, self.experiment.requests[self.request])
        if store.load_models(key) is not None:
            return

        def body(federation: Federation) -> Retrained:
            return retrain(self.experiment, federation, self.request, self.seed, "retraining")

        store.save_models(key, [self.simulate(body)])


@dataclass(frozen=True)
class Remove(Job):
    """Lets one method answer every request.

    Attributes:
        seed: Of the trained model.
        method: Its name.
        budgets: Client compute for each request; None for the first method, which sets it.
    """

    seed: int
    method: str
    budgets: tuple[float, ...] | None

    def run(self, store: Store) -> tuple[float, ...]:
        """Return the client compute of each request; see Job."""
        key = removals_key(self.experiment, self.seed, self.method, self.budgets)
        removals = store.load_removals(key)
        if removals is None:
            removals = self.simulate(lambda federation: self._remove(federation, store))
            store.save_removals(key, removals)
        return tuple(removal.compute for removal in removals)

    def _remove(self, federation: Federation, store: Store) -> tuple[Removal, ...]:
        wanted = self.experiment.methods[self.method].to_record()
        trained = self._trained(federation, store, wanted)
        return remove(self.experiment, federation, trained, self.method, self.budgets)

    def _trained(
        self, federation: Federation, store: Store, wanted: tuple[Recordable, ...]
    ) -> TrainedModel:
        """Return the trained model, trained once more where a method must have listened."""
        (kept,) = store.load_models(model_key(self.experiment, self.seed, None)) or (None,)
        if kept is None or any(isinstance(item, TrainingObserver) for item in wanted):
            trained = train(self.experiment, federation, wanted, self.seed)
            if kept is not None and not torch.equal(trained.weights, kept.weights):
                raise FederationError("training the same model twice gave different weights")
            return trained
        initial = initial_weights(self.experiment.task.model, self.seed)
        settings = self.experiment.training(self.seed)
        return federation.record(TrainedModel(kept.weights, initial, settings), wanted)


@dataclass(frozen=True)
class Measure(Job):
    """Holds everything against the oracles.

    Attributes:
        budgets: Client compute that the first method set.
    """

    budgets: tuple[float, ...]

    def run(self, store: Store) -> dict[str, Any]:
        """Return results as in results.json; see Job."""
        experiment = self.experiment
        replicas = [self._replica(store, seed) for seed in experiment.replica_seeds]
        measuring = Measuring(experiment)
        requests = []
        for index, forget in enumerate(experiment.requests):
            oracles = [
                _found(store.load_models(model_key(experiment, other, forget)))[0]
                for other in experiment.oracle_seeds
            ]
            result, _ = measuring.request(index, replicas, oracles)
            requests.append(result)
        return document(experiment, requests, "inline")

    def _replica(self, store: Store, seed: int) -> Replica:
        trained = _found(store.load_models(model_key(self.experiment, seed, None)))[0].weights
        removals: dict[str, tuple[Removal, ...]] = {}
        for name in self.experiment.methods:
            budgets = self.budgets if removals else None
            key = removals_key(self.experiment, seed, name, budgets)
            removals[name] = _found(store.load_removals(key))
        return Replica(trained, removals)


def _found(kept: T | None) -> T:
    if kept is None:
        raise FederationError("a result that was kept is gone; was the cache changed meanwhile?")
    return kept


def _prepared(loaded: LoadedScenario) -> Experiment:
    key = (str(loaded.folder), loaded.settings.model_dump_json())
    if key not in _READY:
        _READY[key] = Experiment.prepare(loaded)
        while len(_READY) > KEPT:
            _READY.popitem(last=False)
    _READY.move_to_end(key)
    return _READY[key]
