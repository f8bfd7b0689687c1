"""What a removal changes, in one transaction each: the swap of the model, its end, its rollback."""

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
    """A request whose removal is in a model.

    Attributes:
        deletion: The request.
        job: In which it was done.
        base: sha256 of the model before.
        new: Likewise after.
        index: Of its row in the log.
        time: When.
        rolled_back: Whether it was taken back since.
    """

    deletion: str
    job: str
    base: str
    new: str
    index: int
    time: datetime
    rolled_back: bool


class Removals(Models):
    """What a request store does when a removal is done."""

    def commit(
        self,
        lease: Lease,
        *,
        new: str,
        entries: Mapping[str, Mapping[str, object]],
        facts: Mapping[str, object],
        now: datetime,
    ) -> tuple[Applied, ...]:
        """Swap the current model, exactly once: again returns what is there.

        Args:
            lease: On the job.
            new: sha256 of the model file after the removal, which is on the disk.
            entries: By request, what its row in the log says besides kind, request, job, models
                and time.
            facts: Whatever is to be kept of the model, JSON.
            now: The time.

        Returns:
            One for each request, in the order of the log.

        Raises:
            LeaseLostError: The lease has ended.
            TransitionError: The current model is not the job's base any more, or descends from
                the new one.
            ValueError: An entry is missing, or says something else of the models.
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
                    f"{lease.job} ran; right is to begin it anew from there"
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
        """End a job that is applied and keep its receipts; again with the same does nothing.

        Args:
            lease: On the job.
            receipts: By request.
            now: The time.

        Raises:
            LeaseLostError: The lease has ended.
            TransitionError: The job is not applied, or has ended with other receipts.
            VerificationError: A receipt is missing or not of this job's rows in the log.
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
                        f"request {row.deletion} has no receipt of row {row.index} of the log"
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
        """Take the last removal back: the model before it is current again, its requests failed.

        Args:
            actor: Who does it, as "operator NAME".
            reason: Why.
            now: The time.

        Returns:
            The model that is current then.

        Raises:
            TransitionError: There is none to take back, a job runs, or the file of the model
                before is gone.
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
                raise TransitionError("there is no removal that could be taken back")
            rows = _of_job(tx.connection, job)
            base, new = rows[0].base, rows[0].new
            before = read_model(tx.connection, base)
            assert before is not None
            if before.file != "present":
                raise TransitionError(
                    f"the removal of job {job} cannot be taken back: the file of model {base} "
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
        """Return what a job has removed, in the order of the log."""
        with self._database.read() as connection:
            return _of_job(connection, job)

    def all_applied(self) -> tuple[Applied, ...]:
        """Return all removals in the order of the log, also those that were taken back."""
        with self._database.read() as connection:
            return read_applied(connection)

    def removed(self) -> tuple[Scope, ...]:
        """Return what has left, in this order; also where it was taken back.

        Returns:
            One scope for each request, at its first removal.
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
        """Return a request's receipt, if it has succeeded."""
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
            raise TransitionError(f"model {new} is an earlier one of the current model's line")
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
        raise ValueError(f"the entry of request {id} must leave {wrong or 'time and log'} out")
    return {**given, **own}


def _leave(tx: Transaction, deletions: tuple[Deletion, ...], now: int) -> None:
    for deletion in deletions:
        if deletion.scope.kind is ScopeKind.NODE:
            for node in deletion.scope.nodes:
                tx.insert_new(NODES, name=node)
                row = NODES.c.name == node, NODES.c.left.is_(None)
                tx.execute(update(NODES).where(*row).values(left=now))
