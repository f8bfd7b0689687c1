"""Storing requests, and reading requests and their changes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import func, insert, select, tuple_

from fedunlearn.errors import RequestReusedError, UnknownDeletionError
from fedunlearn.requests.clock import micros
from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.deletion import (
    OPEN,
    Deletion,
    Event,
    NewDeletion,
    Scope,
    ScopeKind,
    State,
)
from fedunlearn.requests.rows import DELETION_COLUMNS, deletion_from, event_from, scope_text
from fedunlearn.requests.tables import DELETIONS, EVENTS, PRINCIPALS
from fedunlearn.requests.transitions import event_row

Outcome = tuple[Deletion, bool] | RequestReusedError


class Filing:
    """The methods of a request store that store and return requests and their changes."""

    _database: Database

    def create(self, new: NewDeletion) -> tuple[Deletion, bool]:
        """Store a request; a repeated request returns the stored one.

        Requests of an owner with the same id and the same scope are repeats. Their times and models
        may differ, as an owner who missed the answer signs again.

        Args:
            new: The checked request.

        Returns:
            The request, and whether it is new.

        Raises:
            RequestReusedError: The owner has used the request id for another request.
        """
        (outcome,) = self.create_many([new])
        if isinstance(outcome, RequestReusedError):
            raise outcome
        return outcome

    def create_many(self, news: Sequence[NewDeletion]) -> list[Outcome]:
        """Store requests in one transaction, which costs one flush to the disk.

        Args:
            news: The checked requests.

        Returns:
            One outcome for each request, in their order: the stored request and whether it is new,
            or the error with which it is refused.
        """
        if not news:
            return []
        with self._database.write() as tx:
            tx.order()
            known = _known(tx, news)
            number = max(tx.numbered(EVENTS.c.number), 1)
            rows: list[dict[str, Any]] = []
            outcomes: list[Outcome] = []
            for new in news:
                stored = known.get((new.owner, new.request_id))
                if stored is None:
                    row = _row(new, number + len(rows))
                    rows.append(row)
                    stored = known[new.owner, new.request_id] = deletion_from(row)
                    outcomes.append((stored, True))
                elif stored.scope_sha256 == _digests(new)[1]:
                    outcomes.append((stored, False))
                else:
                    outcomes.append(
                        RequestReusedError(
                            f"request id {new.request_id} is used for another request; right is "
                            "a new UUID4 for each request"
                        )
                    )
            if rows:
                roles = _roles(tx, {row["owner"] for row in rows})
                tx.execute(_INSERT, rows)
                tx.execute(
                    insert(EVENTS),
                    [
                        event_row(
                            row["last_event"],
                            row["id"],
                            State(row["state"]),
                            None,
                            actor=f"{roles[row['owner']]} {row['owner']}",
                            now=row["created"],
                        )
                        for row in rows
                    ],
                )
        return outcomes

    def get(self, id: str) -> Deletion:
        """Return a request.

        Raises:
            UnknownDeletionError: There is no request with this id.
        """
        with self._database.read() as connection:
            query = select(*DELETION_COLUMNS).where(DELETIONS.c.id == id)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownDeletionError(f"there is no request {id}")
        return deletion_from(row)

    def find(self, owner: str, request_id: str) -> Deletion | None:
        """Return an owner's request by the id that the owner gave it."""
        query = select(*DELETION_COLUMNS).where(
            DELETIONS.c.owner == owner, DELETIONS.c.request_id == request_id
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else deletion_from(row)

    def count_open(self, owner: str) -> int:
        """Return the number of an owner's open requests."""
        query = select(func.count()).where(DELETIONS.c.owner == owner, DELETIONS.c.state.in_(_OPEN))
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def count_since(self, owner: str, since: datetime) -> int:
        """Return the number of requests that an owner has made since a time."""
        query = select(func.count()).where(
            DELETIONS.c.owner == owner, DELETIONS.c.created >= micros(since)
        )
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def events(self, id: str | None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Return the changes after a given one, in order; later changes have higher numbers.

        Args:
            id: Id of the request; None for all requests.
            after: Number of the last change that was seen.
            limit: Largest number of changes to return.

        Raises:
            UnknownDeletionError: There is no such request.
        """
        query = select(EVENTS).where(EVENTS.c.number > after).order_by(EVENTS.c.number)
        if id is not None:
            query = query.where(EVENTS.c.deletion == id)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit)).mappings()
            found = [event_from(row) for row in rows]
            if not found and id is not None:
                known = select(DELETIONS.c.id).where(DELETIONS.c.id == id)
                if connection.execute(known).scalar_one_or_none() is None:
                    raise UnknownDeletionError(f"there is no request {id}")
        return found

    def last_event(self) -> int:
        """Return the number of the last change of any request; 0 before the first."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(EVENTS.c.number))).scalar_one() or 0

    def list(
        self,
        *,
        owner: str | None = None,
        states: Iterable[State] = (),
        after: str | None = None,
        limit: int = 50,
    ) -> list[Deletion]:
        """Return requests, the oldest first.

        Args:
            owner: Name of the owner of the requests; None for all owners.
            states: States of the requests; all states if empty.
            after: Id of the last request of the previous page; None for the first page.
            limit: Largest number of requests to return.

        Raises:
            UnknownDeletionError: There is no request ``after``.
        """
        query = select(*DELETION_COLUMNS).order_by(DELETIONS.c.created, DELETIONS.c.id)
        wanted = [state.value for state in states]
        if owner is not None:
            query = query.where(DELETIONS.c.owner == owner)
        if wanted:
            query = query.where(DELETIONS.c.state.in_(wanted))
        with self._database.read() as connection:
            if after is not None:
                place = select(DELETIONS.c.created).where(DELETIONS.c.id == after)
                created = connection.execute(place).scalar_one_or_none()
                if created is None:
                    raise UnknownDeletionError(f"there is no request {after} after which to list")
                query = query.where(
                    tuple_(DELETIONS.c.created, DELETIONS.c.id) > tuple_(created, after)
                )
            rows = connection.execute(query.limit(limit)).mappings()
            return [deletion_from(row) for row in rows]


_INSERT = insert(DELETIONS)
_OPEN = [state.value for state in OPEN]


def _known(tx: Transaction, news: Sequence[NewDeletion]) -> dict[tuple[str, str], Deletion]:
    # The query by request id uses an index; requests of other owners with these ids do no harm.
    ids = sorted({new.request_id for new in news})
    query = select(*DELETION_COLUMNS).where(DELETIONS.c.request_id.in_(ids))
    found = map(deletion_from, tx.execute(query).mappings())
    return {(deletion.owner, deletion.request_id): deletion for deletion in found}


def _roles(tx: Transaction, names: Iterable[str]) -> dict[str, str]:
    query = select(PRINCIPALS.c.name, PRINCIPALS.c.role).where(PRINCIPALS.c.name.in_(names))
    return {row.name: row.role for row in tx.execute(query)}


def _digests(new: NewDeletion) -> tuple[str, str]:
    return sha256(new.statement).hexdigest(), sha256(new.scope).hexdigest()


def _family(scope: Scope) -> str:
    """Return a name that requests share if one job may remove them, as classes on equal nodes."""
    if scope.kind is ScopeKind.CLASS:
        return f"class on {json.dumps(scope.nodes) if scope.nodes else 'all'}"
    return scope.kind.value


def _row(new: NewDeletion, number: int) -> dict[str, Any]:
    statement, scope = _digests(new)
    return {
        "id": str(uuid.uuid4()),
        "owner": new.owner,
        "request_id": new.request_id,
        "key_id": new.key_id,
        "statement": new.statement,
        "signature": new.signature,
        "scope": new.scope,
        "statement_sha256": statement,
        "scope_sha256": scope,
        "parsed": scope_text(new.parsed),
        "family": _family(new.parsed),
        "model": new.model,
        "state": (State.AWAITING_APPROVAL if new.awaits_approval else State.PENDING).value,
        "stage": None,
        "created": micros(new.received),
        "due": micros(new.due),
        "extended": False,
        "ended": None,
        "reason": "",
        "attempts": 0,
        "job": None,
        "last_event": number,
        "model_before": None,
        "model_after": None,
    }
