"""From the tables' rows to what the store returns."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import RowMapping

from fedunlearn.requests.clock import moment
from fedunlearn.requests.deletion import Deletion, Event, Scope, ScopeKind, Stage, State
from fedunlearn.requests.tables import DELETIONS

# Without the bytes that were signed, of which a page of requests would hold megabytes.
DELETION_COLUMNS = tuple(
    column
    for column in DELETIONS.columns
    if column.name not in ("statement", "signature", "scope", "model")
)


def storable(text: str) -> str:
    """Return a text as every database keeps it: without NUL and halves of surrogate pairs."""
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return clean.encode("utf-8", "replace").decode()


def blob(value: object) -> bytes:
    """Return what a column of bytes holds; SQLite also keeps a number there, of any size.

    Raises:
        TypeError: It holds something else.
    """
    if not isinstance(value, bytes | memoryview):
        raise TypeError("no bytes where there should be some")
    return bytes(value)


def scope_text(scope: Scope) -> str:
    """Return a scope as a row keeps it."""
    parts: dict[str, Any] = {
        "kind": scope.kind.value,
        "nodes": scope.nodes,
        "records": scope.records,
        "labels": scope.labels,
    }
    return json.dumps(parts, separators=(",", ":"))


def scope_from(text: str) -> Scope:
    """Return the scope that a row keeps."""
    parts = json.loads(text)
    return Scope(
        ScopeKind(parts["kind"]),
        nodes=tuple(parts["nodes"]),
        records=tuple(parts["records"]),
        labels=tuple(parts["labels"]),
    )


def deletion_from(row: RowMapping | dict[str, Any]) -> Deletion:
    """Return the request of a row of DELETION_COLUMNS."""
    return Deletion(
        id=row["id"],
        owner=row["owner"],
        request_id=row["request_id"],
        key_id=row["key_id"],
        statement_sha256=row["statement_sha256"],
        scope_sha256=row["scope_sha256"],
        scope=scope_from(row["parsed"]),
        state=State(row["state"]),
        stage=None if row["stage"] is None else Stage(row["stage"]),
        created=moment(row["created"]),
        due=moment(row["due"]),
        ended=None if row["ended"] is None else moment(row["ended"]),
        reason=row["reason"],
        attempts=row["attempts"],
        job=row["job"],
        last_event=row["last_event"],
        model_before=row["model_before"],
        model_after=row["model_after"],
    )


def event_from(row: RowMapping) -> Event:
    """Return the change of a row."""
    return Event(
        number=row["number"],
        deletion=row["deletion"],
        time=moment(row["time"]),
        state=State(row["state"]),
        stage=None if row["stage"] is None else Stage(row["stage"]),
        actor=row["actor"],
        reason=row["reason"],
    )
