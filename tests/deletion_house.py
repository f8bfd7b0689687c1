"""A deletion service with owners, operators and nodes, for its tests and its benchmark.

alice   owner of nodes 0 (64 records, committed) and 1 (64 records, committed)
bob     owner of nodes 2 (256 records, committed) and 3 (not committed)
op      operator
gone    owner of node 4, whose key was revoked
nobody  not registered
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedunlearn.commitments import Commitments
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.client import DeletionClient
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.state import ServiceState, open_state

FEDERATION = "hospitals"
MODEL = hashlib.sha256(b"the first model").hexdigest()
MOST_RECORDS = 40
RECORDS = {"0": 64, "1": 64, "2": 256}
KEYS: Mapping[str, PrivateKey] = {
    "alice": PrivateKey.generate("ed25519"),
    "bob": PrivateKey.generate("p384"),
    "op": PrivateKey.generate("p256"),
    "gone": PrivateKey.generate("ed25519"),
    "nobody": PrivateKey.generate("ed25519"),
}
COMMITMENTS = {
    node: Commitments.of(node.encode() * 32, (f"{node}/{i}".encode() for i in range(count)))
    for node, count in RECORDS.items()
}


def now() -> datetime:
    return datetime.now(UTC)


def furnish(store: RequestStore) -> None:
    """Register everyone, and a first model."""
    at = now()
    store.register_key("alice", "owner", KEYS["alice"].public, ["0", "1"], now=at)
    store.register_key("bob", "owner", KEYS["bob"].public, ["2", "3"], now=at)
    store.register_key("gone", "owner", KEYS["gone"].public, ["4"], now=at)
    store.register_key("op", "operator", KEYS["op"].public, now=at)
    store.revoke_key(KEYS["gone"].public.id, now=at)
    for node, commitments in COMMITMENTS.items():
        store.register_commitment(node, commitments.registered, now=at)
    store.register_classes(map(str, range(10)), now=at)
    store.set_first(MODEL, now=at)


@dataclass
class House:
    """A running service."""

    state: ServiceState
    server: DeletionServer
    address: str
    _clients: dict[str, DeletionClient] = field(default_factory=dict)

    @property
    def store(self) -> RequestStore:
        return self.state.store

    def client(self, name: str) -> DeletionClient:
        if name not in self._clients:
            self._clients[name] = DeletionClient(self.address, KEYS[name], plaintext=True)
        return self._clients[name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self.server.stop(1.0)


def remove(state: ServiceState, name: str) -> None:
    """Do what a worker does for the request that is due first, with a model of this name."""
    store, at = state.store, now()
    lease = store.lease("worker", now=at, seconds=60.0)
    assert lease is not None
    new = hashlib.sha256(name.encode()).hexdigest()
    entries = {one.id: {"scope": {"kind": one.scope.kind.value}} for one in lease.deletions}
    store.commit(lease, new=new, entries=entries, facts={}, now=at)
    store.finish(lease, make_receipts(store, lease.job, state.issuer), now=at)


@contextmanager
def house(
    folder: Path, *, database: str | None = None, clock: Any = now, **settings: object
) -> Iterator[House]:
    """Open a furnished service on a free port, and close it."""
    anew = not folder.exists()
    changes = {
        "listen": "127.0.0.1:0",
        "federation": FEDERATION,
        "most-records": MOST_RECORDS,
        **settings,
    }
    with open_state(folder, database, changes=changes) as state:
        if anew:
            furnish(state.store)
        server = DeletionServer(state.store, state.settings, clock=clock)
        opened = House(state, server, server.start())
        try:
            yield opened
        finally:
            opened.close()
