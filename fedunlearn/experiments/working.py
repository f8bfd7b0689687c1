"""A worker over a scenario's federation: trains the first model, then removes what is asked."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fedunlearn.commitments import Commitment
from fedunlearn.errors import LeaseLostError, StoreError
from fedunlearn.experiments.experiment import Experiment
from fedunlearn.experiments.naming import errors_by_name
from fedunlearn.experiments.remover import ScenarioRemover
from fedunlearn.federation.federation import Federation, TrainedModel
from fedunlearn.files import write_whole
from fedunlearn.flower.simulation import TransportName, simulate
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
NAMES = "names.json"  # of nodes and classes, by the numbers in the names of folders


@dataclass(frozen=True)
class WorkPlace:
    """Where a worker finds requests and keeps models.

    Attributes:
        folder: The state folder.
        store: The requests.
        issuer: Signs receipts and the log.
        name: Of the worker, in events.
        idle_s: End when nothing has been due for so long; None waits for ever.
        stop: Set from outside to end after the job at hand.
        tell: Hears what became of every job.
    """

    folder: Path
    store: RequestStore
    issuer: PrivateKey
    name: str
    idle_s: float | None
    stop: threading.Event
    tell: Callable[[Worked], None]

    @property
    def refused(self) -> frozenset[str]:
        """The names of the nodes that have left and know it.

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
    names = experiment.task.split.node_names
    try:
        with errors_by_name(names):
            simulate(
                experiment.task,
                len(names),
                lambda federation: work_in(experiment, federation, place),
                transport=transport,
                progress=progress,
                records=place.folder / NODES,
                refused=[names.place(name) for name in place.refused],
            )
    finally:
        place.stop.set()  # where the engine has failed, the work inside does not know it


def work_in(
    experiment: Experiment,
    federation: Federation,
    place: WorkPlace,
    trained: TrainedModel | None = None,
) -> None:
    """Work in a federation that is open: see WorkPlace for when it ends.

    Args:
        experiment: Data, model, training, method.
        federation: The nodes.
        place: Requests and models.
        trained: The first model, where the state folder has none; None trains it.

    Raises:
        TransitionError: A node's records are not those that were registered.
        VerificationError: The current model's file is damaged, or is of another scenario.
        StoreError: The store has been busy, or gone, for as long as the worker waits.
    """
    settings = WorkerSettings.read(place.folder)
    models = ModelFolder(place.folder / MODELS)
    remover = ScenarioRemover(experiment, federation, models, place.folder, place.store.nodes_left)
    write_whole(place.folder / NAMES, f"{json.dumps(experiment.names(), ensure_ascii=False)}\n")
    register_names(experiment, federation, place.store)
    current = place.store.current()
    if current is not None:
        remover.kept.load(current.sha256)  # before a request fails because of it
    else:
        first = remover.kept.keep_first(trained) if trained else remover.train()
        place.store.set_first(first, now=utc_now())
    worker = Worker(
        place.store,
        models,
        remover,
        place.issuer,
        version=version("fedunlearn"),
        name=place.name,
        settings=settings,
    )
    busy = time.monotonic()
    while not place.stop.is_set():
        try:
            worked = worker.work()
            if worked is None:
                worker.tidy()
        except LeaseLostError as error:
            log.warning("%s", error)
            continue
        except StoreError as error:
            if _over(place, busy):
                raise
            log.warning("%s", error)
            worked = None
        if worked is not None:
            place.tell(worked)
            busy = time.monotonic()
        elif _over(place, busy):
            return
        else:
            place.stop.wait(settings.poll_s)


def _over(place: WorkPlace, busy: float) -> bool:
    """Return whether nothing has been due for so long, since a monotonic time, that it may end."""
    return place.idle_s is not None and time.monotonic() - busy >= place.idle_s


def register_names(experiment: Experiment, federation: Federation, store: RequestStore) -> None:
    """Register how requests may name classes, and what nodes committed to when they enrolled.

    The same again changes nothing.

    Args:
        experiment: Whose data name nodes and classes.
        federation: The nodes.
        store: Of the requests.
    """
    split = experiment.task.split
    store.register_classes(split.labels, now=utc_now())
    for node, enrolment in sorted(federation.enrolments.items()):
        if enrolment.root is not None:
            commitment = Commitment(enrolment.root.hex(), enrolment.records)
            store.register_commitment(split.node_names[node], commitment, now=utc_now())
