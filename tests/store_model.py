"""What the state machine of the request store knows: requests, jobs and where the store is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    precondition,
)
from sqlalchemy import insert, select

from fedunlearn.requests.database import Database
from fedunlearn.requests.deletion import State
from fedunlearn.requests.statement import class_scope, node_scope
from fedunlearn.requests.store import RequestStore
from fedunlearn.requests.tables import METADATA
from tests.deletions import FIRST, ISSUER, populate, request
from tests.stores import empty_tables

SCOPES = [
    node_scope(["0"]),
    class_scope(["1"], ["0"]),
    node_scope(["1"]),
    class_scope(["2"], ["0"]),
    class_scope(["2"]),
]
REQUESTS = [
    request(scope, days=10 + i, awaits_approval=i in (1, 2)) for i, scope in enumerate(SCOPES)
]
REUSED = [request(node_scope(["3"]), request_id=new.request_id) for new in REQUESTS]
FAMILIES = ["node", "0", "node", "0", "all"]
which = st.sampled_from(range(len(REQUESTS)))
# An awaiting one among them, so that something waits for whoever decides.
some = st.sets(which, min_size=2)
worked_on = precondition(lambda machine: bool(machine.leases))


def some_are(*states: State) -> Callable[[Any], Any]:
    return precondition(lambda machine: not set(states).isdisjoint(machine.known.states.values()))


removed = precondition(lambda machine: bool(machine.known.removals))
LEASE_S = 30


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass
class Job:
    """What the model knows of a job."""

    requests: list[int]
    base: str
    fence: int
    until: datetime
    applied: str | None = None
    ended: bool = False


@dataclass
class Known:
    """What the model knows of a store."""

    states: dict[int, State] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    removals: list[str] = field(default_factory=list)
    current: str = FIRST
    left: set[int] = field(default_factory=set)


class Ground:
    """A store that is put back to its beginning for each sequence."""

    def __init__(self, url: str) -> None:
        with RequestStore.open(url, issuer=ISSUER, durable=False) as store:
            populate(store)
        self.database = Database(url, durable=False)
        with self.database.read() as connection:
            tables = METADATA.sorted_tables
            read = {t: connection.execute(select(t)).mappings().all() for t in tables}
        self._rows = {table: [dict(row) for row in rows] for table, rows in read.items() if rows}
        self.sequences = 0

    def reset(self) -> None:
        self.sequences += 1
        with self.database.write() as tx:
            empty_tables(tx)
            for table, rows in self._rows.items():
                tx.execute(insert(table), rows)
