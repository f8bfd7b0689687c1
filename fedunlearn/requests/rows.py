"""Conversion between rows of the tables and the objects of the store."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import RowMapping

from fedunlearn.requests.clock import moment
from fedunlearn.requests.deletion import Deletion, Event, Scope, ScopeKind, Stage, State
from fedunlearn.requests.tables import DELETIONS

# The columns of a request except its signed bytes, which can be megabytes for a page of requests.
DELETION_COLUMNS = tuple(
    column
    for column in DELETIONS.columns
    if column.name not in ("statement", "signature", "scope", "model")
)


def storable(text: str) -> str:
    """Return a text that every database can store: without NUL and single surrogates."""
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return clean.encode("utf-8", "replace").decode()


def blob(value: object) -> bytes:
    """Return the value of a column of bytes, in which SQLite can also store other types.

    Raises:
        TypeError: The value is not bytes.
    """
    if not isinstance(value, bytes | memoryview):
        raise TypeError("a value that should be bytes has another type")
    return bytes(value)


def scope_text(scope: Scope) -> str:
    """Return a scope in the form that is stored."""
    parts: dict[str, Any] = {
        "kind": scope.kind.value,
        "nodes": scope.nodes,
        "records": scope.records,
        "labels": scope.labels,
    }
    return json.dumps(parts, separators=(",", ":"))


def scope_from(text: str) -> Scope:
    """Return the scope of its stored form."""
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
