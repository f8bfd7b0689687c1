"""Sequences of what people, workers and crashes do to a store, beside a model of it in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from fedunlearn.errors import LeaseLostError, RequestReusedError, TransitionError
from fedunlearn.requests.deletion import Stage, State
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.leases import Lease
from fedunlearn.requests.ledger import verify_ledger
from fedunlearn.requests.store import RequestStore
from tests.deletions import ISSUER, OPERATOR, at, entries, model_named
from tests.laws import laws
from tests.store_model import (
    FAMILIES,
    LEASE_S,
    REQUESTS,
    REUSED,
    Ground,
    Job,
    Killed,
    Known,
    removed,
    some,
    some_are,
    which,
    worked_on,
)
from tests.stores import Places


# The due dates differ, so that the order of jobs is certain; signing takes long, so once for all.
class StoreMachine(RuleBasedStateMachine):
    """Each rule does something to the store and says, from the model, what must come of it."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        ground.reset()
        self._ground = ground
        self._seconds = 0.0
        self._models = 0
        self.known = Known()
        self.leases: list[Lease] = []
        self.store = RequestStore(ground.database, issuer=ISSUER)

    def _now(self) -> datetime:
        self._seconds += 1
        return at(self._seconds)

    def _expect(self, allowed: bool, error: type[Exception], act: Callable[[], object]) -> bool:
        if allowed:
            act()
        else:
            with pytest.raises(error):
                act()
        return allowed

    @initialize(chosen=some)
    def begin(self, chosen: set[int]) -> None:
        self._submit(sorted(chosen))

    def _submit(self, chosen: list[int]) -> None:
        for i, outcome in zip(
            chosen, self.store.create_many([REQUESTS[i] for i in chosen]), strict=True
        ):
            assert not isinstance(outcome, RequestReusedError)
            deletion, new = outcome
            assert new == (i not in self.known.states)
            if new:
                waits = REQUESTS[i].awaits_approval
                self.known.ids[i] = deletion.id
                self.known.states[i] = State.AWAITING_APPROVAL if waits else State.PENDING
            assert (deletion.id, deletion.state) == (self.known.ids[i], self.known.states[i])

    # People

    @rule(i=which)
    def submit(self, i: int) -> None:
        self._submit([i, i])

    @rule(i=which)
    def reuse(self, i: int) -> None:
        if i in self.known.ids:
            with pytest.raises(RequestReusedError):
                self.store.create(REUSED[i])

    def _decide(self, k: int, act: str, states: set[State], to: State, *more: str) -> None:
        # Mostly one for which it is allowed.
        right = [i for i, state in self.known.states.items() if state in states]
        if ids := (right if k else []) or list(self.known.ids):
            i = ids[k % len(ids)]
            call = getattr(self.store, act)
            allowed = self.known.states[i] in states
            id, now = self.known.ids[i], self._now()
            if self._expect(allowed, TransitionError, lambda: call(id, OPERATOR, *more, now=now)):
                self.known.states[i] = to

    @some_are(State.AWAITING_APPROVAL)
    @rule(k=which)
    def approve(self, k: int) -> None:
        self._decide(k, "approve", {State.AWAITING_APPROVAL}, State.PENDING)

    @some_are(State.AWAITING_APPROVAL, State.PENDING)
    @rule(k=which)
    def cancel(self, k: int) -> None:
        states = {State.AWAITING_APPROVAL, State.PENDING}
        self._decide(k, "cancel", states, State.CANCELLED)

    @some_are(State.AWAITING_APPROVAL, State.PENDING, State.FAILED)
    @rule(k=which)
    def reject(self, k: int) -> None:
        states = {State.AWAITING_APPROVAL, State.PENDING, State.FAILED}
        self._decide(k, "reject", states, State.REJECTED, "no")

    @some_are(State.FAILED)
    @rule(k=which)
    def retry(self, k: int) -> None:
        self._decide(k, "retry", {State.FAILED}, State.PENDING)

    @removed
    @rule()
    def roll_back(self) -> None:
        running = any(not job.ended for job in self.known.jobs.values())
        allowed = bool(self.known.removals) and not running
        now = self._now()
        act = lambda: self.store.rollback(OPERATOR, "worse", now=now)  # noqa: E731
        if self._expect(allowed, TransitionError, act):
            job = self.known.jobs[self.known.removals.pop()]
            self.known.current = job.base
            for i in job.requests:
                self.known.states[i] = State.FAILED

    @precondition(lambda machine: not machine.known.removals)
    @rule()
    def roll_nothing_back(self) -> None:
        with pytest.raises(TransitionError, match=r"no removal|runs"):
            self.store.rollback(OPERATOR, "worse", now=self._now())

    # Workers

    @some_are(State.PENDING, State.RUNNING)
    @rule(batch=st.integers(1, 3))
    def lease_and_complete(self, batch: int) -> None:
        before = len(self.leases)
        self.lease(batch)
        if len(self.leases) > before:
            self._complete(*self._held(self.leases[-1]))

    @some_are(State.PENDING, State.RUNNING)
    @rule(batch=st.integers(1, 3))
    def lease(self, batch: int) -> None:
        now = self._now()
        ended = [
            name for name, job in self.known.jobs.items() if not job.ended and job.until <= now
        ]
        lease = self.store.lease("w", now=now, seconds=LEASE_S, batch=batch)
        waiting = sorted(i for i, state in self.known.states.items() if state is State.PENDING)
        if not ended and not waiting:
            assert lease is None
            return
        assert lease is not None
        if ended:
            job = self.known.jobs[ended[0]]
            job.fence += 1
        else:
            alike = [i for i in waiting if FAMILIES[i] == FAMILIES[waiting[0]]][:batch]
            job = self.known.jobs[lease.job] = Job(alike, self.known.current, 1, now)
            for i in alike:
                self.known.states[i] = State.RUNNING
        job.until = lease.until
        assert lease.taken_over == bool(ended)
        assert (lease.job, lease.fence, lease.base) == (
            ended[0] if ended else lease.job,
            job.fence,
            job.base,
        )
        assert [d.id for d in lease.deletions] == [self.known.ids[i] for i in job.requests]
        self.leases.append(lease)

    @worked_on
    @rule()
    def lose_the_leases(self) -> None:
        self._seconds += LEASE_S

    def _work(self, data: st.DataObject) -> tuple[Lease, Job, datetime, bool] | None:
        if not self.leases:
            return None
        # Mostly the newest one: older ones are lost.
        k = data.draw(st.sampled_from([1, 1, 1, 1, 2, 3]))
        return self._held(self.leases[-min(k, len(self.leases))])

    def _held(self, lease: Lease) -> tuple[Lease, Job, datetime, bool]:
        job, now = self.known.jobs[lease.job], self._now()
        return lease, job, now, lease.fence == job.fence and not job.ended and now < job.until

    @worked_on
    @rule(data=st.data(), stage=st.sampled_from(Stage))
    def advance(self, data: st.DataObject, stage: Stage) -> None:
        if work := self._work(data):
            lease, _, now, held = work
            act = lambda: self.store.advance(lease, stage, now=now)  # noqa: E731
            self._expect(held, LeaseLostError, act)

    @worked_on
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        if work := self._work(data):
            lease, job, now, held = work
            act = lambda: self.store.renew(lease, now=now, seconds=LEASE_S)  # noqa: E731
            if self._expect(held, LeaseLostError, act):
                job.until = at(self._seconds + LEASE_S)

    @worked_on
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        if work := self._work(data):
            lease, job, now, held = work
            error = TransitionError if held else LeaseLostError
            act = lambda: self.store.fail(lease, "no", now=now)  # noqa: E731
            if self._expect(held and job.applied is None, error, act):
                job.ended = True
                for i in job.requests:
                    self.known.states[i] = State.FAILED

    def _commit(self, lease: Lease, job: Job, now: datetime, held: bool) -> bool:
        self._models += 1
        new = job.applied or model_named(str(self._models))
        allowed = held and (job.applied is not None or self.known.current == lease.base)
        act = lambda: self.store.commit(  # noqa: E731
            lease, new=new, entries=entries(lease), facts={}, now=now
        )
        if self._expect(allowed, TransitionError if held else LeaseLostError, act):
            if job.applied is None:
                self.known.removals.append(lease.job)
                self.known.current = job.applied = new
                for i in job.requests:
                    self.known.left.update(
                        REQUESTS[i].parsed.nodes if FAMILIES[i] == "node" else ()
                    )
            return True
        return False

    @worked_on
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        if work := self._work(data):
            self._commit(*work)

    @worked_on
    @rule(data=st.data())
    def begin_anew(self, data: st.DataObject) -> None:
        if work := self._work(data):
            lease, job, now, held = work
            error = TransitionError if held else LeaseLostError
            act = lambda: self.leases.append(self.store.rebase(lease, now=now))  # noqa: E731
            if self._expect(held and job.applied is None, error, act):
                job.base = self.known.current

    @worked_on
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        if work := self._work(data):
            self._complete(*work)

    def _complete(self, lease: Lease, job: Job, now: datetime, held: bool) -> None:
        if self._commit(lease, job, now, held):
            receipts = make_receipts(self.store, lease.job, ISSUER)
            for _ in range(2):
                self.store.finish(lease, receipts, now=at(self._seconds))
            job.ended = True
            for i in job.requests:
                self.known.states[i] = State.SUCCEEDED

    # Crashes

    @rule(i=which, batch=st.integers(1, 3), act=st.sampled_from(["create", "lease", "commit"]))
    def crash(self, i: int, batch: int, act: str) -> None:
        """Die in a transaction: nothing of it is there afterwards."""
        now = self._now()
        lease = self.leases[-1] if self.leases else None

        def die(_: Any) -> None:
            raise Killed

        engine = self.store._database._engine
        event.listen(engine, "commit", die)
        try:
            if act == "create":
                self.store.create(REQUESTS[i])
            elif act == "lease":
                self.store.lease("w", now=now, seconds=LEASE_S, batch=batch)
            elif lease is not None:
                given = entries(lease)
                new = model_named("lost")
                self.store.commit(lease, new=new, entries=given, facts={}, now=now)
        except (Killed, LeaseLostError, TransitionError):
            pass
        finally:
            event.remove(engine, "commit", die)
        # No connection outlives it. The statements that were compiled do: to compile them anew
        # takes longer than to run them.
        self.store.close()
        self.store = RequestStore(self._ground.database, issuer=ISSUER)

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        states = {deletion.id: deletion.state for deletion in self.store.list()}
        assert states == {self.known.ids[i]: state for i, state in self.known.states.items()}

    def teardown(self) -> None:
        current = self.store.current()
        assert current is not None and current.sha256 == self.known.current
        assert self.store.nodes_left() == self.known.left
        standing = [row for row in self.store.all_applied() if not row.rolled_back]
        jobs = [self.known.jobs[job] for job in self.known.removals]
        assert [row.deletion for row in standing] == [
            self.known.ids[i] for job in jobs for i in job.requests
        ]
        findings = verify_ledger(self.store, ISSUER.public, None)
        assert not findings, "\n".join(map(str, findings))


@pytest.mark.fuzzed
@pytest.mark.parametrize(("kind", "sequences"), [("sqlite", 800), ("postgresql", 200)])
def test_sequences(kind: str, sequences: int, places: Places, tmp_path: Path) -> None:
    ground = Ground(places.new_url(kind, tmp_path))
    chosen = settings(
        laws(sequences),
        stateful_step_count=15,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(lambda: StoreMachine(ground), settings=chosen)
    finally:
        ground.database.close()
    assert ground.sequences >= sequences
