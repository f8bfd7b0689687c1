"""The worker loop: it carries out requests in an open federation on its current model."""

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
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.files import write_whole
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.site import Site
from fedunlearn.requests.deletion import ScopeKind, State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.store import RequestStore
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.worker import Worked, Worker, utc_now
from fedunlearn.worker.worker_settings import WorkerSettings

log = logging.getLogger(__name__)

MODELS, NODES = "models", "nodes"
NAMES = "names.json"  # names of nodes and classes, in the order of their internal numbers


@dataclass(frozen=True)
class WorkPlace:
    """The place of a worker's requests and models, and the conditions for its end.

    Attributes:
        folder: The state folder.
        store: The request store.
        issuer: Private key that signs receipts and the log.
        name: Name of the worker in events.
        idle_s: Seconds without due requests after which the worker ends; None to wait forever.
        stop: Event that another thread sets to end the worker after the current job.
        on_job: Receives the outcome of every job.
    """

    folder: Path
    store: RequestStore
    issuer: PrivateKey
    name: str
    idle_s: float | None
    stop: threading.Event
    on_job: Callable[[Worked], None]

    @property
    def refused(self) -> frozenset[str]:
        """Names of the nodes that have left and have recorded their tombstones.

        A node whose removal is applied but not complete must still record a tombstone.
        """
        incomplete = {
            node
            for deletion in self.store.list(states=(State.RUNNING,), limit=1000)
            if deletion.scope.kind is ScopeKind.NODE
            for node in deletion.scope.nodes
        }
        return frozenset(self.store.nodes_left()) - incomplete


def work_in(
    site: Site,
    federation: Federation,
    place: WorkPlace,
    trained: TrainedModel | None = None,
) -> None:
    """Run the worker loop in an open federation until a condition of WorkPlace ends it.

    Args:
        site: Names, model and method of the federation.
        federation: The open federation.
        place: The requests and models.
        trained: The first model, if the state folder has none; None to train it.

    Raises:
        TransitionError: The commitment of a node is not the registered one.
        VerificationError: The current model's file is damaged, or belongs to another scenario.
        StoreError: The store has been busy or unreachable for as long as the worker waits.
    """
    settings = WorkerSettings.read(place.folder)
    models = ModelFolder(place.folder / MODELS)
    remover = FederationRemover(site, federation, models, place.folder, place.store.nodes_left)
    write_whole(place.folder / NAMES, f"{json.dumps(site.as_document(), ensure_ascii=False)}\n")
    register_names(site, federation, place.store)
    current = place.store.current()
    if current is not None:
        # A damaged model is reported here, before it fails a request.
        remover.model_store.load(current.sha256)
    else:
        first = remover.model_store.store_first(trained) if trained else remover.train()
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
            place.on_job(worked)
            busy = time.monotonic()
        elif _over(place, busy):
            return
        else:
            place.stop.wait(settings.poll_s)


def _over(place: WorkPlace, busy: float) -> bool:
    """Return whether no request has been due since a monotonic time for ``idle_s`` seconds."""
    return place.idle_s is not None and time.monotonic() - busy >= place.idle_s


def register_names(site: Site, federation: Federation, store: RequestStore) -> None:
    """Register the names of classes, and the commitments that nodes made when they enrolled.

    A repeated call changes nothing.

    Args:
        site: Names of nodes and classes.
        federation: The federation with the enrolments.
        store: The request store.
    """
    store.register_classes(site.labels, now=utc_now())
    for node, enrolment in sorted(federation.enrolments.items()):
        if enrolment.root is not None:
            commitment = Commitment(enrolment.root.hex(), enrolment.records)
            store.register_commitment(site.nodes[node], commitment, now=utc_now())
