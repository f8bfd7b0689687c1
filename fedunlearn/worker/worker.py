"""Takes due requests through: lease, remove, verify, commit, record tombstones, receipt.

What is done once is one transaction (``RequestStore.commit``): it names the new model, whose file
is on the disk by then, and appends the log rows that the receipts are made from. A worker that is
killed before it leaves the old model current, and the job is done again from its journal; killed
after it, the rest is done again, which changes nothing.
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

# Says nothing of the others, who may be other owners'; the worker's log does.
APART = "could not be removed together with others; it is tried alone"
# These end a job's run and not its requests: whoever takes the job over goes on.
INTERRUPTED = (LeaseLostError, StoppedError, StoreError, OSError)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Worked:
    """What became of a job.

    Attributes:
        job: Its id.
        deletions: Ids of its requests.
        state: That they are in now; RUNNING where the job goes on later, PENDING where each of
            them is tried alone.
        reason: Why they failed, or wait.
        model: sha256 of the new model file.
    """

    job: str
    deletions: tuple[str, ...]
    state: State
    reason: str = ""
    model: str | None = None


class Worker:
    """Removes what is due, one job after the other."""

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
        """Take what a worker needs.

        Args:
            store: The requests; opened with the same issuer.
            models: Where model files are.
            remover: Computes removals.
            issuer: Signs receipts.
            version: Of this package, for the receipts.
            name: Of this worker, in events.
            settings: See WorkerSettings.
            clock: Tells the time.
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
        """Do one job, or what is left of one that was interrupted.

        Returns:
            What became of it; None where nothing waits.

        Raises:
            LeaseLostError: Another worker has taken the job over; nothing was changed since.
            StoreError: The store is busy, or a file cannot be written; the job goes on later.
        """
        self._take_apart_what_failed_together()
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
            except (LeaseLostError, StoreError):  # tried again when the lease ends
                raise
            except OSError as error:
                what = error.filename or "a file of the worker"
                raise StoreError(f"{what} cannot be used: {error.strerror}") from error
            except BaseException:  # whoever comes next need not wait until the lease ends
                with suppress(FedunlearnError):
                    self._store.release(lease, now=self._clock())
                raise

    def tidy(self) -> list[str]:
        """Delete the model files that are to be kept no longer.

        Returns:
            Digests of those whose time was up.
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
        except TransitionError:  # a rollback has just made it the current one
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
            except Exception as error:  # the task's own, whose text may tell of data
                log.exception("job %s failed", lease.job)
                reason = f"{type(error).__name__}; see the worker's log"
                return self._failed(lease, reason, apart=True)
        ids = tuple(deletion.id for deletion in lease.deletions)
        try:
            self._complete(lease)
        except INTERRUPTED:
            raise
        except FedunlearnError as error:
            # The model is swapped: there is no way back but a rollback, so it is tried again when
            # the lease ends. Until then other jobs have their turn.
            reason = _one_line(error)
            log.warning("job %s is not complete: %s", lease.job, reason)
            return Worked(lease.job, ids, State.RUNNING, reason, applied[0].new)
        return Worked(lease.job, ids, State.SUCCEEDED, model=applied[0].new)

    def _failed(self, lease: Lease, reason: str, *, apart: bool) -> Worked:
        """End a job; where one of several requests may be to blame, each is tried alone."""
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
            with suppress(TransitionError):  # it was rejected meanwhile, or another worker did it
                self._store.retry(id, f"worker {self._name}", now=self._clock())
                self._alone.add(id)

    def _take_apart_what_failed_together(self) -> None:
        """Do once what a worker has left that was killed between failing and trying alone."""
        if not self._looked:
            self._looked = True
            failed = self._store.list(states=(State.FAILED,), limit=1000)
            self._try_alone(deletion.id for deletion in failed if deletion.reason == APART)

    def _apply_to_current(self, lease: Lease) -> tuple[Applied, ...]:
        """Apply a job; where another has swapped the model meanwhile, from the new one."""
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
        if held_back := failures(checks):
            raise _GateError(f"the model would not be good enough: {held_back}")
        self._reached(lease)(Stage.COMMITTING)
        with self._models.locked():
            return self._swap(lease, removed, checks)

    def _swap(
        self, lease: Lease, removed: Removed, checks: tuple[Check, ...]
    ) -> tuple[Applied, ...]:
        """Write the new model, then name it as the current one."""
        sha256 = self._models.put(removed.model)
        if sha256 == lease.base:
            raise _GateError(f"the model stayed what it was: {removed.status}")
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
        """Do what follows a swap; all of it may be done again."""
        self._remover.done(lease.job)
        for deletion in lease.deletions:
            self._remover.record_tombstones(deletion.id, deletion.scope)
        self.tidy()
        receipts = make_receipts(self._store, lease.job, self._issuer)
        self._store.finish(lease, receipts, now=self._clock())

    def _job(self, lease: Lease) -> RemovalJob:
        scopes = {deletion.id: deletion.scope for deletion in lease.deletions}
        back = self._taken_back()
        again = any(_touch(scope, other) for scope in scopes.values() for other in back)
        return RemovalJob(lease.job, scopes, lease.base, self._store.removed(), again)

    def _taken_back(self) -> list[Scope]:
        """Return what is out of use on its nodes and was not removed since from the model."""
        rows = self._store.all_applied()
        removed = {row.deletion for row in rows if not row.rolled_back}
        back = {row.deletion for row in rows} - removed
        return [self._store.get(id).scope for id in sorted(back)]

    def _reached(self, lease: Lease) -> Callable[[Stage], None]:
        return lambda stage: self._store.advance(lease, stage, now=self._clock())


def _touch(one: Scope, other: Scope) -> bool:
    """Return whether two scopes may have data in common: some on the same node."""
    return not one.nodes or not other.nodes or not set(one.nodes).isdisjoint(other.nodes)


def _one_line(error: FedunlearnError) -> str:
    return " ".join(str(error).split())


class _GateError(FedunlearnError):
    """A model does not pass the gates."""


def _facts(removed: Removed) -> Mapping[str, object]:
    return {"method": removed.method, "status": removed.status, "claim": removed.claim}
