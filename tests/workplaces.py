"""State folders with a trained model, keys and commitments, for the suites around the worker."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedunlearn.commitments import Commitments
from fedunlearn.federation.federation import Federation
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.simulated_work import work_simulated
from fedunlearn.lab.site import site_of
from fedunlearn.node.records import COMMITMENTS
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.worker_loop import MODELS, NODES, WorkPlace
from fedunlearn.progress import Silent
from fedunlearn.requests.deletion import Deletion, NewDeletion
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import verify_ledger
from fedunlearn.requests.statement import (
    class_scope,
    node_scope,
    record_scope,
    scope_of,
    sign_deletion,
)
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.scenario.loading import LoadedScenario, parse_scenario
from fedunlearn.service.state import ServiceState, open_state
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.worker import Worked, utc_now

FEDERATION = "workplace"
OPEN_GATES = "[gates]\nretain-loss-rise = 10\ntest-accuracy-drop = 1\nrelative-update = 100\n"


def scenario(**unlearning: Any) -> LoadedScenario:
    """A small federation on digits, whose removals take a tenth of a second."""
    table: dict[str, Any] = {
        "data": {"name": "digits", "nodes": 3, "limit": 120, "partition": "iid"},
        "model": {"name": "logistic"},
        "training": {"rounds": 4, "local-epochs": 1},
        "unlearning": {"methods": ["cubic-newton"], "cubic-newton": {"products": 3}} | unlearning,
    }
    return LoadedScenario(FEDERATION, Path.cwd(), parse_scenario(table))


def prepare(folder: Path, loaded: LoadedScenario | None = None, worker: str = OPEN_GATES) -> None:
    """Train the first model, and register who may ask."""
    folder.mkdir(exist_ok=True)
    (folder / "worker.toml").write_text(worker)
    with open_state(folder) as state:
        work(state, loaded)
        add_key(state, "operator", "operator", ())
        for node in range(3):
            add_key(state, f"owner-{node}", "owner", (str(node),))


def add_key(state: ServiceState, name: str, role: Any, nodes: Sequence[str]) -> None:
    key = PrivateKey.generate()
    key.write(state.folder / f"{name}.key")
    state.store.register_key(name, role, key.public, nodes, now=utc_now())


def copied(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder)
    return folder


def work(state: ServiceState, loaded: LoadedScenario | None = None) -> list[Worked]:
    """Do all that is due."""
    told: list[Worked] = []
    place = WorkPlace(
        folder=state.folder,
        store=state.store,
        issuer=state.issuer,
        name="w",
        idle_s=0.0,
        stop=threading.Event(),
        on_job=told.append,
    )
    work_simulated(loaded or scenario(), place, transport="inline", progress=Silent())
    return told


def records_of(folder: Path, node: int, places: Sequence[int]) -> pb.Scope:
    """The scope of some records, with the proofs that only their node can give."""
    commitments = Commitments.load(folder / NODES / f"node-{node}" / COMMITMENTS)
    return record_scope(str(node), commitments, places)


def scope(folder: Path, kind: str, node: int = 1) -> pb.Scope:
    if kind == "node":
        return node_scope([str(node)])
    if kind == "class":
        return class_scope(["7"], [str(node)])
    return records_of(folder, node, [3, 5, 8])


def file(
    state: ServiceState, scope: pb.Scope, node: int = 1, received: datetime | None = None
) -> Deletion:
    """Store a signed request, as the service does once it has checked it."""
    now = received or utc_now()
    current = state.store.current()
    assert current is not None
    request_id = str(uuid.uuid4())
    key = PrivateKey.read(state.folder / f"owner-{node}.key")
    signed = sign_deletion(
        key,
        audience="here",
        federation=FEDERATION,
        model=current.sha256,
        request_id=request_id,
        scope=scope,
        issued=now,
        expires=now + timedelta(minutes=10),
    )
    new = NewDeletion(
        owner=f"owner-{node}",
        request_id=request_id,
        key_id=key.public.id,
        statement=signed.statement.payload,
        signature=signed.statement.signature,
        scope=signed.scope,
        parsed=scope_of(signed.scope),
        model=current.sha256,
        received=now,
        due=now + timedelta(days=30),
    )
    return state.store.create(new)[0]


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def findings(state: ServiceState) -> list[str]:
    found = verify_ledger(state.store, state.issuer.public, state.folder / MODELS)
    return [str(one) for one in found]


def remover_in(
    experiment: Experiment, federation: Federation, state: ServiceState
) -> FederationRemover:
    models = ModelFolder(state.folder / MODELS)
    return FederationRemover(
        site_of(experiment), federation, models, state.folder, state.store.nodes_left
    )
