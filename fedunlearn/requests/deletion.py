"""A deletion request and the states it passes through."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from fedunlearn.names import listed


class State(enum.StrEnum):
    """Where a request stands."""

    PENDING = "PENDING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class Stage(enum.StrEnum):
    """What is being done for a request that runs."""

    COLLECTING = "COLLECTING"
    SOLVING = "SOLVING"
    VERIFYING = "VERIFYING"
    COMMITTING = "COMMITTING"


# SUCCEEDED to FAILED is a rollback: the model that holds the data again is current.
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PENDING: frozenset({State.RUNNING, State.CANCELLED, State.REJECTED}),
        State.AWAITING_APPROVAL: frozenset({State.PENDING, State.CANCELLED, State.REJECTED}),
        State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED}),
        State.SUCCEEDED: frozenset({State.FAILED}),
        State.REJECTED: frozenset(),
        State.CANCELLED: frozenset(),
        State.FAILED: frozenset({State.PENDING, State.REJECTED}),
    }
)
OPEN = frozenset({State.PENDING, State.AWAITING_APPROVAL, State.RUNNING, State.FAILED})


class ScopeKind(enum.StrEnum):
    """What is to be removed."""

    NODE = "node"
    RECORDS = "records"
    CLASS = "class"


@dataclass(frozen=True)
class Scope:
    """What is to be removed, as the worker needs it.

    Attributes:
        kind: Whole nodes, records of one node, or classes.
        nodes: NODE: who leaves. RECORDS: the node that holds them. CLASS: on which nodes; none for
            all. By the names that the data give them, as labels are; both in the order of names.
        records: RECORDS: positions in the node's committed order, ascending.
        labels: CLASS: which classes.
    """

    kind: ScopeKind
    nodes: tuple[str, ...] = ()
    records: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many nodes, records or labels."""
        return len(
            {
                ScopeKind.NODE: self.nodes,
                ScopeKind.RECORDS: self.records,
                ScopeKind.CLASS: self.labels,
            }[self.kind]
        )

    def __str__(self) -> str:
        """Say in a few words what is to be removed; records by their number alone."""
        nodes = listed("node", self.nodes)
        match self.kind:
            case ScopeKind.NODE:
                return nodes
            case ScopeKind.RECORDS:
                return f"{self.count} record{'' if self.count == 1 else 's'} of {nodes}"
        labels = listed("class", self.labels)
        return f"{labels} of {nodes}" if self.nodes else labels


@dataclass(frozen=True)
class NewDeletion:
    """A request that was checked and is to be stored.

    Attributes:
        owner: Name of the principal that signed it.
        request_id: The owner's.
        key_id: Of the key that signed.
        statement: Payload that was signed, a DeletionStatement.
        signature: Over it.
        scope: Bytes of the message Scope, whose sha256 the statement names.
        parsed: The same, read.
        model: sha256 of the model file that the statement names, hexadecimal.
        received: When.
        due: By when it must be done.
        awaits_approval: Whether the operator must approve it first.
    """

    owner: str
    request_id: str
    key_id: str
    statement: bytes
    signature: bytes
    scope: bytes
    parsed: Scope
    model: str
    received: datetime
    due: datetime
    awaits_approval: bool = False


@dataclass(frozen=True)
class Deletion:
    """A request as it is stored.

    Attributes:
        id: The service's name for it.
        owner: Name of the principal that asked.
        request_id: The owner's.
        key_id: Of the key that signed.
        statement_sha256: Digest of what was signed, hexadecimal.
        scope_sha256: Likewise of the scope.
        scope: What is to be removed.
        state: Where it stands.
        stage: While it runs.
        created: When it was stored.
        due: By when it must be done.
        ended: When it reached SUCCEEDED, REJECTED or CANCELLED.
        reason: Why it was rejected, failed or extended.
        attempts: How often it has been leased.
        job: The job it last ran in.
        last_event: Number of its last change.
        model_before: sha256 of the model file before, once it is removed.
        model_after: Likewise after.
    """

    id: str
    owner: str
    request_id: str
    key_id: str
    statement_sha256: str
    scope_sha256: str
    scope: Scope
    state: State
    stage: Stage | None
    created: datetime
    due: datetime
    ended: datetime | None
    reason: str
    attempts: int
    job: str | None
    last_event: int
    model_before: str | None
    model_after: str | None


@dataclass(frozen=True)
class Event:
    """One change of a request.

    Attributes:
        number: Ascending over all requests, with gaps.
        deletion: Of which request.
        time: When.
        state: The state it reached.
        stage: While it runs.
        actor: Who did it: "owner NAME", "operator NAME", "worker NAME", "service".
        reason: Why, where one was given.
    """

    number: int
    deletion: str
    time: datetime
    state: State
    stage: Stage | None
    actor: str
    reason: str
