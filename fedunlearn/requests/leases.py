"""Jobs and their leases: which worker runs a job, and which takes it over if that worker fails.

A job is one request, or several that can be removed together. The worker that holds its lease runs
it. If the lease expires without renewal, another worker takes the job over, and the fencing token
is incremented. Every write carries the token of its lease and is refused, in the same transaction,
if the token is outdated. A worker that was only suspended for too long therefore changes nothing.
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
    """A worker's time-limited right to run a job.

    Attributes:
        job: Id of the job.
        fence: Fencing token, which increases each time the job is leased.
        worker: Name of the worker that holds the lease.
        until: Time at which the lease ends.
        deletions: Requests of the job, by due date.
        base: sha256 of the model that was current when the job began.
        taken_over: Whether the job was taken over from an earlier lease.
    """

    job: str
    fence: int
    worker: str
    until: datetime
    deletions: tuple[Deletion, ...]
    base: str
    taken_over: bool


class Leases:
    """The methods of a request store for jobs."""

    _database: Database

    def lease(self, worker: str, *, now: datetime, seconds: float, batch: int = 1) -> Lease | None:
        """Take over a job whose lease has ended, or begin one with the requests due first.

        Args:
            worker: Name of the worker.
            now: The current time.
            seconds: Duration of the lease, before whose end the worker must renew it.
            batch: Largest number of requests in a new job. A job combines requests for whole nodes,
                or for records, or for classes on the same nodes.

        Returns:
            The lease; None if there is nothing to do.

        Raises:
            TransitionError: Requests wait, and there is no model yet.
        """
        time = micros(now)
        until = time + round(seconds * 1e6)
        with self._database.write() as tx:
            return _take_over(tx, worker, time, until) or _begin(tx, worker, time, until, batch)

    def renew(self, lease: Lease, *, now: datetime, seconds: float) -> Lease:
        """Extend a lease.

        Args:
            lease: The lease.
            now: The current time.
            seconds: New duration of the lease, counted from now.

        Returns:
            The extended lease.

        Raises:
            LeaseLostError: The lease has ended.
        """
        until = micros(now) + round(seconds * 1e6)
        with self._database.write() as tx:
            held(tx, lease, now)
            _set(tx, lease, until=until)
        return replace(lease, until=moment(until))

    def release(self, lease: Lease, *, now: datetime) -> None:
        """End a lease, so that another worker can take the job over at once.

        Args:
            lease: The lease.
            now: The current time.

        Raises:
            LeaseLostError: The lease has ended already.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            _set(tx, lease, until=micros(now))

    def rebase(self, lease: Lease, *, now: datetime) -> Lease:
        """Restart a job from the current model, because another job has replaced the model.

        Args:
            lease: The lease.
            now: The current time.

        Returns:
            The lease with the new base.

        Raises:
            LeaseLostError: The lease has ended.
            TransitionError: The job is applied already.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            _refuse_applied(tx, lease.job)
            base = tx.execute(select(CURRENT.c.model)).scalar_one()
            _set(tx, lease, base=base)
        return replace(lease, base=base)

    def advance(self, lease: Lease, stage: Stage, *, now: datetime) -> None:
        """Record the stage of a job; the same stage again changes nothing.

        Args:
            lease: The lease.
            stage: New stage of all requests of the job.
            now: The current time.

        Raises:
            LeaseLostError: The lease has ended.
        """
        with self._database.write() as tx:
            held(tx, lease, now)
            deletions = locked(tx, [deletion.id for deletion in lease.deletions])
            for deletion in deletions:
                if deletion.stage is not stage:
                    actor = f"worker {lease.worker}"
                    note(tx, deletion, actor=actor, now=micros(now), stage=stage)

    def fail(self, lease: Lease, reason: str, *, now: datetime) -> None:
        """End a job that failed; its requests can be retried.

        Args:
            lease: The lease.
            reason: Reason of the failure.
            now: The current time.

        Raises:
            LeaseLostError: The lease has ended.
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
    """Return the row of a job, locked until the transaction ends.

    Args:
        tx: The transaction, which has not assigned numbers yet.
        lease: Lease on the job.
        now: The current time.

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
        tx: The transaction, which has not assigned numbers yet.
        lease: Lease on the job.

    Returns:
        The locked row.

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
        raise TransitionError(
            "requests wait and there is no model; right is to add the first model"
        )
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
