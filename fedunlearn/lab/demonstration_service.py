"""The demonstration's deletion service: requests over gRPC, approval, removal, receipts.

Every node's owner has a key of its own, and so has the operator. All of them run in one process
here, and the service listens on the loopback interface only.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fedunlearn.commitments import Commitments
from fedunlearn.data.sources import Split
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.site import site_of
from fedunlearn.networks import build_model
from fedunlearn.node.records import COMMITMENTS
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.model_store import model_file
from fedunlearn.operator.worker_loop import (
    MODELS,
    NODES,
    WorkPlace,
    register_names,
    work_in,
)
from fedunlearn.questions.forget import ForgetSet, OfClasses, Part
from fedunlearn.reporting.results import DeletionEvent, DeletionResults, ReceiptResults
from fedunlearn.requests.deletion import State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import export_ledger
from fedunlearn.requests.principals import Role
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import class_scope, node_scope, record_scope
from fedunlearn.requests.store import RequestStore
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.state import open_state
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.worker import utc_now

OPERATOR = "consortium"


class DemonstrationService:
    """A deletion service with a trained model, the clients of all owners and of the operator."""

    def __init__(
        self,
        experiment: Experiment,
        federation: Federation,
        folder: Path,
        store: RequestStore,
        address: str,
    ) -> None:
        """Use a service that runs.

        Args:
            experiment: The scenario whose requests are filed.
            federation: The nodes.
            folder: The state folder.
            store: The request store in the state folder.
            address: Address of the service.
        """
        assert store.issuer is not None  # the service would not have started
        self._experiment = experiment
        self._federation = federation
        self._folder = folder
        self._store = store
        self._issuer = store.issuer
        self._address = address
        self._clients: dict[str, DeletionClient] = {}
        self._filed = 0

    @property
    def current(self) -> str:
        """SHA-256 of the current model's file."""
        model = self._store.current()
        assert model is not None  # register has set the first
        return model.sha256

    def sha256_of(self, weights: Tensor) -> str:
        """Return the SHA-256 of a model file with weights (d,)."""
        model = build_model(self._experiment.task.model)
        return hashlib.sha256(model_file(model, weights)).hexdigest()

    def register(self, trained: TrainedModel) -> None:
        """Register model, keys and commitments as they are at the end of training."""
        remover = FederationRemover(
            site_of(self._experiment),
            self._federation,
            ModelFolder(self._folder / MODELS),
            self._folder,
            self._store.nodes_left,
        )
        self._store.set_first(remover.model_store.store_first(trained), now=utc_now())
        register_names(site_of(self._experiment), self._federation, self._store)
        self._add_key(OPERATOR, "operator", ())
        for node in self._federation.nodes:
            name = self._experiment.task.split.node_names[node]
            self._add_key(_owner(name), "owner", (name,))

    def remove(self, forget: ForgetSet) -> list[DeletionResults]:
        """File a request of the scenario, approve it, remove the data and verify the receipt.

        Args:
            forget: The forget set.

        Returns:
            One entry of results.json for each deletion request that the forget set takes.
        """
        filed = [
            (owner, self._clients[owner].create(scope))
            for owner, scope in _scopes(forget, self._experiment.task.split, self._folder / NODES)
        ]
        operator = self._clients[OPERATOR]
        for _, deletion in filed:
            if deletion.state == pb.STATE_AWAITING_APPROVAL:
                operator.approve(deletion.id)
        place = WorkPlace(
            folder=self._folder,
            store=self._store,
            issuer=self._issuer,
            name="flower",
            idle_s=0.0,
            stop=threading.Event(),
            on_job=lambda worked: None,
        )
        work_in(site_of(self._experiment), self._federation, place)
        return [self._results_of(owner, deletion.id) for owner, deletion in filed]

    def files(self, deletions: Sequence[DeletionResults]) -> dict[str, str]:
        """Return the files beside a report: receipts, the issuer's public key, the ledger.

        Args:
            deletions: The entries that ``remove`` returned.

        Returns:
            Texts by the names of files.
        """
        ledger = json.dumps(export_ledger(self._store), indent=1, ensure_ascii=False)
        receipts = (deletion.receipt for deletion in deletions if deletion.receipt)
        return {
            **{receipt.file: receipt.envelope for receipt in receipts},
            "issuer.pub": self._issuer.public.pem,
            "ledger.json": f"{ledger}\n",
        }

    def close(self) -> None:
        """Close the clients' channels."""
        for client in self._clients.values():
            client.close()

    def _add_key(self, name: str, role: Role, nodes: Sequence[str]) -> None:
        key = PrivateKey.generate()
        self._store.register_key(name, role, key.public, nodes, now=utc_now())
        self._clients[name] = DeletionClient(self._address, key, plaintext=True)

    def _results_of(self, owner: str, id: str) -> DeletionResults:
        stored = self._store.get(id)
        self._filed += 1
        succeeded = stored.state is State.SUCCEEDED
        return DeletionResults(
            id=id,
            request_id=stored.request_id,
            owner=owner,
            description=str(stored.scope),
            state=stored.state.value,
            reason=stored.reason,
            due=stored.due.isoformat(),
            events=tuple(
                DeletionEvent(
                    time=event.time.isoformat(),
                    state=event.state.value,
                    stage=event.stage.value if event.stage else None,
                    actor=event.actor,
                    reason=event.reason,
                )
                for event in self._store.events(id)
            ),
            model_before=stored.model_before if succeeded else None,
            model_after=stored.model_after if succeeded else None,
            receipt=self._verified_receipt(owner, id) if succeeded else None,
        )

    def _verified_receipt(self, owner: str, id: str) -> ReceiptResults:
        text = self._clients[owner].receipt(id)
        verified = verify_receipt(text, self._issuer.public)
        return ReceiptResults.model_validate(
            {
                "file": f"receipt-{self._filed}.json" if self._filed > 1 else "receipt.json",
                "verified": True,
                "predicate": dict(verified.predicate),
                "envelope": text.decode(),
            }
        )


@contextmanager
def demonstration_service(
    experiment: Experiment, federation: Federation, trained: TrainedModel, folder: Path
) -> Iterator[DemonstrationService]:
    """Start the service over a new state folder, and register the keys of all requesters.

    Args:
        experiment: The scenario whose requests are filed.
        federation: The nodes, with folders for their records in the state folder.
        trained: The model.
        folder: The state folder.

    Yields:
        The service; it is stopped at the end of the block.
    """
    with open_state(folder) as state:
        settings = ServiceSettings(
            listen="127.0.0.1:0", federation=experiment.name, require_approval=True
        )
        with DeletionServer(state.store, settings) as server:
            demonstration = DemonstrationService(
                experiment, federation, folder, state.store, server.start()
            )
            try:
                demonstration.register(trained)
                yield demonstration
            finally:
                demonstration.close()


def _scopes(forget: ForgetSet, split: Split, nodes: Path) -> list[tuple[str, pb.Scope]]:
    """Return requesters and scopes that together make up a forget set."""
    named = split.node_names
    if forget.of_whole_nodes:
        names = [named[node] for node in sorted(forget.nodes)]
        return [(_owner(name), node_scope([name])) for name in names]
    if isinstance(forget, OfClasses):
        labels = (split.labels[label] for label in forget.labels)
        return [(OPERATOR, class_scope(labels, (named[node] for node in forget.on)))]
    scopes = []
    for node, indices in enumerate(split.nodes):
        targets = split.targets[torch.from_numpy(indices)]
        places = forget.select(Part.FORGET, node, targets).tolist()
        if places:
            commitments = Commitments.load(nodes / f"node-{node}" / COMMITMENTS)
            scope = record_scope(named[node], commitments, places)
            scopes.append((_owner(named[node]), scope))
    return scopes


def _owner(node: str) -> str:
    """Return the name of a node's owner in the demonstration."""
    return f"node-{node}"
