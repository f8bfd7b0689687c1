"""Checks of a request store's tables: against its log, the owners' signatures and the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError
from sqlalchemy import ColumnElement, Connection, Integer, RowMapping, select, type_coerce

from fedunlearn.errors import KeyFileError, VerificationError
from fedunlearn.requests.clock import moment, stamp
from fedunlearn.requests.deletion import OPEN, TRANSITIONS, ScopeKind, State
from fedunlearn.requests.findings import Finding, check_key
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.log import LogRow, parse_canonical
from fedunlearn.requests.model_lineage import model_path
from fedunlearn.requests.replay import Removal, Replay
from fedunlearn.requests.rows import blob, scope_from, scope_text
from fedunlearn.requests.statement import DELETION_TYPE, scope_of
from fedunlearn.requests.tables import (
    APPLIED,
    CLASSES,
    CURRENT,
    DELETIONS,
    EVENTS,
    KEYS,
    MODELS,
    NODES,
    PRINCIPALS,
)
from fedunlearn.rpc.v1 import deletion_pb2 as pb

_FIRST = frozenset({State.PENDING, State.AWAITING_APPROVAL})


def check_tables(connection: Connection, replay: Replay) -> Iterator[Finding]:
    """Check the tables against the state that follows from the log.

    Args:
        connection: Connection to the store.
        replay: State that follows from the log.

    Yields:
        The errors found.
    """
    yield from _check_applied(connection, replay)
    current = connection.execute(select(CURRENT.c.model)).scalar_one_or_none()
    if current != replay.current:
        yield Finding(f"it is {current}, but {replay.current} by the log", "current model")
    known = set()
    query = select(MODELS, _raw(MODELS.c.rolled_back))
    for row in connection.execute(query).mappings():
        known.add(row["sha256"])
        file = replay.files.get(row["sha256"], row["file"])
        retired = row["sha256"] in replay.retired
        parent = replay.parents.get(row["sha256"], row["parent"])
        if (row["file"], row["flag"], row["parent"]) != (file, retired, parent):
            yield Finding("its row disagrees with the log", f"model {row['sha256']}")
    for sha256 in sorted(set(replay.files) - known):
        yield Finding("it is in the log, but not in the table", f"model {sha256}")
    yield from _check_people(connection, replay)


def _raw(flag: ColumnElement[bool]) -> ColumnElement[int]:
    # The number in the database is compared, as SQLite reads every number except 0 as true.
    return type_coerce(flag, Integer).label("flag")


def _check_applied(connection: Connection, replay: Replay) -> Iterator[Finding]:
    left = dict(replay.removals)
    query = select(APPLIED, _raw(APPLIED.c.rolled_back))
    for row in connection.execute(query.order_by(APPLIED.c.index)).mappings():
        logged = Removal(row["deletion"], row["job"], row["base"], row["new"], stamp(row["time"]))
        same = left.pop(row["index"], None) == logged
        if not same or row["flag"] != (row["index"] in replay.taken_back):
            yield Finding("the applied removal disagrees with the log", f"row {row['index']}")
    for index in left:
        yield Finding("its removal is not in the table", f"row {index} of the log")


def _check_people(connection: Connection, replay: Replay) -> Iterator[Finding]:
    query = select(KEYS, PRINCIPALS.c.role).join(PRINCIPALS, PRINCIPALS.c.name == KEYS.c.principal)
    rows = connection.execute(query).mappings().all()
    for row in rows:
        id = row["id"]
        revoked = None if row["revoked"] is None else stamp(row["revoked"])
        yield from check_key(id, row["principal"], row["pem"], revoked, replay)
        if replay.keys.get(id, ("", row["role"]))[1] != row["role"]:
            yield Finding("its principal has another role than in the log", f"key {id}")
    for id in sorted(set(replay.keys) - {row["id"] for row in rows}):
        yield Finding("it was registered, but is not in the table", f"key {id}")
    owners, commitments, left = {}, {}, _left(connection)
    for row in connection.execute(select(NODES)).mappings():
        owners[row["name"]] = row["owner"]
        if row["left"] != left.pop(row["name"], None):
            yield Finding("its removal disagrees with the table", f"node {row['name']}")
        if row["commitment_root"] is not None:
            commitments[row["name"]] = row["commitment_root"], row["commitment_size"]
    for name in sorted({*owners, *replay.owners, *replay.commitments}):
        owner, commitment = owners.get(name), commitments.get(name)
        if owner != replay.owners.get(name) or commitment != replay.commitments.get(name):
            yield Finding("its owner or commitment disagrees with the log", f"node {name}")
    for name in sorted(left):
        yield Finding("it was removed, but is not in the table", f"node {name}")
    classes = frozenset(connection.execute(select(CLASSES.c.name)).scalars())
    for name in sorted(classes ^ replay.classes):
        yield Finding("the log and the table disagree on whether it exists", f"class {name}")


def _left(connection: Connection) -> dict[str, int]:
    """Return the time of the first applied removal of each removed node."""
    query = select(DELETIONS.c.parsed, APPLIED.c.time).join(
        APPLIED, APPLIED.c.deletion == DELETIONS.c.id
    )
    left: dict[str, int] = {}
    for row in connection.execute(query.order_by(APPLIED.c.index)):
        scope = scope_from(row.parsed)
        for node in scope.nodes if scope.kind is ScopeKind.NODE else ():
            left.setdefault(node, row.time)
    return left


def check_requests(connection: Connection, rows: Sequence[LogRow]) -> Iterator[Finding]:
    """Check each request: its signature, its changes of state, and its end.

    Args:
        connection: Connection to the store.
        rows: Rows of the log; the row of a removal repeats the facts of its request.

    Yields:
        The errors found.
    """
    keys = {
        row.id: row for row in connection.execute(select(KEYS.c.id, KEYS.c.principal, KEYS.c.pem))
    }
    standing = {
        row["deletion"]: row
        for row in connection.execute(select(APPLIED).where(~APPLIED.c.rolled_back)).mappings()
    }
    steps: dict[str, list[RowMapping]] = {}
    for event in connection.execute(select(EVENTS).order_by(EVENTS.c.number)).mappings():
        steps.setdefault(event["deletion"], []).append(event)
    logged = _entries_by_request(rows)
    parsed: dict[str, PublicKey | None] = {}
    for row in connection.execute(select(DELETIONS)).mappings():
        where = f"request {row['id']}"
        key = keys.get(row["key_id"])
        if key is not None and row["key_id"] not in parsed:
            parsed[row["key_id"]] = _key(key.pem)
        owns = key is not None and key.principal == row["owner"]
        for wrong in (
            _signed(row, parsed.get(row["key_id"])),
            None if owns else "its key does not belong to its owner",
            _stepped(row, steps.pop(row["id"], [])),
            _state_by_log(row, logged.get(row["id"], ())),
            _ended(row, standing.pop(row["id"], None)),
        ):
            if wrong is not None:
                yield Finding(wrong, where)
    for id in sorted({*steps, *standing}):
        yield Finding("it has events or removals, but there is no such request", f"request {id}")


def _key(pem: str) -> PublicKey | None:
    try:
        return PublicKey.from_pem(pem)
    except KeyFileError:
        return None


def _signed(row: RowMapping, key: PublicKey | None) -> str | None:
    statement, scope = blob(row["statement"]), blob(row["scope"])
    digests = hashlib.sha256(statement).hexdigest(), hashlib.sha256(scope).hexdigest()
    if digests != (row["statement_sha256"], row["scope_sha256"]):
        return "its digests are not those of its signed statement and scope"
    if key is None:
        return "its key is missing"
    try:
        key.verify(DELETION_TYPE, statement, blob(row["signature"]))
        message = pb.DeletionStatement.FromString(statement)
        read = scope_text(scope_of(scope))
    except (VerificationError, DecodeError, ValueError) as error:
        return f"its signed statement does not verify: {error}"
    named = message.scope_sha256.hex(), message.request_id, message.model_sha256.hex()
    if named != (digests[1], row["request_id"], row["model"]) or read != row["parsed"]:
        return "it differs from its signed statement"
    return None


def _entries_by_request(rows: Sequence[LogRow]) -> dict[str, list[Mapping[str, object]]]:
    logged: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        try:
            entry = parse_canonical(row.entry.encode(), "its entry")
        except VerificationError:
            continue  # the check of the log reports it
        if entry.get("kind") == "removal":
            logged.setdefault(str(entry.get("deletion")), []).append(entry)
    return logged


def _state_by_log(row: RowMapping, entries: Sequence[Mapping[str, object]]) -> str | None:
    for entry in entries:
        for name in ("request_id", "owner", "key_id", "statement_sha256"):
            if entry.get(name, row[name]) != row[name]:
                return f"its {name} is not that of the log"
        received = entry.get("received")
        if received and datetime.fromisoformat(str(received)) != moment(row["created"]):
            return "its time of receipt is not that of the log"
    return None


def _stepped(row: RowMapping, events: list[RowMapping]) -> str | None:
    before: State | None = None
    for event in events:
        try:
            state = State(event["state"])
        except ValueError:
            return f"event {event['number']} has a state that does not exist"
        first = before is None and state in (State.PENDING, State.AWAITING_APPROVAL)
        if not (
            first or (before is not None and (state is before or state in TRANSITIONS[before]))
        ):
            return f"event {event['number']} changes its state from {before} to {state}"
        before = state
    if not events:
        return "it has no events"
    last = events[-1]
    names = ("state", "stage")
    if [row[name] for name in names] != [last[name] for name in names]:
        return "its state is not that of its last event"
    if row["last_event"] != last["number"]:
        return "its number of the last event is not that of its last event"
    ended = None if State(row["state"]) in OPEN else last["time"]
    if (row["created"], row["ended"]) != (events[0]["time"], ended):
        return "its time of receipt or end is not that of its events"
    return None


def _ended(row: RowMapping, applied: RowMapping | None) -> str | None:
    state = row["state"]
    models = (None, None) if applied is None else (applied["base"], applied["new"])
    if (row["model_before"], row["model_after"]) != models:
        return "its models are not those of its removal"
    if applied is None:
        return "it succeeded, but was not applied" if state == State.SUCCEEDED.value else None
    if state not in (State.SUCCEEDED.value, State.RUNNING.value):
        return f"it is {state}, but its removal is in the current model"
    if (state == State.SUCCEEDED.value) != (applied["receipt"] is not None):
        return "it succeeded without a receipt, or has a receipt without success"
    return None


def check_models(connection: Connection, folder: Path | None) -> Iterator[Finding]:
    """Check that retained model files exist unchanged, and that disposed ones do not exist.

    Args:
        connection: Connection to the store.
        folder: Folder of the model files; None to skip their check.

    Yields:
        The errors found.
    """
    if folder is None:
        return
    for row in connection.execute(select(MODELS).order_by(MODELS.c.number)).mappings():
        path = model_path(folder, row["sha256"])
        if row["file"] == "disposed":
            if path.exists():
                yield Finding("it is recorded as disposed of, but still exists", str(path))
            continue
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            yield Finding(f"it cannot be read: {error.strerror}", str(path))
            continue
        if found != row["sha256"]:
            yield Finding(f"it was changed: its sha256 is {found}", str(path))
