"""People, keys and signed requests for tests of the request store."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedunlearn.requests.deletion import Deletion, NewDeletion
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.keys import PrivateKey, PublicKey
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.ledger import export_ledger, verify_export, verify_ledger
from fedunlearn.requests.log import TreeHead
from fedunlearn.requests.log_store import read_heads
from fedunlearn.requests.model_lineage import lineage_has, model_path
from fedunlearn.requests.model_swaps import Applied
from fedunlearn.requests.principals import Principal
from fedunlearn.requests.statement import node_scope, scope_of, sign_deletion
from fedunlearn.requests.store import RequestStore
from fedunlearn.rpc.v1 import deletion_pb2 as pb

ISSUER = PrivateKey.generate("ed25519")
ALICE = PrivateKey.generate("p256")
BOB = PrivateKey.generate("ed25519")
OLGA = PrivateKey.generate("ed25519")
OPERATOR = "operator olga"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a time after the beginning."""
    return START + timedelta(seconds=seconds)


def model_bytes(name: str) -> bytes:
    """Return the content of a model file."""
    return f"model {name}".encode()


def model_named(name: str) -> str:
    """Return its sha256."""
    return hashlib.sha256(model_bytes(name)).hexdigest()


FIRST = model_named("first")


def keep_model(folder: Path, name: str) -> str:
    """Write a model file and return its sha256."""
    path = model_path(folder, model_named(name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model_bytes(name))
    return model_named(name)


def populate(store: RequestStore) -> None:
    """Register Alice with nodes 0 to 3, Bob with 10, Olga, and the first model."""
    store.register_key("alice", "owner", ALICE.public, map(str, range(4)), now=START)
    store.register_key("bob", "owner", BOB.public, ["10"], now=START)
    store.register_key("olga", "operator", OLGA.public, now=START)
    store.set_first(FIRST, now=START)


def request(
    scope: pb.Scope | None = None,
    *,
    owner: str = "alice",
    request_id: str | None = None,
    received: datetime = START,
    days: float = 30,
    awaits_approval: bool = False,
) -> NewDeletion:
    """Return a request that its owner has signed."""
    key = ALICE if owner == "alice" else BOB
    name = request_id or str(uuid.uuid4())
    message = sign_deletion(
        key,
        audience="tests",
        federation="hospitals",
        model=FIRST,
        request_id=name,
        scope=scope or node_scope(["0" if owner == "alice" else "10"]),
        issued=START,
        expires=START + timedelta(minutes=30),
    )
    return NewDeletion(
        owner=owner,
        request_id=name,
        key_id=key.public.id,
        statement=message.statement.payload,
        signature=message.statement.signature,
        scope=message.scope,
        parsed=scope_of(message.scope),
        model=FIRST,
        received=received,
        due=received + timedelta(days=days),
        awaits_approval=awaits_approval,
    )


def made(store: RequestStore, new: NewDeletion | None = None) -> Deletion:
    """Store a request."""
    return store.create(new or request())[0]


def leased(store: RequestStore, now: datetime = START, *, batch: int = 1) -> Lease:
    """Lease a job for a minute."""
    lease = store.lease("w", now=now, seconds=60, batch=batch)
    assert lease is not None
    return lease


def entries(lease: Lease) -> dict[str, dict[str, object]]:
    """Return what a worker says of a job, as far as these tests need it."""
    return {
        deletion.id: {"request_id": deletion.request_id, "scope": {"count": deletion.scope.count}}
        for deletion in lease.deletions
    }


def completed(store: RequestStore, lease: Lease, name: str, now: datetime = START) -> str:
    """Commit and finish a job with a model of this name, and return its sha256."""
    new = model_named(name)
    store.commit(lease, new=new, entries=entries(lease), facts={}, now=now)
    store.finish(lease, make_receipts(store, lease.job, ISSUER), now=now)
    return new


def holds(store: RequestStore, models: Path | None = None) -> bool:
    """Return True where the whole ledger verifies, and fail with what does not."""
    findings = verify_ledger(store, ISSUER.public, models)
    assert not findings, "\n".join(map(str, findings))
    assert not verify_export(export_ledger(store), ISSUER.public)
    return True


def heads_of(store: RequestStore) -> list[TreeHead]:
    """Return all signed tree heads of the log."""
    with store.snapshot() as connection:
        return read_heads(connection)


def in_lineage(store: RequestStore, sha256: str) -> bool:
    """Return whether a model is the current one, or one it descends from."""
    with store.snapshot() as connection:
        return lineage_has(connection, sha256)


def applied_of(store: RequestStore, deletion: str) -> Applied | None:
    """Return a request's removal, if it is in the current model's line."""
    held = (one for one in store.all_applied() if not one.rolled_back)
    return next((one for one in held if one.deletion == deletion), None)


def principal_of(store: RequestStore, key: PublicKey) -> Principal | None:
    """Return for whom a key speaks."""
    return next((one for one in store.principals() if one.key == key), None)


def owner_of(store: RequestStore, node: str) -> str | None:
    """Return the name of a node's owner."""
    return next((one.name for one in store.principals() if node in one.nodes), None)
