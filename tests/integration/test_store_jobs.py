"""Jobs, models and the log on every store: leased with fences, applied exactly once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection

from fedunlearn.errors import (
    LeaseLostError,
    StoreError,
    TransitionError,
    VerificationError,
)
from fedunlearn.requests import log_store
from fedunlearn.requests.deletion import Stage, State
from fedunlearn.requests.issuing import make_receipts
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import verify_ledger
from fedunlearn.requests.statement import class_scope, node_scope
from fedunlearn.requests.store import RequestStore
from fedunlearn.requests.tables import FRONTIER
from tests.deletions import (
    ALICE,
    BOB,
    FIRST,
    ISSUER,
    OPERATOR,
    START,
    applied_of,
    at,
    completed,
    entries,
    heads_of,
    holds,
    in_lineage,
    keep_model,
    leased,
    made,
    model_named,
    populate,
    request,
)


def test_jobs_are_leased_by_due_date_and_kind(store: RequestStore) -> None:
    assert store.lease("w", now=START, seconds=60) is None
    late = made(store, request(days=20))
    klass = made(store, request(class_scope(["3"], ["1"]), days=12))
    soon = made(store, request(node_scope(["1"]), days=10))
    other = made(store, request(class_scope(["4"], ["0"]), days=11))
    same = made(store, request(class_scope(["5"], ["1"]), days=25))
    made(store, request(awaits_approval=True, days=1))
    jobs = [leased(store, batch=8) for _ in range(3)]
    assert [[d.id for d in job.deletions] for job in jobs] == [
        [soon.id, late.id],
        [other.id],
        [klass.id, same.id],
    ]
    assert all(job.base == FIRST and job.fence == 1 and not job.taken_over for job in jobs)
    assert all(d.state is State.RUNNING and d.attempts == 1 for d in jobs[0].deletions)
    assert store.lease("w", now=START, seconds=60, batch=8) is None
    store.create_many([request(days=3), request(days=2)])
    assert len(leased(store).deletions) == 1


def test_a_lease_that_ends_is_taken_over(store: RequestStore) -> None:
    deletion = made(store)
    lease = leased(store)
    store.advance(lease, Stage.SOLVING, now=at(1))
    renewed = store.renew(lease, now=at(50), seconds=60)
    assert renewed.until == at(110)
    assert store.lease("v", now=at(109), seconds=60) is None
    taken = store.lease("v", now=at(110), seconds=60)
    assert taken is not None and taken.taken_over
    assert (taken.job, taken.fence, taken.base) == (lease.job, 2, FIRST)
    assert taken.deletions[0].attempts == 2 and taken.deletions[0].stage is Stage.SOLVING
    new = model_named("second")
    given = entries(lease)
    for act in (
        lambda: store.renew(lease, now=at(111), seconds=9),
        lambda: store.release(lease, now=at(111)),
        lambda: store.rebase(lease, now=at(111)),
        lambda: store.advance(lease, Stage.COMMITTING, now=at(111)),
        lambda: store.fail(lease, "no", now=at(111)),
        lambda: store.commit(lease, new=new, entries=given, facts={}, now=at(111)),
        lambda: store.finish(lease, {}, now=at(111)),
    ):
        with pytest.raises(LeaseLostError, match="worker w has lost job"):
            act()
    with pytest.raises(LeaseLostError, match=r"worker v .* ended on 2026-03-01T12:02:50"):
        store.renew(taken, now=at(170), seconds=9)
    store.release(taken, now=at(120))
    assert leased(store, at(120)).fence == 3
    reasons = [e.reason for e in store.events(deletion.id)]
    assert reasons[-2:] == ["taken over from worker w", "taken over from worker v"]
    assert holds(store)


def test_stages_are_events_once(store: RequestStore) -> None:
    deletion = made(store)
    lease = leased(store)
    for stage in (Stage.COLLECTING, Stage.SOLVING, Stage.SOLVING, Stage.COLLECTING):
        store.advance(lease, stage, now=at(1))
    found = [e.stage for e in store.events(deletion.id)]
    assert found == [None, Stage.COLLECTING, Stage.SOLVING, Stage.COLLECTING]
    assert store.get(deletion.id).stage is Stage.COLLECTING


def test_a_job_that_fails_is_tried_again(store: RequestStore) -> None:
    deletion = made(store)
    lease = leased(store)
    store.fail(lease, "a node did not answer", now=at(1))
    failed = store.get(deletion.id)
    assert (failed.state, failed.stage, failed.ended) == (State.FAILED, None, None)
    assert failed.reason == "a node did not answer"
    with pytest.raises(LeaseLostError, match="has ended"):
        store.advance(lease, Stage.SOLVING, now=at(2))
    assert store.lease("w", now=at(900), seconds=60) is None
    retried = store.retry(deletion.id, OPERATOR, now=at(3))
    assert (retried.state, retried.reason) == (State.PENDING, "")
    again = leased(store, at(4))
    assert again.job != lease.job and again.deletions[0].attempts == 2
    completed(store, again, "second", at(5))
    assert holds(store)


def test_workers_at_once_take_different_jobs(store: RequestStore) -> None:
    store.create_many([request(received=at(i)) for i in range(12)])
    barrier = threading.Barrier(6)

    def work(name: int) -> list[str]:
        barrier.wait()
        found = []
        while lease := store.lease(f"w{name}", now=at(20), seconds=60):
            found.append(lease.deletions[0].id)
        return found

    with ThreadPoolExecutor(6) as pool:
        taken = [id for found in pool.map(work, range(6)) for id in found]
    assert len(taken) == len(set(taken)) == 12


def test_requests_without_a_model_are_not_leased(store_url: str) -> None:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as store:
        store.register_key("alice", "owner", ALICE.public, now=START)
        assert store.current() is None and store.models() == [] and not in_lineage(store, FIRST)
        assert store.last_head() is not None and store.head_over(5) is None
        made(store)
        with pytest.raises(TransitionError, match="right is to add the first model"):
            store.lease("w", now=START, seconds=60)


def test_a_removal_is_applied_once(store: RequestStore) -> None:
    one, two = made(store, request(days=9)), made(store, request(node_scope(["2"]), days=8))
    lease = leased(store, batch=2)
    new = model_named("second")
    with pytest.raises(TransitionError, match="is not applied; right is to commit it"):
        store.finish(lease, {}, now=at(1))
    applied = store.commit(lease, new=new, entries=entries(lease), facts={"a": 1}, now=at(1))
    assert store.commit(lease, new=new, entries=entries(lease), facts={}, now=at(2)) == applied
    assert [(a.deletion, a.base, a.new) for a in applied] == [
        (two.id, FIRST, new),
        (one.id, FIRST, new),
    ]
    rows = {row.index: row for row in store.log()}
    assert two.id in rows[applied[0].index].entry and one.id in rows[applied[1].index].entry
    head = store.last_head()
    assert head is not None and head.size == len(rows) == applied[1].index + 1
    current = store.current()
    assert current is not None
    assert (current.sha256, current.parent, current.facts) == (new, FIRST, {"a": 1})
    assert in_lineage(store, FIRST) and in_lineage(store, new) and not in_lineage(store, "0" * 64)
    assert store.nodes_left() == {"0", "2"}
    running = store.get(one.id)
    assert (running.state, running.model_before, running.model_after) == (State.RUNNING, FIRST, new)
    assert store.receipt(one.id) is None
    with pytest.raises(TransitionError, match="applied already; right is to finish it"):
        store.fail(lease, "no", now=at(3))
    with pytest.raises(TransitionError, match="applied already"):
        store.rebase(lease, now=at(3))
    assert holds(store)

    # Another worker finishes what the first one committed.
    taken = leased(store, at(60))
    assert store.commit(taken, new=new, entries=entries(taken), facts={}, now=at(61)) == applied
    receipts = make_receipts(store, taken.job, ISSUER)
    assert receipts == make_receipts(store, taken.job, ISSUER)
    with pytest.raises(VerificationError, match=f"request {one.id} has no receipt for row"):
        store.finish(taken, {two.id: receipts[two.id]}, now=at(62))
    with pytest.raises(VerificationError, match="has no receipt for row"):
        swapped = {one.id: receipts[two.id], two.id: receipts[one.id]}
        store.finish(taken, swapped, now=at(62))
    store.finish(taken, receipts, now=at(62))
    last = store.last_event()
    store.finish(taken, receipts, now=at(63))
    with pytest.raises(TransitionError, match="has ended with other receipts"):
        store.finish(taken, {}, now=at(63))
    done = store.get(one.id)
    assert (done.state, done.ended, done.stage) == (State.SUCCEEDED, at(62), None)
    assert store.receipt(one.id) == receipts[one.id] and store.last_event() == last
    assert store.applied(taken.job) == applied == store.all_applied()
    assert applied_of(store, one.id) == applied[1]
    assert [scope.nodes for scope in store.removed()] == [("2",), ("0",)]
    assert holds(store)


def test_a_job_whose_base_is_gone_begins_anew(store: RequestStore) -> None:
    made(store, request(days=1))
    made(store, request(node_scope(["1"]), days=2))
    first, second = leased(store), leased(store)
    new = completed(store, first, "second")
    third = model_named("third")
    with pytest.raises(TransitionError, match=f"the current model changed from {FIRST}"):
        store.commit(second, new=third, entries=entries(second), facts={}, now=START)
    second = store.rebase(second, now=START)
    assert second.base == new
    completed(store, second, "third")
    assert [m.sha256 for m in store.models()] == [third, new, FIRST]
    assert holds(store)


def test_entries_say_what_the_store_says(store: RequestStore) -> None:
    deletion = made(store)
    lease = leased(store)
    new = model_named("second")
    for given in (
        {},
        {deletion.id: {"model_after": FIRST}},
        {deletion.id: {"time": "now"}},
        {deletion.id: {"x": float("nan")}},
        {deletion.id: {}, "other": {}},
    ):
        with pytest.raises(ValueError):
            store.commit(lease, new=new, entries=given, facts={}, now=START)
    current = store.current()
    assert current is not None and current.sha256 == FIRST
    assert store.applied(lease.job) == () and holds(store)


def test_the_last_removal_is_taken_back(store: RequestStore) -> None:
    with pytest.raises(TransitionError, match="no removal to roll back"):
        store.rollback(OPERATOR, "worse", now=START)
    one, two = made(store, request(days=1)), made(store, request(node_scope(["1"]), days=2))
    second = completed(store, leased(store), "second")
    lease = leased(store)
    with pytest.raises(TransitionError, match=f"job {lease.job} runs"):
        store.rollback(OPERATOR, "worse", now=at(1))
    third = completed(store, lease, "third")
    receipt = store.receipt(two.id)
    assert store.rollback(OPERATOR, "worse", now=at(1)).sha256 == second
    failed = store.get(two.id)
    assert (failed.state, failed.reason, failed.ended) == (State.FAILED, "worse", None)
    assert (failed.model_before, failed.model_after) == (None, None)
    assert store.receipt(two.id) is None and applied_of(store, two.id) is None
    assert store.get(one.id).state is State.SUCCEEDED
    gone = store.model(third)
    assert gone is not None and gone.rolled_back and not in_lineage(store, third)
    assert store.nodes_left() == {"0", "1"} and len(store.removed()) == 2
    assert holds(store)

    # The same model comes out again.
    store.retry(two.id, OPERATOR, now=at(2))
    assert completed(store, leased(store, at(3)), "third", at(4)) == third
    assert store.receipt(two.id) not in (None, receipt)
    back = store.model(third)
    assert back is not None and back.current and not back.rolled_back
    assert len(store.removed()) == 2 and len(store.models()) == 3
    assert [a.rolled_back for a in store.all_applied()] == [False, True, False]
    assert holds(store)
    store.rollback(OPERATOR, "worse", now=at(5))
    assert store.rollback(OPERATOR, "worse", now=at(5)).sha256 == FIRST
    assert holds(store)


def test_a_removal_may_change_nothing_and_not_lead_back(store: RequestStore) -> None:
    made(store)
    assert completed(store, leased(store), "first") == FIRST
    assert len(store.models()) == 1 and holds(store)
    assert store.rollback(OPERATOR, "worse", now=at(1)).sha256 == FIRST and holds(store)
    made(store)
    completed(store, leased(store), "second")
    made(store)
    with pytest.raises(TransitionError, match="one that the current model descends from"):
        completed(store, leased(store), "first")


def test_models_are_added_and_disposed_of(store: RequestStore, tmp_path: Path) -> None:
    keep_model(tmp_path, "first")
    assert store.set_first(FIRST, now=at(1)).current
    with pytest.raises(TransitionError, match="so no first model can be added"):
        store.set_first(model_named("other"), now=at(1))
    assert holds(store, tmp_path)
    made(store)
    keep_model(tmp_path, "second")
    completed(store, leased(store), "second")
    with pytest.raises(TransitionError, match="is the current model and cannot be disposed of"):
        store.dispose(model_named("second"), now=at(2))
    with pytest.raises(TransitionError, match="is not a known model"):
        store.dispose("0" * 64, now=at(2))
    store.dispose(FIRST, now=at(2))
    assert [f.what for f in verify_ledger(store, ISSUER.public, tmp_path)] == [
        "it is recorded as disposed of, but still exists"
    ]
    (tmp_path / f"{FIRST}.safetensors").unlink()
    rows = len(store.log())
    store.dispose(FIRST, now=at(2))
    assert len(store.log()) == rows and holds(store, tmp_path)
    with pytest.raises(TransitionError, match=r"the file of model .* was disposed of"):
        store.rollback(OPERATOR, "worse", now=at(3))


def test_the_log_grows_and_proves_it(store: RequestStore) -> None:
    made(store)
    completed(store, leased(store), "second")
    rows, heads = store.log(), heads_of(store)
    assert [row.index for row in rows] == list(range(len(rows)))
    assert store.log(after=2) == rows[3:] and heads[-1] == store.last_head()
    for head in heads:
        head.verify(ISSUER.public)
    assert set(store.inclusions([0, 1], 3)) == {0, 1}
    assert store.consistency(2, len(rows))
    assert store.head_over(0) == heads[0]


def test_without_the_issuer_s_key_nothing_is_logged(store_url: str) -> None:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False) as store:
        populate(store)
    with RequestStore.open(store_url, create=False, durable=False) as store:
        made(store)
        lease = leased(store)
        with pytest.raises(StoreError, match="right is to open it with that key"):
            store.commit(lease, new=FIRST, entries=entries(lease), facts={}, now=START)
        with pytest.raises(StoreError, match="without the issuer's key"):
            store.register_key("x", "owner", BOB.public, now=START)
        assert holds(store)
    with RequestStore.open(store_url, issuer=PrivateKey.generate(), durable=False) as store:
        with pytest.raises(StoreError, match="right is the issuer's key with which it was begun"):
            store.revoke_key(BOB.public.id, now=START)


def test_an_append_reads_no_leaves_and_trusts_no_peaks(
    store: RequestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = log_store._leaves

    def counting(connection: Connection, size: int) -> list[bytes]:
        read.append(size)
        return real(connection, size)

    monkeypatch.setattr(log_store, "_leaves", counting)
    for node in range(20, 29):
        store.register_key("alice", "owner", ALICE.public, [str(node)], now=START)
    assert read == []
    spoilt = ({"size": 3}, {"peaks": b"\0" * 64}, {"peaks": b"abc"})
    for number, values in enumerate(spoilt):
        with store._database.write() as tx:
            tx.execute(FRONTIER.update().values(**values))
        store.register_key("alice", "owner", ALICE.public, [f"after {number}"], now=START)
        assert len(read) == 1 and read.pop() == len(store.log()) - 1
        assert holds(store)
    with store._database.write() as tx:
        tx.execute(FRONTIER.delete())
    store.register_key("alice", "owner", ALICE.public, ["last"], now=START)
    assert holds(store)
