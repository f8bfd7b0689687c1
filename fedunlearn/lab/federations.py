"""Where the jobs of a run find their nodes: in a federation each, or in one that is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment, prepared
from fedunlearn.named_errors import errors_by_name
from fedunlearn.scenario.loading import LoadedScenario

T = TypeVar("T")


class Federations(Protocol):
    """The nodes of a scenario, for jobs that follow each other."""

    @property
    def transport(self) -> str:
        """Name of the transport that carries the rounds, for the results."""
        ...

    def experiment(self, loaded: LoadedScenario) -> Experiment:
        """Return a scenario prepared to run."""
        ...

    def run(self, loaded: LoadedScenario, body: Callable[[Federation], T]) -> T:
        """Run a body of work in a federation of a scenario's nodes, and return what it returns."""
        ...


@dataclass(frozen=True)
class NewFederations:
    """An inline federation of its own for every job, so that jobs may run in any process."""

    transport: str = "inline"

    def experiment(self, loaded: LoadedScenario) -> Experiment:
        """Return a scenario prepared to run, the same object for all jobs of a process."""
        return prepared(loaded)

    def run(self, loaded: LoadedScenario, body: Callable[[Federation], T]) -> T:
        """See Federations."""
        task = self.experiment(loaded).task
        names = task.split.node_names
        with errors_by_name(names):
            return simulate(task, len(names), body)


@dataclass(frozen=True)
class OpenFederation:
    """One federation of one scenario, open for all jobs.

    Attributes:
        prepared: The scenario.
        federation: Its nodes.
        transport: Name of what carries the rounds.
    """

    prepared: Experiment
    federation: Federation
    transport: str

    def experiment(self, loaded: LoadedScenario) -> Experiment:
        """See Federations."""
        del loaded
        return self.prepared

    def run(self, loaded: LoadedScenario, body: Callable[[Federation], T]) -> T:
        """See Federations."""
        del loaded
        return body(self.federation)
