"""A deletion request and the states it passes through."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from fedunlearn.names import listed


class State(enum.StrEnum):
    """The state of a request."""

    PENDING = "PENDING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class Stage(enum.StrEnum):
    """The stage of a running request."""

    COLLECTING = "COLLECTING"
    SOLVING = "SOLVING"
    VERIFYING = "VERIFYING"
    COMMITTING = "COMMITTING"


# SUCCEEDED to FAILED is a rollback: a model that contains the data is the current one again.
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
    """The kind of a scope."""

    NODE = "node"
    RECORDS = "records"
    CLASS = "class"


@dataclass(frozen=True)
class Scope:
    """The scope of a request: the data to remove, in the form that the worker needs.

    Nodes and classes have the names of the data, and are in the order of names.

    Attributes:
        kind: Whole nodes, records of one node, or classes.
        nodes: NODE: the nodes to remove. RECORDS: the node that holds the records. CLASS: the nodes
            that the removal is limited to; empty for all nodes.
        records: RECORDS: positions in the node's committed order, ascending.
        labels: CLASS: the classes to remove.
    """

    kind: ScopeKind
    nodes: tuple[str, ...] = ()
    records: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of nodes, records or labels."""
        return len(
            {
                ScopeKind.NODE: self.nodes,
                ScopeKind.RECORDS: self.records,
                ScopeKind.CLASS: self.labels,
            }[self.kind]
        )

    def __str__(self) -> str:
        """Return a short description of the scope; of records, only their number."""
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
    """A checked request that is not stored yet.

    Attributes:
        owner: Name of the principal that signed the request.
        request_id: Id that the owner gave the request.
        key_id: Id of the key that signed the request.
        statement: Signed payload, a serialized DeletionStatement.
        signature: Signature over the statement.
        scope: Serialized message Scope, whose sha256 the statement contains.
        parsed: The parsed scope.
        model: sha256 of the model file that the statement names, hexadecimal.
        received: Time of the receipt of the request.
        due: Time by which the removal must be done.
        awaits_approval: Whether the operator must approve the request first.
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
    """A stored request.

    Attributes:
        id: Id that the service gave the request.
        owner: Name of the principal that made the request.
        request_id: Id that the owner gave the request.
        key_id: Id of the key that signed the request.
        statement_sha256: sha256 of the signed statement, hexadecimal.
        scope_sha256: sha256 of the serialized scope, hexadecimal.
        scope: The data to remove.
        state: State of the request.
        stage: Stage of the job while the request runs; None otherwise.
        created: Time at which the request was stored.
        due: Time by which the removal must be done.
        ended: Time at which the request reached SUCCEEDED, REJECTED or CANCELLED.
        reason: Reason of a rejection, failure or extension.
        attempts: How often the request was leased.
        job: The job in which the request last ran.
        last_event: Number of the last change of the request.
        model_before: sha256 of the model file before the removal; None until it is applied.
        model_after: sha256 of the model file after the removal; None until it is applied.
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
        number: Number of the change, ascending over all requests, with gaps.
        deletion: Id of the request.
        time: Time of the change.
        state: State after the change.
        stage: Stage of the job while the request runs; None otherwise.
        actor: Author of the change: "owner NAME", "operator NAME", "worker NAME", "service".
        reason: Reason of the change; empty if none was given.
    """

    number: int
    deletion: str
    time: datetime
    state: State
    stage: Stage | None
    actor: str
    reason: str
