"""A worker over a scenario's federation: trains the first model, then removes what is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fedunlearn.commitments import Commitment
from fedunlearn.errors import LeaseLostError
from fedunlearn.experiments.experiment import Experiment
from fedunlearn.experiments.remover import ScenarioRemover
from fedunlearn.federation.federation import Federation
from fedunlearn.flower.deployed_apps import Open
from fedunlearn.flower.simulation import TransportName, simulate
from fedunlearn.parameters import ParameterLayout
from fedunlearn.progress import Progress
from fedunlearn.requests.deletion import ScopeKind, State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.store import RequestStore
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.worker.models import ModelFolder
from fedunlearn.worker.settings import WorkerSettings
from fedunlearn.worker.worker import Worked, Worker, utc_now

log = logging.getLogger(__name__)

MODELS, NODES = "models", "nodes"


@dataclass(frozen=True)
class WorkPlace:
    """Where a worker finds requests and keeps models.

    Attributes:
        folder: The state folder.
        store: The requests.
        issuer: Signs receipts and the log.
        name: Of the worker, in events.
        once: Whether to stop when nothing is due, instead of waiting for more.
        stop: Set from outside to end after the job at hand.
        tell: Hears what became of every job.
    """

    folder: Path
    store: RequestStore
    issuer: PrivateKey
    name: str
    once: bool
    stop: threading.Event
    tell: Callable[[Worked], None]

    @property
    def refused(self) -> frozenset[int]:
        """The nodes that have left and know it.

        One whose removal is applied but not complete must still be told.
        """
        telling = {
            node
            for deletion in self.store.list(states=(State.RUNNING,), limit=1000)
            if deletion.scope.kind is ScopeKind.NODE
            for node in deletion.scope.nodes
        }
        return frozenset(self.store.nodes_left()) - telling


def work_simulated(
    loaded: LoadedScenario, place: WorkPlace, *, transport: TransportName, progress: Progress
) -> None:
    """Work in a simulated federation, whose nodes keep their records in the state folder.

    Args:
        loaded: Data, model, training, method.
        place: Requests and models.
        transport: ``inline`` or ``flower``.
        progress: Hears of training and rounds.
    """
    experiment = Experiment.prepare(loaded)
    simulate(
        experiment.task,
        len(experiment.task.split.nodes),
        lambda federation: work_in(experiment, federation, place),
        transport=transport,
        progress=progress,
        records=place.folder / NODES,
        refused=place.refused,
    )


def work_deployed(loaded: LoadedScenario, open_federation: Open, place: WorkPlace) -> None:
    """Work on a deployment, whose nodes keep their records themselves.

    Args:
        loaded: Data, model, training, method.
        open_federation: Opens it.
        place: Requests and models.
    """
    experiment = Experiment.prepare(loaded)
    layout = ParameterLayout.of(experiment.task.model())
    left = place.refused
    nodes = len(experiment.task.split.nodes) - len(left)
    with open_federation(nodes, layout, refused=left) as federation:
        work_in(experiment, federation, place)


def work_in(experiment: Experiment, federation: Federation, place: WorkPlace) -> None:
    """Work in a federation that is open: see WorkPlace for when it ends.

    Raises:
        TransitionError: A node's records are not those that were registered.
    """
    settings = WorkerSettings.read(place.folder)
    models = ModelFolder(place.folder / MODELS)
    remover = ScenarioRemover(experiment, federation, models, place.folder, place.store.nodes_left)
    register_commitments(federation, place.store)
    if place.store.current() is None:
        place.store.set_first(remover.train(), now=utc_now())
    worker = Worker(
        place.store,
        models,
        remover,
        place.issuer,
        version=version("fedunlearn"),
        name=place.name,
        settings=settings,
    )
    while not place.stop.is_set():
        try:
            worked = worker.work()
        except LeaseLostError as error:
            log.warning("%s", error)
            continue
        if worked is not None:
            place.tell(worked)
            if worked.state is not State.RUNNING:
                continue
        worker.tidy()
        if place.once:
            return
        place.stop.wait(settings.poll_s)


def register_commitments(federation: Federation, store: RequestStore) -> None:
    """Register what the nodes committed to when they enrolled; the same again changes nothing."""
    for node, enrolment in sorted(federation.enrolments.items()):
        if enrolment.root is not None:
            commitment = Commitment(enrolment.root.hex(), enrolment.records)
            store.register_commitment(node, commitment, now=utc_now())
