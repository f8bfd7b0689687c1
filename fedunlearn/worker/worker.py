"""The worker's job: lease, remove, verify, commit, record tombstones, and issue receipts.

One transaction (``RequestStore.commit``) happens exactly once: it makes the new model, whose file
is on the disk by then, the current one, and appends the log rows from which receipts are made. If a
worker is killed before it, the old model remains current, and the job is resumed from its journal.
If it is killed after it, the remaining steps are repeated, which changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from fedunlearn.errors import (
    FederationError,
    FedunlearnError,
    LeaseLostError,
    StoppedError,
    StoreError,
    TransitionError,
    VerificationError,
)
from fedunlearn.requests.deletion import Scope, Stage, State
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.model_swaps import Applied
from fedunlearn.requests.store import RequestStore
from fedunlearn.worker.entries import removal_entry
from fedunlearn.worker.gates import Check, check, failures
from fedunlearn.worker.lease_renewal import Clock, lease_renewed
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.removal_job import RemovalJob, Removed, Remover
from fedunlearn.worker.retention import PRESENT, fates
from fedunlearn.worker.worker_settings import WorkerSettings

log = logging.getLogger(__name__)

# Does not name the other requests, which may be other owners'; the worker's log names them.
APART = "could not be removed together with others; it is tried alone"
# These errors interrupt a job and do not fail its requests: the job can be taken over and resumed.
INTERRUPTED = (LeaseLostError, StoppedError, StoreError, OSError)


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Worked:
    """The outcome of a job.

    Attributes:
        job: Id of the job.
        deletions: Ids of the requests of the job.
        state: State of the requests; RUNNING if the job is resumed later, PENDING if each request
            is tried alone.
        reason: Reason of a failure or delay; empty otherwise.
        model: sha256 of the new model file; None if there is none.
    """

    job: str
    deletions: tuple[str, ...]
    state: State
    reason: str = ""
    model: str | None = None


class Worker:
    """Carries out due requests, one job after the other."""

    def __init__(
        self,
        store: RequestStore,
        models: ModelFolder,
        remover: Remover,
        issuer: PrivateKey,
        *,
        version: str,
        name: str = "worker",
        settings: WorkerSettings | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """Store the parts of the worker.

        Args:
            store: The request store, opened with the same issuer.
            models: The model files.
            remover: Computes removals.
            issuer: Private key that signs receipts.
            version: Version of this package, for the receipts.
            name: Name of this worker, for events.
            settings: Settings of the worker; by default, those of WorkerSettings.
            clock: Function that returns the current time.
        """
        self._store = store
        self._models = models
        self._remover = remover
        self._issuer = issuer
        self._version = version
        self._name = name
        self._settings = settings or WorkerSettings()
        self._clock = clock
        self._alone: set[str] = set()
        self._looked = False

    def work(self) -> Worked | None:
        """Run one job, or resume an interrupted one.

        Returns:
            The outcome of the job; None if no request is due.

        Raises:
            LeaseLostError: Another worker has taken the job over; nothing was changed since.
            StoreError: The store is busy, or a file cannot be written; the job is resumed later.
        """
        self._retry_failed_batches()
        seconds = self._settings.lease_s
        batch = 1 if self._alone else self._settings.batch
        lease = self._store.lease(self._name, now=self._clock(), seconds=seconds, batch=batch)
        if lease is None:
            self._alone.clear()
            return None
        self._alone.difference_update(deletion.id for deletion in lease.deletions)
        with lease_renewed(self._store, lease, seconds, self._clock):
            try:
                return self._do(lease)
            except (LeaseLostError, StoreError):  # the job is taken over when the lease ends
                raise
            except OSError as error:
                what = error.filename or "a file of the worker"
                raise StoreError(f"{what} cannot be used: {error.strerror}") from error
            except BaseException:  # without the release, another worker would wait for the lease
                with suppress(FedunlearnError):
                    self._store.release(lease, now=self._clock())
                raise

    def tidy(self) -> list[str]:
        """Delete the model files whose retention has ended, and left over files.

        Returns:
            Digests of the models whose retention has ended.
        """
        with self._models.locked():
            gone = [sha256 for sha256 in self._expired() if self._disposed(sha256)]
            known = {model.sha256 for model in self._store.models() if model.file == PRESENT}
            if known:
                for sha256 in self._models.digests() - known:
                    self._models.discard(sha256)
        return gone

    def _expired(self) -> list[str]:
        current = self._store.current()
        if current is None:
            return []
        models, rule = self._store.models(), self._settings.retention
        found = fates(models, current.sha256, current.parent, rule, self._clock())
        return [fate.sha256 for fate in found if fate.kept_until is None]

    def _disposed(self, sha256: str) -> bool:
        try:
            self._store.dispose(sha256, now=self._clock())
        except TransitionError:  # a rollback has made it the current model in the meantime
            return False
        return True

    def _do(self, lease: Lease) -> Worked:
        applied = self._store.applied(lease.job)
        if not applied:
            try:
                applied = self._apply_to_current(lease)
            except INTERRUPTED:
                raise
            except FedunlearnError as error:
                blamed = not isinstance(error, FederationError | VerificationError)
                return self._failed(lease, _one_line(error), apart=blamed)
            except Exception as error:  # an error of the task, whose text may contain data
                log.exception("job %s failed", lease.job)
                reason = f"{type(error).__name__}; see the worker's log"
                return self._failed(lease, reason, apart=True)
        ids = tuple(deletion.id for deletion in lease.deletions)
        try:
            self._complete(lease)
        except INTERRUPTED:
            raise
        except FedunlearnError as error:
            # The model is swapped, which only a rollback reverses, so the rest of the job is
            # repeated when the lease ends. Until then, other jobs can run.
            reason = _one_line(error)
            log.warning("job %s is not complete: %s", lease.job, reason)
            return Worked(lease.job, ids, State.RUNNING, reason, applied[0].new)
        return Worked(lease.job, ids, State.SUCCEEDED, model=applied[0].new)

    def _failed(self, lease: Lease, reason: str, *, apart: bool) -> Worked:
        """End a failed job; if one of several requests may be the cause, each is tried alone."""
        ids = tuple(deletion.id for deletion in lease.deletions)
        self._remover.done(lease.job)
        if len(ids) == 1 or not apart:
            self._store.fail(lease, reason, now=self._clock())
            return Worked(lease.job, ids, State.FAILED, reason)
        log.warning("job %s: %d requests are tried one by one: %s", lease.job, len(ids), reason)
        self._store.fail(lease, APART, now=self._clock())
        self._try_alone(ids)
        return Worked(lease.job, ids, State.PENDING, APART)

    def _try_alone(self, ids: Iterable[str]) -> None:
        for id in ids:
            with suppress(TransitionError):  # it was rejected or retried in the meantime
                self._store.retry(id, f"worker {self._name}", now=self._clock())
                self._alone.add(id)

    def _retry_failed_batches(self) -> None:
        """Retry once the requests of failed batches whose worker was killed before retrying."""
        if not self._looked:
            self._looked = True
            failed = self._store.list(states=(State.FAILED,), limit=1000)
            self._try_alone(deletion.id for deletion in failed if deletion.reason == APART)

    def _apply_to_current(self, lease: Lease) -> tuple[Applied, ...]:
        """Apply a job; if another job has swapped the model meanwhile, restart from the new one."""
        while True:
            current = self._store.current()
            if current is not None and current.sha256 != lease.base:
                lease = self._store.rebase(lease, now=self._clock())
            try:
                return self._apply(lease)
            except TransitionError:
                now_current = self._store.current()
                if now_current is None or now_current.sha256 == lease.base:
                    raise

    def _apply(self, lease: Lease) -> tuple[Applied, ...]:
        """Compute the new model and make it the current one."""
        removed = self._remover.remove(self._job(lease), self._reached(lease))
        self._reached(lease)(Stage.VERIFYING)
        checks = check(removed.measures, self._settings.gates)
        if failed := failures(checks):
            raise _GateError(f"the new model fails a gate: {failed}")
        self._reached(lease)(Stage.COMMITTING)
        with self._models.locked():
            return self._swap(lease, removed, checks)

    def _swap(
        self, lease: Lease, removed: Removed, checks: tuple[Check, ...]
    ) -> tuple[Applied, ...]:
        """Write the new model, then make it the current one."""
        sha256 = self._models.put(removed.model)
        if sha256 == lease.base:
            raise _GateError(f"the removal did not change the model: {removed.status}")
        removed.keep(self._models.beside(sha256))
        now = self._clock()
        checkpoints = fates(self._store.models(), sha256, lease.base, self._settings.retention, now)
        entries = {
            deletion.id: removal_entry(
                deletion,
                removed,
                checks=checks,
                checkpoints=checkpoints,
                together=len(lease.deletions),
                version=self._version,
                issuer=self._issuer.public.id,
                now=now,
            )
            for deletion in lease.deletions
        }
        return self._store.commit(
            lease, new=sha256, entries=entries, facts=_facts(removed), now=now
        )

    def _complete(self, lease: Lease) -> None:
        """Carry out the steps after a swap, all of which can be repeated."""
        self._remover.done(lease.job)
        for deletion in lease.deletions:
            self._remover.record_tombstones(deletion.id, deletion.scope)
        self.tidy()
        receipts = make_receipts(self._store, lease.job, self._issuer)
        self._store.finish(lease, receipts, now=self._clock())

    def _job(self, lease: Lease) -> RemovalJob:
        scopes = {deletion.id: deletion.scope for deletion in lease.deletions}
        back = self._rolled_back()
        again = any(_touch(scope, other) for scope in scopes.values() for other in back)
        return RemovalJob(lease.job, scopes, lease.base, self._store.removed(), again)

    def _rolled_back(self) -> list[Scope]:
        """Return the scopes that nodes have tombstones for and that the model contains again."""
        rows = self._store.all_applied()
        removed = {row.deletion for row in rows if not row.rolled_back}
        back = {row.deletion for row in rows} - removed
        return [self._store.get(id).scope for id in sorted(back)]

    def _reached(self, lease: Lease) -> Callable[[Stage], None]:
        return lambda stage: self._store.advance(lease, stage, now=self._clock())


def _touch(one: Scope, other: Scope) -> bool:
    """Return whether two scopes may have data in common, which needs a common node."""
    return not one.nodes or not other.nodes or not set(one.nodes).isdisjoint(other.nodes)


def _one_line(error: FedunlearnError) -> str:
    return " ".join(str(error).split())


class _GateError(FedunlearnError):
    """A model does not pass the gates."""


def _facts(removed: Removed) -> Mapping[str, object]:
    return {"method": removed.method, "status": removed.status, "claim": removed.claim}
