"""The one place where a request's state changes."""

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
    """Return requests that nobody else changes until the transaction ends.

    Args:
        tx: The transaction, before it gives numbers.
        ids: Theirs.

    Returns:
        The requests, in the order of their ids, in which everybody locks them.

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
    """Change the state of requests, or only their stage or dates, and keep each change as an event.

    Args:
        tx: The transaction.
        deletions: Which are locked.
        state: The new one, or the one they have.
        actor: Who does it, as Event says.
        now: Microseconds since the epoch.
        stage: The new one.
        reason: Why, where there is one to give.
        columns: Further columns of the table to set.

    Raises:
        TransitionError: A request's state does not allow it.
    """
    for deletion in deletions:
        if state is not deletion.state and state not in TRANSITIONS[deletion.state]:
            raise TransitionError(
                f"request {deletion.id} is {deletion.state} and cannot become {state}"
            )
    first = max(tx.numbered(EVENTS.c.number), 1)
    changed = tx.execute(
        update(DELETIONS)
        .where(DELETIONS.c.id == bindparam("of_id"), DELETIONS.c.state == bindparam("of_state"))
        .values(
            state=state.value,
            stage=None if stage is None else stage.value,
            last_event=bindparam("number"),
            **(columns or {}),
        ),
        [
            {"of_id": deletion.id, "of_state": deletion.state.value, "number": first + i}
            for i, deletion in enumerate(deletions)
        ],
    )
    if changed.rowcount != len(deletions):
        raise TransitionError("a request has changed in between; right is to look at it again")
    tx.execute(
        insert(EVENTS),
        [
            event_row(first + i, deletion.id, state, stage, actor=actor, now=now, reason=reason)
            for i, deletion in enumerate(deletions)
        ],
    )


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
        "stage": None if stage is None else stage.value,
        "actor": actor,
        "reason": reason,
    }
