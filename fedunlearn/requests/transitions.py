"""Changes of a request's state; no other module changes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update

from fedunlearn.errors import TransitionError, UnknownDeletionError
from fedunlearn.requests.database import Transaction
from fedunlearn.requests.deletion import TRANSITIONS, Deletion, Stage, State
from fedunlearn.requests.rows import DELETION_COLUMNS, deletion_from
from fedunlearn.requests.tables import DELETIONS, EVENTS


def locked(tx: Transaction, ids: Iterable[str]) -> list[Deletion]:
    """Return requests, locked until the transaction ends.

    Args:
        tx: The transaction, which has not assigned numbers yet.
        ids: Ids of the requests.

    Returns:
        The requests in the order of their ids; all transactions lock them in this order.

    Raises:
        UnknownDeletionError: There is no such request.
    """
    wanted = sorted(set(ids))
    rows = tx.execute(
        select(*DELETION_COLUMNS)
        .where(DELETIONS.c.id.in_(wanted))
        .order_by(DELETIONS.c.id)
        .with_for_update()
    ).mappings()
    found = [deletion_from(row) for row in rows]
    missing = set(wanted) - {deletion.id for deletion in found}
    if missing:
        raise UnknownDeletionError(f"there is no request {min(missing)}")
    return found


def move(
    tx: Transaction,
    deletions: Sequence[Deletion],
    state: State,
    *,
    actor: str,
    now: int,
    stage: Stage | None = None,
    reason: str = "",
    columns: Mapping[str, object] | None = None,
) -> None:
    """Change the state of requests, and record each change as an event.

    Args:
        tx: The transaction.
        deletions: The locked requests.
        state: The new state.
        actor: Author of the change, in the form of Event.
        now: Current time in microseconds since the epoch.
        stage: The new stage.
        reason: Reason of the change, if any.
        columns: Further columns of the table to set.

    Raises:
        TransitionError: A request's state does not allow it.
    """
    for deletion in deletions:
        if state not in TRANSITIONS[deletion.state]:
            raise TransitionError(
                f"request {deletion.id} is {deletion.state} and cannot become {state}"
            )
    values = {**(columns or {}), "state": state.value, "stage": _value(stage)}
    first = _update(tx, deletions, values)
    events = [
        event_row(first + i, deletion.id, state, stage, actor=actor, now=now, reason=reason)
        for i, deletion in enumerate(deletions)
    ]
    tx.execute(insert(EVENTS), events)


def note(
    tx: Transaction,
    deletion: Deletion,
    *,
    actor: str,
    now: int,
    stage: Stage | None,
    reason: str = "",
    columns: Mapping[str, object] | None = None,
) -> None:
    """Change a request without changing its state, and record the change as an event.

    Args:
        tx: The transaction.
        deletion: The locked request.
        actor: Author of the change, in the form of Event.
        now: Current time in microseconds since the epoch.
        stage: The stage after the change.
        reason: Reason of the change, if any.
        columns: Further columns of the table to set.
    """
    number = _update(tx, [deletion], {**(columns or {}), "stage": _value(stage)})
    row = event_row(number, deletion.id, deletion.state, stage, actor=actor, now=now, reason=reason)
    tx.execute(insert(EVENTS), [row])


def _value(stage: Stage | None) -> str | None:
    return None if stage is None else stage.value


def _update(tx: Transaction, deletions: Sequence[Deletion], values: Mapping[str, object]) -> int:
    """Set columns of requests whose state has not changed since they were read.

    Args:
        tx: The transaction.
        deletions: The requests.
        values: Values of the columns.

    Returns:
        Number of the first request's event; those of the others follow.

    Raises:
        TransitionError: The state of a request has changed.
    """
    first = max(tx.numbered(EVENTS.c.number), 1)
    changed = tx.execute(
        update(DELETIONS)
        .where(DELETIONS.c.id == bindparam("of_id"), DELETIONS.c.state == bindparam("of_state"))
        .values(last_event=bindparam("number"), **values),
        [
            {"of_id": deletion.id, "of_state": deletion.state.value, "number": first + i}
            for i, deletion in enumerate(deletions)
        ],
    )
    if changed.rowcount != len(deletions):
        raise TransitionError("a request has changed in the meantime; right is to read it again")
    return first


def event_row(
    number: int,
    deletion: str,
    state: State,
    stage: Stage | None,
    *,
    actor: str,
    now: int,
    reason: str = "",
) -> dict[str, Any]:
    """Return a row of the table of events."""
    return {
        "number": number,
        "deletion": deletion,
        "time": now,
        "state": state.value,
        "stage": _value(stage),
        "actor": actor,
        "reason": reason,
    }
