"""Swapping the model, finishing a job, and rolling a removal back, each in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from fedunlearn.errors import TransitionError, VerificationError
from fedunlearn.requests.clock import micros, moment
from fedunlearn.requests.database import Transaction
from fedunlearn.requests.deletion import Deletion, Scope, ScopeKind, State
from fedunlearn.requests.leases import Lease, held, job_row
from fedunlearn.requests.log_store import append
from fedunlearn.requests.model_lineage import (
    Model,
    Models,
    insert_model,
    lineage_has,
    read_model,
    revive_model,
)
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.rows import scope_from, storable
from fedunlearn.requests.tables import APPLIED, CURRENT, DELETIONS, JOBS, LOG, MODELS, NODES
from fedunlearn.requests.transitions import locked, move

REMOVAL = "removal"


@dataclass(frozen=True)
class Applied:
    """An applied removal: one request of a job that has swapped the model.

    Attributes:
        deletion: Id of the request.
        job: Id of the job.
        base: sha256 of the model before the removal.
        new: sha256 of the model after the removal.
        index: Index of the removal's row in the log.
        time: Time of the swap.
        rolled_back: Whether the removal has been rolled back since.
    """

    deletion: str
    job: str
    base: str
    new: str
    index: int
    time: datetime
    rolled_back: bool


class Removals(Models):
    """The methods of a request store for applied removals."""

    def commit(
        self,
        lease: Lease,
        *,
        new: str,
        entries: Mapping[str, Mapping[str, object]],
        facts: Mapping[str, object],
        now: datetime,
    ) -> tuple[Applied, ...]:
        """Swap the current model exactly once; a repeated call returns the first result.

        Args:
            lease: Lease on the job.
            new: sha256 of the model file after the removal, which must be on the disk.
            entries: Content of the rows in the log besides kind, request, job, models and time, by
                request.
            facts: Further facts to store with the model, JSON.
            now: The current time.

        Returns:
            The applied removal of each request, in the order of the log.

        Raises:
            LeaseLostError: The lease has ended.
            TransitionError: The current model is not the job's base any more, or descends from
                the new model.
            ValueError: An entry is missing, or contains other values of the fixed fields.
        """
        issuer, time = self._signer(), micros(now)
        ids = [deletion.id for deletion in lease.deletions]
        if set(entries) != set(ids):
            raise ValueError(f"job {lease.job} needs one entry for each of its {len(ids)} requests")
        with self._database.write() as tx:
            held(tx, lease, now)
            done = _of_job(tx.connection, lease.job)
            if done:
                return done
            current = tx.execute(select(CURRENT.c.model).with_for_update()).scalar_one()
            if current != lease.base:
                raise TransitionError(
                    f"the current model changed from {lease.base} to {current} while job "
                    f"{lease.job} ran; right is to restart it from there"
                )
            locked(tx, ids)
            tx.order()
            _take_into_use(tx, new, lease.base, facts, time)
            leaves = [_entry(entries[id], id, lease, new) for id in ids]
            indexes = append(tx, issuer, leaves, time)
            tx.execute(
                insert(APPLIED),
                [
                    {
                        "index": index,
                        "deletion": id,
                        "job": lease.job,
                        "base": lease.base,
                        "new": new,
                        "time": time,
                        "rolled_back": False,
                    }
                    for index, id in zip(indexes, ids, strict=True)
                ],
            )
            models = {"model_before": lease.base, "model_after": new}
            tx.execute(update(DELETIONS).where(DELETIONS.c.id.in_(ids)).values(models))
            _leave(tx, lease.deletions, time)
            return _of_job(tx.connection, lease.job)

    def finish(self, lease: Lease, receipts: Mapping[str, str], *, now: datetime) -> None:
        """End an applied job and store its receipts; a repeated call changes nothing.

        Args:
            lease: Lease on the job.
            receipts: Receipts by request.
            now: The current time.

        Raises:
            LeaseLostError: The lease has ended.
            TransitionError: The job is not applied, or has ended with other receipts.
            VerificationError: A receipt is missing, or does not belong to this job's rows in the
                log.
        """
        issuer, time = self._signer(), micros(now)
        found = {id: verify_receipt(text, issuer.public) for id, text in receipts.items()}
        with self._database.write() as tx:
            if job_row(tx, lease)["ended"] is not None:
                query = select(APPLIED.c.deletion, APPLIED.c.receipt)
                rows = tx.execute(query.where(APPLIED.c.job == lease.job))
                if {row.deletion: row.receipt for row in rows} != dict(receipts):
                    raise TransitionError(f"job {lease.job} has ended with other receipts, or none")
                return
            held(tx, lease, now)
            applied = _of_job(tx.connection, lease.job)
            if not applied:
                raise TransitionError(f"job {lease.job} is not applied; right is to commit it")
            for row in applied:
                receipt = found.get(row.deletion)
                query = select(LOG.c.entry).where(LOG.c.index == row.index)
                entry = tx.execute(query).scalar_one()
                if (
                    receipt is None
                    or (receipt.index, receipt.model) != (row.index, row.new)
                    or receipt.leaf.decode() != entry
                ):
                    raise VerificationError(
                        f"request {row.deletion} has no receipt for row {row.index} of the log"
                    )
            deletions = locked(tx, [row.deletion for row in applied])
            move(
                tx,
                deletions,
                State.SUCCEEDED,
                actor=f"worker {lease.worker}",
                now=time,
                columns={"ended": time, "reason": ""},
            )
            for row in applied:
                tx.execute(
                    update(APPLIED)
                    .where(APPLIED.c.index == row.index)
                    .values(receipt=receipts[row.deletion])
                )
            tx.execute(update(JOBS).where(JOBS.c.id == lease.job).values(ended=time))

    def rollback(self, actor: str, reason: str, *, now: datetime) -> Model:
        """Roll the last removal back: restore the model before it, and mark its requests failed.

        Args:
            actor: The operator who rolls back, in the form "operator NAME".
            reason: Reason of the rollback.
            now: The current time.

        Returns:
            The restored model.

        Raises:
            TransitionError: There is no removal to roll back, a job runs, or the file of the
                previous model is deleted.
        """
        issuer, time, reason = self._signer(), micros(now), storable(reason)
        with self._database.write() as tx:
            tx.execute(select(CURRENT).with_for_update())
            query = select(JOBS.c.id).where(JOBS.c.ended.is_(None)).limit(1)
            running = tx.execute(query).scalar_one_or_none()
            if running is not None:
                raise TransitionError(f"job {running} runs; right is to wait until it has ended")
            query = select(APPLIED.c.job).where(~APPLIED.c.rolled_back)
            job = tx.execute(query.order_by(APPLIED.c.index.desc()).limit(1)).scalar_one_or_none()
            if job is None:
                raise TransitionError("there is no removal to roll back")
            rows = _of_job(tx.connection, job)
            base, new = rows[0].base, rows[0].new
            before = read_model(tx.connection, base)
            assert before is not None
            if before.file != "present":
                raise TransitionError(
                    f"the removal of job {job} cannot be rolled back: the file of model {base} "
                    "was disposed of"
                )
            deletions = locked(tx, [row.deletion for row in rows])
            tx.order()
            tx.execute(update(CURRENT).values(model=base))
            if new != base:
                tx.execute(update(MODELS).where(MODELS.c.sha256 == new).values(rolled_back=True))
            tx.execute(update(APPLIED).where(APPLIED.c.job == job).values(rolled_back=True))
            cleared = {"model_before": None, "model_after": None, "ended": None, "reason": reason}
            move(
                tx,
                deletions,
                State.FAILED,
                actor=actor,
                now=time,
                reason=reason,
                columns=cleared,
            )
            entry = {
                "kind": "rollback",
                "actor": actor,
                "reason": reason,
                "job": job,
                "deletions": [row.deletion for row in rows],
                "model_before": new,
                "model_after": base,
            }
            append(tx, issuer, [entry], time)
            found = read_model(tx.connection, base)
        assert found is not None
        return found

    def applied(self, job: str) -> tuple[Applied, ...]:
        """Return the applied removals of a job, in the order of the log."""
        with self._database.read() as connection:
            return _of_job(connection, job)

    def all_applied(self) -> tuple[Applied, ...]:
        """Return all removals in the order of the log, including rolled back ones."""
        with self._database.read() as connection:
            return read_applied(connection)

    def removed(self) -> tuple[Scope, ...]:
        """Return the scopes of all removals in their order, including rolled back ones.

        Returns:
            One scope for each request, in the order of the requests' first removals.
        """
        first = func.min(APPLIED.c.index)
        query = (
            select(DELETIONS.c.parsed)
            .join(APPLIED, APPLIED.c.deletion == DELETIONS.c.id)
            .group_by(DELETIONS.c.id, DELETIONS.c.parsed)
            .order_by(first)
        )
        with self._database.read() as connection:
            return tuple(scope_from(text) for text in connection.execute(query).scalars())

    def receipt(self, id: str) -> str | None:
        """Return a request's receipt; None if the request has not succeeded."""
        query = select(APPLIED.c.receipt).where(APPLIED.c.deletion == id, ~APPLIED.c.rolled_back)
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar_one_or_none()
        return found


def read_applied(connection: Connection) -> tuple[Applied, ...]:
    """Return all removals in the order of the log."""
    return _rows(connection, select(APPLIED))


def _of_job(connection: Connection, job: str) -> tuple[Applied, ...]:
    return _rows(connection, select(APPLIED).where(APPLIED.c.job == job))


def _rows(connection: Connection, query: Select[tuple[object, ...]]) -> tuple[Applied, ...]:
    rows = connection.execute(query.order_by(APPLIED.c.index)).mappings()
    return tuple(_applied(row) for row in rows)


def _applied(row: RowMapping) -> Applied:
    return Applied(
        deletion=row["deletion"],
        job=row["job"],
        base=row["base"],
        new=row["new"],
        index=row["index"],
        time=moment(row["time"]),
        rolled_back=row["rolled_back"],
    )


def _take_into_use(
    tx: Transaction, new: str, base: str, facts: Mapping[str, object], now: int
) -> None:
    if new != base:
        if lineage_has(tx.connection, new):
            raise TransitionError(f"model {new} is one that the current model descends from")
        if read_model(tx.connection, new) is None:
            insert_model(tx, new, parent=base, kind="removal", facts=facts, now=now)
        else:
            revive_model(tx, new, parent=base, facts=facts)
    tx.execute(update(CURRENT).values(model=new))


def _entry(given: Mapping[str, object], id: str, lease: Lease, new: str) -> dict[str, object]:
    own = {
        "kind": REMOVAL,
        "deletion": id,
        "job": lease.job,
        "model_before": lease.base,
        "model_after": new,
    }
    wrong = sorted(name for name in own if given.get(name, own[name]) != own[name])
    if wrong or "time" in given or "log" in given:
        raise ValueError(f"the entry of request {id} must not contain {wrong or 'time or log'}")
    return {**given, **own}


def _leave(tx: Transaction, deletions: tuple[Deletion, ...], now: int) -> None:
    for deletion in deletions:
        if deletion.scope.kind is ScopeKind.NODE:
            for node in deletion.scope.nodes:
                tx.insert_new(NODES, name=node)
                row = NODES.c.name == node, NODES.c.left.is_(None)
                tx.execute(update(NODES).where(*row).values(left=now))
