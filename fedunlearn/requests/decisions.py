"""Decisions of owners and operators about requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from fedunlearn.errors import TransitionError
from fedunlearn.requests.clock import micros, months_after, stamp
from fedunlearn.requests.database import Database
from fedunlearn.requests.deletion import OPEN, Deletion, State
from fedunlearn.requests.rows import storable
from fedunlearn.requests.tables import DELETIONS
from fedunlearn.requests.transitions import locked, move, note

# Counted from the receipt of the request; GDPR Art. 12(3): one month, and two more with a reason.
MOST_MONTHS = 3


class Decisions:
    """The decisions about requests, as methods of a request store.

    ``actor`` has the form of Event: "owner NAME" or "operator NAME".
    """

    _database: Database

    def cancel(self, id: str, actor: str, *, now: datetime) -> Deletion:
        """Cancel a request that does not run yet.

        Args:
            id: Id of the request.
            actor: The owner or operator who decides.
            now: The current time.

        Returns:
            The changed request.

        Raises:
            UnknownDeletionError: There is no such request.
            TransitionError: The request runs, or has ended.
        """
        return self._decide(id, None, State.CANCELLED, actor, "", now)

    def approve(self, id: str, actor: str, *, now: datetime) -> Deletion:
        """Approve a request that waits for approval.

        Args:
            id: Id of the request.
            actor: The owner or operator who decides.
            now: The current time.

        Returns:
            The changed request.

        Raises:
            UnknownDeletionError: There is no such request.
            TransitionError: The request does not wait for approval.
        """
        return self._decide(id, State.AWAITING_APPROVAL, State.PENDING, actor, "", now)

    def reject(self, id: str, actor: str, reason: str, *, now: datetime) -> Deletion:
        """Reject a request that does not run.

        Args:
            id: Id of the request.
            actor: The owner or operator who decides.
            reason: Reason of the decision.
            now: The current time.

        Returns:
            The changed request.

        Raises:
            UnknownDeletionError: There is no such request.
            TransitionError: The request runs, or has ended.
        """
        return self._decide(id, None, State.REJECTED, actor, reason, now)

    def retry(self, id: str, actor: str, *, now: datetime) -> Deletion:
        """Queue a failed request again.

        Args:
            id: Id of the request.
            actor: The owner or operator who decides.
            now: The current time.

        Returns:
            The changed request.

        Raises:
            UnknownDeletionError: There is no such request.
            TransitionError: The request has not failed.
        """
        return self._decide(id, State.FAILED, State.PENDING, actor, "", now)

    def extend(self, id: str, actor: str, due: datetime, reason: str, *, now: datetime) -> Deletion:
        """Extend the due date of a request; this is possible once.

        Args:
            id: Id of the request.
            actor: The owner or operator who decides.
            due: The new due date, at most three months after the request was received.
            reason: Reason of the decision.
            now: The current time.

        Returns:
            The changed request.

        Raises:
            UnknownDeletionError: There is no such request.
            TransitionError: The request has ended or was extended before, or the new date is too
                early or too late.
        """
        reason = storable(reason)
        with self._database.write() as tx:
            (deletion,) = locked(tx, [id])
            if deletion.state not in OPEN:
                raise TransitionError(f"request {id} is {deletion.state} and has no due date")
            query = select(DELETIONS.c.extended).where(DELETIONS.c.id == id)
            if tx.execute(query).scalar_one():
                raise TransitionError(f"request {id} was extended before, which is allowed once")
            latest = months_after(deletion.created, MOST_MONTHS)
            if not deletion.due < due <= latest:
                raise TransitionError(
                    f"request {id} cannot be due on {stamp(micros(due))}; right is after "
                    f"{stamp(micros(deletion.due))} and not after {stamp(micros(latest))}"
                )
            note(
                tx,
                deletion,
                actor=actor,
                now=micros(now),
                stage=deletion.stage,
                reason=reason,
                columns={"due": micros(due), "extended": True, "reason": reason},
            )
            return locked(tx, [id])[0]

    def _decide(
        self, id: str, only: State | None, state: State, actor: str, reason: str, now: datetime
    ) -> Deletion:
        time, reason = micros(now), storable(reason)
        with self._database.write() as tx:
            (deletion,) = locked(tx, [id])
            if only is not None and deletion.state is not only:
                raise TransitionError(
                    f"request {id} is {deletion.state}; right is one that is {only}"
                )
            ends = state not in OPEN
            move(
                tx,
                [deletion],
                state,
                actor=actor,
                now=time,
                reason=reason,
                columns={"reason": reason, "ended": time if ends else None},
            )
            return locked(tx, [id])[0]
