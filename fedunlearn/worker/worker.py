"""Takes due requests through: lease, remove, verify, commit, bury, receipt.

What is done once is one transaction (``RequestStore.commit``): it names the new model, whose file
is on the disk by then, and appends the log rows that the receipts are made from. A worker that is
killed before it leaves the old model current, and the job is done again from its journal; killed
after it, the rest is done again, which changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fedunlearn.errors import FedunlearnError, LeaseLostError, StoppedError, TransitionError
from fedunlearn.requests.deletion import Stage, State
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.removals import Applied
from fedunlearn.requests.store import RequestStore
from fedunlearn.worker.entries import removal_entry
from fedunlearn.worker.gates import check, failures
from fedunlearn.worker.lease import Clock, kept
from fedunlearn.worker.models import ModelFolder
from fedunlearn.worker.removal import RemovalJob, Removed, Remover
from fedunlearn.worker.retention import PRESENT, fates
from fedunlearn.worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Worked:
    """What became of a job.

    Attributes:
        job: Its id.
        deletions: Ids of its requests.
        state: That they are in now; RUNNING where the job goes on later.
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

    def work(self) -> Worked | None:
        """Do one job, or what is left of one that was interrupted.

        Returns:
            What became of it; None where nothing waits.

        Raises:
            LeaseLostError: Another worker has taken the job over; nothing was changed since.
        """
        seconds = self._settings.lease_s
        lease = self._store.lease(
            self._name, now=self._clock(), seconds=seconds, batch=self._settings.batch
        )
        if lease is None:
            return None
        with kept(self._store, lease, seconds, self._clock):
            return self._do(lease)

    def tidy(self) -> list[str]:
        """Delete the model files that are to be kept no longer.

        Returns:
            Digests of those whose time was up.
        """
        now, current = self._clock(), self._store.current()
        if current is None:
            return []
        models, rule = self._store.models(), self._settings.retention
        gone = [
            fate.sha256
            for fate in fates(models, current.sha256, current.parent, rule, now)
            if fate.kept_until is None
        ]
        for sha256 in gone:
            self._store.dispose(sha256, now=now)
        there = self._models.digests()
        files = {model.sha256: model.file for model in self._store.models()}
        # A job that runs may have written a model that the store does not know yet; where none
        # runs, an unknown one is what a job has left that began anew.
        idle = not self._store.list(states=(State.RUNNING,), limit=1)
        for sha256 in there:
            if files.get(sha256, "left" if idle else PRESENT) != PRESENT:
                self._models.discard(sha256)
        return gone

    def _do(self, lease: Lease) -> Worked:
        ids = tuple(deletion.id for deletion in lease.deletions)
        applied = self._store.applied(lease.job)
        if not applied:
            try:
                applied = self._apply_to_current(lease)
            except (LeaseLostError, StoppedError):
                raise
            except _GateError as error:
                return self._failed(lease, ids, str(error))
            except FedunlearnError as error:
                return self._failed(lease, ids, " ".join(str(error).split()))
            except Exception as error:  # the task's own, whose text may tell of data
                log.exception("job %s failed", lease.job)
                return self._failed(lease, ids, f"{type(error).__name__}; see the worker's log")
        try:
            self._complete(lease)
        except LeaseLostError:
            raise
        except FedunlearnError as error:
            # The model is swapped: there is no way back but a rollback, so it is tried again.
            reason = " ".join(str(error).split())
            log.warning("job %s is not complete: %s", lease.job, reason)
            self._store.release(lease, now=self._clock())
            return Worked(lease.job, ids, State.RUNNING, reason, applied[0].new)
        return Worked(lease.job, ids, State.SUCCEEDED, model=applied[0].new)

    def _failed(self, lease: Lease, ids: tuple[str, ...], reason: str) -> Worked:
        self._remover.done(lease.job)
        self._store.fail(lease, reason, now=self._clock())
        return Worked(lease.job, ids, State.FAILED, reason)

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
            self._remover.bury(deletion.id, deletion.scope)
        self.tidy()
        receipts = make_receipts(self._store, lease.job, self._issuer)
        self._store.finish(lease, receipts, now=self._clock())

    def _job(self, lease: Lease) -> RemovalJob:
        before = self._store.removed()
        again = any(
            deletion.attempts > 1 and deletion.scope in before for deletion in lease.deletions
        )
        scopes = {deletion.id: deletion.scope for deletion in lease.deletions}
        return RemovalJob(lease.job, scopes, lease.base, before, again)

    def _reached(self, lease: Lease) -> Callable[[Stage], None]:
        return lambda stage: self._store.advance(lease, stage, now=self._clock())


class _GateError(FedunlearnError):
    """A model does not pass the gates."""


def _facts(removed: Removed) -> Mapping[str, object]:
    return {"method": removed.method, "status": removed.status, "claim": removed.claim}
