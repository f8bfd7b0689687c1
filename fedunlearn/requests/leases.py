"""Jobs and their leases: which worker does what, and who takes over when it dies.

A job is one request or several that can be removed together. Whoever holds its lease works on it;
when the lease ends without having been renewed, the next one takes the job over and the fence goes
up by one. Every write names the fence it was leased with and is refused with another, in the
transaction that writes, so that a worker which only slept too long changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, insert, select, update

from fedunlearn.errors import LeaseLostError, TransitionError
from fedunlearn.requests.clock import micros, moment, stamp
from fedunlearn.requests.database import Database, Transaction
from fedunlearn.requests.deletion import Deletion, Stage, State
from fedunlearn.requests.rows import DELETION_COLUMNS, deletion_from, storable
from fedunlearn.requests.tables import APPLIED, CURRENT, DELETIONS, JOBS
from fedunlearn.requests.transitions import locked, move, note


@dataclass(frozen=True)
class Lease:
    """A worker's right to work on a job.

    Attributes:
        job: Name of the job.
        fence: Higher each time the job is leased.
        worker: Who holds it.
        until: When it ends.
        deletions: The requests, by due date.
        base: sha256 of the model that was current when the job began.
        taken_over: Whether another lease on the job ended before.
    """

    job: str
    fence: int
    worker: str
    until: datetime
    deletions: tuple[Deletion, ...]
    base: str
    taken_over: bool


class Leases:
    """What a request store does with jobs."""

    _database: Database

    def lease(self, worker: str, *, now: datetime, seconds: float, batch: int = 1) -> Lease | None:
        """Take over a job whose lease has ended, or begin one with the requests due first.

        Args:
            worker: Who asks.
            now: The time.
            seconds: How long it may work before it renews.
            batch: At most so many requests in a new job; those of whole nodes and of records each
                go together, those of classes with others on the same nodes.

        Returns:
            The lease; None where there is nothing to do.

        Raises:
            TransitionError: Requests wait, and there is no model to remove from.
        """
        time = micros(now)
        until = time + round(seconds * 1e6)
        with self._database.write() as tx:
            return _take_over(tx, worker, time, until) or _begin(tx, worker, time, until, batch)

    def renew(self, lease: Lease, *, now: datetime, seconds: float) -> Lease:
        """Go on working on a job.

        Args:
            lease: That is held.
            now: The time.
            seconds: How long from now on.

        Returns:
            The lease as it is then.

        Raises:
            LeaseLostError: It has ended.
        """
        until = micros(now) + round(seconds * 1e6)
        with self._database.write() as tx:
            held(tx, lease, now)
            _set(tx, lease, until=until)
        return replace(lease, until=moment(until))

    def release(self, lease: Lease, *, now: datetime) -> None:
        """End a lease, so that another worker takes the job over at once.

        Args:
            lease: That is held.
            now: The time.

        Raises:
            LeaseLostError: It has ended already.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            _set(tx, lease, until=micros(now))

    def rebase(self, lease: Lease, *, now: datetime) -> Lease:
        """Begin a job anew from the current model, because another job has changed it.

        Args:
            lease: That is held.
            now: The time.

        Returns:
            The lease with the new base.

        Raises:
            LeaseLostError: It has ended.
            TransitionError: The job is applied already.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            _refuse_applied(tx, lease.job)
            base = tx.execute(select(CURRENT.c.model)).scalar_one()
            _set(tx, lease, base=base)
        return replace(lease, base=base)

    def advance(self, lease: Lease, stage: Stage, *, now: datetime) -> None:
        """Say what is being done; the same stage again does nothing.

        Args:
            lease: That is held.
            stage: Of all its requests.
            now: The time.

        Raises:
            LeaseLostError: It has ended.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            deletions = locked(tx, [deletion.id for deletion in lease.deletions])
            for deletion in deletions:
                if deletion.stage is not stage:
                    actor = f"worker {lease.worker}"
                    note(tx, deletion, actor=actor, now=micros(now), stage=stage)

    def fail(self, lease: Lease, reason: str, *, now: datetime) -> None:
        """End a job that could not be done; its requests may be tried again.

        Args:
            lease: That is held.
            reason: Why.
            now: The time.

        Raises:
            LeaseLostError: It has ended.
            TransitionError: The job is applied already and only needs to be finished.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            _refuse_applied(tx, lease.job)
            deletions = locked(tx, [deletion.id for deletion in lease.deletions])
            time, reason = micros(now), storable(reason)
            move(
                tx,
                deletions,
                State.FAILED,
                actor=f"worker {lease.worker}",
                now=time,
                reason=reason,
                columns={"reason": reason},
            )
            _set(tx, lease, ended=time)


def held(tx: Transaction, lease: Lease, now: datetime) -> RowMapping:
    """Return the row of a job, which nobody else changes until the transaction ends.

    Args:
        tx: The transaction, before it gives numbers.
        lease: On the job.
        now: The time.

    Returns:
        The row.

    Raises:
        LeaseLostError: The lease has ended.
    """
    row = job_row(tx, lease)
    if row["ended"] is not None:
        raise LeaseLostError(f"job {lease.job} has ended")
    if row["until"] <= micros(now):
        raise LeaseLostError(
            f"the lease of worker {lease.worker} on job {lease.job} ended on {stamp(row['until'])}"
        )
    return row


def job_row(tx: Transaction, lease: Lease) -> RowMapping:
    """Return the row of a job that may have ended.

    Args:
        tx: The transaction, before it gives numbers.
        lease: On the job.

    Returns:
        The row, locked.

    Raises:
        LeaseLostError: Another worker has taken it over.
    """
    query = select(JOBS).where(JOBS.c.id == lease.job).with_for_update()
    row = tx.execute(query).mappings().one_or_none()
    if row is None or row["fence"] != lease.fence:
        raise LeaseLostError(
            f"worker {lease.worker} has lost job {lease.job} to a worker that leased it later"
        )
    return row


def _set(tx: Transaction, lease: Lease, **values: object) -> None:
    tx.execute(update(JOBS).where(JOBS.c.id == lease.job).values(**values))


def _refuse_applied(tx: Transaction, job: str) -> None:
    if tx.execute(select(APPLIED.c.index).where(APPLIED.c.job == job).limit(1)).first() is not None:
        raise TransitionError(f"job {job} is applied already; right is to finish it")


def _take_over(tx: Transaction, worker: str, now: int, until: int) -> Lease | None:
    job = (
        tx.execute(
            select(JOBS)
            .where(JOBS.c.ended.is_(None), JOBS.c.until <= now)
            .order_by(JOBS.c.created, JOBS.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        .mappings()
        .one_or_none()
    )
    if job is None:
        return None
    fence = job["fence"] + 1
    values = {"fence": fence, "worker": worker, "until": until}
    tx.execute(update(JOBS).where(JOBS.c.id == job["id"]).values(values))
    ids = tx.execute(
        select(DELETIONS.c.id).where(
            DELETIONS.c.job == job["id"], DELETIONS.c.state == State.RUNNING.value
        )
    ).scalars()
    reason = f"taken over from worker {job['worker']}"
    for deletion in (deletions := locked(tx, ids)):
        note(
            tx,
            deletion,
            actor=f"worker {worker}",
            now=now,
            stage=deletion.stage,
            reason=reason,
            columns={"attempts": DELETIONS.c.attempts + 1},
        )
    return _lease(tx, {**job, **values}, deletions, taken_over=True)


def _begin(tx: Transaction, worker: str, now: int, until: int, batch: int) -> Lease | None:
    waiting = (
        select(*DELETION_COLUMNS)
        .where(DELETIONS.c.state == State.PENDING.value)
        .order_by(DELETIONS.c.due, DELETIONS.c.created, DELETIONS.c.id)
        .with_for_update(skip_locked=True)
    )
    first = tx.execute(waiting.limit(1)).mappings().one_or_none()
    if first is None:
        return None
    rows = [first]
    if batch > 1:
        alike = DELETIONS.c.family == first["family"], DELETIONS.c.id != first["id"]
        rows += tx.execute(waiting.where(*alike).limit(batch - 1)).mappings().all()
    deletions = [deletion_from(row) for row in rows]
    base = tx.execute(select(CURRENT.c.model)).scalar_one_or_none()
    if base is None:
        raise TransitionError("requests wait and there is no model; right is to add the first one")
    job = {
        "id": str(uuid.uuid4()),
        "base": base,
        "fence": 1,
        "worker": worker,
        "until": until,
        "created": now,
    }
    tx.execute(insert(JOBS).values(job))
    move(
        tx,
        deletions,
        State.RUNNING,
        actor=f"worker {worker}",
        now=now,
        stage=Stage.COLLECTING,
        columns={"job": job["id"], "attempts": DELETIONS.c.attempts + 1, "reason": ""},
    )
    return _lease(tx, job, deletions, taken_over=False)


def _lease(
    tx: Transaction, job: Mapping[str, Any], deletions: list[Deletion], *, taken_over: bool
) -> Lease:
    query = select(*DELETION_COLUMNS).where(DELETIONS.c.id.in_([d.id for d in deletions]))
    order = DELETIONS.c.due, DELETIONS.c.created, DELETIONS.c.id
    rows = tx.execute(query.order_by(*order)).mappings()
    return Lease(
        job=job["id"],
        fence=job["fence"],
        worker=job["worker"],
        until=moment(job["until"]),
        deletions=tuple(deletion_from(row) for row in rows),
        base=job["base"],
        taken_over=taken_over,
    )
