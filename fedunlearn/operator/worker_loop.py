"""A worker over an open federation: removes what is requested from its current model."""

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
        on_job: Receives what became of every job.
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


def work_in(
    site: Site,
    federation: Federation,
    place: WorkPlace,
    trained: TrainedModel | None = None,
) -> None:
    """Work in a federation that is open: see WorkPlace for when it ends.

    Args:
        site: Names, model, method.
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
    remover = FederationRemover(site, federation, models, place.folder, place.store.nodes_left)
    write_whole(place.folder / NAMES, f"{json.dumps(site.as_document(), ensure_ascii=False)}\n")
    register_names(site, federation, place.store)
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
            place.on_job(worked)
            busy = time.monotonic()
        elif _over(place, busy):
            return
        else:
            place.stop.wait(settings.poll_s)


def _over(place: WorkPlace, busy: float) -> bool:
    """Return whether nothing has been due for so long, since a monotonic time, that it may end."""
    return place.idle_s is not None and time.monotonic() - busy >= place.idle_s


def register_names(site: Site, federation: Federation, store: RequestStore) -> None:
    """Register how requests may name classes, and what nodes committed to when they enrolled.

    The same again changes nothing.

    Args:
        site: Names nodes and classes.
        federation: The nodes.
        store: The request store.
    """
    store.register_classes(site.labels, now=utc_now())
    for node, enrolment in sorted(federation.enrolments.items()):
        if enrolment.root is not None:
            commitment = Commitment(enrolment.root.hex(), enrolment.records)
            store.register_commitment(site.nodes[node], commitment, now=utc_now())
