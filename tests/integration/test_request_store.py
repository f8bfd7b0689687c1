"""What every request store keeps to, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fedunlearn.commitments import Commitment
from fedunlearn.errors import (
    RequestReusedError,
    StoreError,
    TransitionError,
    UnknownDeletionError,
)
from fedunlearn.requests.deletion import Scope, ScopeKind, Stage, State
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.ledger import export_ledger
from fedunlearn.requests.statement import node_scope
from fedunlearn.requests.store import RequestStore
from tests.deletions import (
    ALICE,
    BOB,
    ISSUER,
    OLGA,
    OPERATOR,
    START,
    at,
    completed,
    holds,
    leased,
    made,
    owner_of,
    populate,
    principal_of,
    request,
)


def test_people_are_known_by_their_keys(store: RequestStore) -> None:
    alice = principal_of(store, ALICE.public)
    assert alice is not None
    assert (alice.name, alice.role, alice.nodes, alice.revoked) == (
        "alice",
        "owner",
        ("0", "1", "2", "3"),
        False,
    )
    assert alice.key == ALICE.public
    assert principal_of(store, PrivateKey.generate().public) is None
    second = PrivateKey.generate()
    store.register_key("alice", "owner", second.public, ["3", "4"], now=START)
    assert [p.name for p in store.principals()] == ["alice", "alice", "bob", "olga"]
    assert {p.nodes for p in store.principals() if p.name == "alice"} == {("0", "1", "2", "3", "4")}
    assert (owner_of(store, "4"), owner_of(store, "10"), owner_of(store, "99")) == (
        "alice",
        "bob",
        None,
    )
    store.revoke_key(ALICE.public.id, now=START)
    rows = len(store.log())
    store.revoke_key(ALICE.public.id, now=START)
    store.register_key("alice", "owner", second.public, ["0"], now=START)
    assert len(store.log()) == rows
    revoked = principal_of(store, ALICE.public)
    assert revoked is not None and revoked.revoked
    assert holds(store)


def test_people_that_cannot_be_registered(store: RequestStore) -> None:
    key, rows = PrivateKey.generate().public, len(store.log())

    def refused(message: str, *arguments: object) -> None:
        with pytest.raises(TransitionError, match=message):
            store.register_key(*arguments, now=START)  # type: ignore[arg-type]

    refused("node 10 has another owner", "alice", "owner", key, ["4", "10"])
    refused("is registered for alice; right is another key", "bob", "owner", ALICE.public)
    refused("olga is registered as operator", "olga", "owner", key)
    refused("operator and owns no nodes", "otto", "operator", key, ["5"])
    refused("cannot be registered as 'auditor'", "otto", "auditor", key)
    for node in ("", " north", "a\nb", "a" * 201):
        refused(
            "is not a valid name of a node; right is one line of 1 to 200",
            "alice",
            "owner",
            key,
            [node],
        )
        with pytest.raises(TransitionError, match="is not a valid name of a node"):
            store.register_commitment(node, Commitment("ab" * 32, 5), now=START)
    for name in (" ", "a\nb", "a" * 201):
        refused("right is a name of up to 200", name, "owner", key)
    store.revoke_key(BOB.public.id, now=START)
    refused("is registered for bob and revoked", "bob", "owner", BOB.public)
    with pytest.raises(TransitionError, match="there is no key"):
        store.revoke_key("0" * 64, now=START)
    assert len(store.log()) == rows + 1 and owner_of(store, "4") is None


def test_texts_that_no_database_holds(store: RequestStore) -> None:
    for ask in (
        lambda: store.revoke_key("\udcff", now=START),
        lambda: store.get("\udcff"),
        lambda: store.find("\udcff", "id"),
    ):
        with pytest.raises(StoreError, match="characters that UTF-8 cannot encode"):
            ask()
    made(store)


def test_a_node_commits_once(store: RequestStore) -> None:
    one, other = Commitment("ab" * 32, 5), Commitment("cd" * 32, 6)
    store.register_commitment("0", one, now=START)
    store.register_commitment("0", one, now=START)
    store.register_commitment("77", one, now=START)
    with pytest.raises(TransitionError, match="node 0 committed to other records before"):
        store.register_commitment("0", other, now=START)
    assert (store.commitment("0"), store.commitment("1")) == (one, None)
    assert store.commitments() == {"0": one, "77": one}
    store.register_commitment("0", other, now=START, replace=True)
    assert store.commitment("0") == other
    assert '"replaced":true' in store.log()[-1].entry
    assert holds(store)


def test_a_request_is_stored_once(store: RequestStore) -> None:
    new = request(received=at(5))
    first, is_new = store.create(new)
    assert is_new and first.state is State.PENDING and first.attempts == 0
    assert first.scope == Scope(ScopeKind.NODE, nodes=("0",))
    assert (first.created, first.due) == (at(5), at(5) + timedelta(days=30))
    assert store.create(new) == (first, False)
    assert store.get(first.id) == first == store.find("alice", new.request_id)
    assert store.find("bob", new.request_id) is None
    with pytest.raises(RequestReusedError, match=f"request id {new.request_id} is used"):
        store.create(request(node_scope(["1"]), request_id=new.request_id))
    (event,) = store.events(first.id)
    assert (event.state, event.actor, event.number) == (
        State.PENDING,
        "owner alice",
        first.last_event,
    )
    anew = replace(request(received=at(9), request_id=new.request_id), model="0" * 64)
    assert store.create(anew) == (first, False)
    waits = made(store, request(awaits_approval=True))
    assert waits.state is State.AWAITING_APPROVAL
    with pytest.raises(UnknownDeletionError, match="there is no request nowhere"):
        store.get("nowhere")
    assert holds(store)


def test_many_requests_are_stored_at_once(store: RequestStore) -> None:
    known = request()
    made(store, known)
    new, other = request(), request(owner="bob")
    outcomes = store.create_many(
        [new, known, new, other, request(node_scope(["2"]), request_id=new.request_id)]
    )
    flags = [o if isinstance(o, RequestReusedError) else o[1] for o in outcomes]
    assert flags[:4] == [True, False, False, True] and isinstance(flags[4], RequestReusedError)
    assert len(store.list()) == 3 and store.last_event() == 3
    assert store.create_many([]) == []
    assert holds(store)


def test_simultaneous_duplicates_make_one_request(store: RequestStore) -> None:
    new = request()
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: store.create(new), range(100)))
    assert sum(is_new for _, is_new in outcomes) == 1
    assert len({deletion.id for deletion, _ in outcomes}) == 1
    assert len(store.list()) == 1


def test_requests_are_listed_page_by_page(store: RequestStore) -> None:
    ids = [made(store, request(received=at(i // 2))).id for i in range(7)]
    theirs = made(store, request(owner="bob", received=at(2)))
    store.cancel(ids[3], "owner alice", now=at(9))
    pages, after = [], None
    while page := store.list(owner="alice", after=after, limit=3):
        pages.append(page)
        after = page[-1].id
    found = [deletion for page in pages for deletion in page]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert {deletion.id for deletion in found} == set(ids)
    assert [d.created for d in found] == sorted(d.created for d in found)
    assert [d.id for d in store.list(states=[State.CANCELLED])] == [ids[3]]
    assert len(store.list()) == 8 and store.list(owner="bob") == [theirs]
    assert (store.count_open("alice"), store.count_open("bob")) == (6, 1)
    assert store.count_since("alice", at(2)) == 3
    with pytest.raises(UnknownDeletionError, match="after which to list"):
        store.list(after="nowhere")


def test_operators_and_owners_decide(store: RequestStore) -> None:
    waits = made(store, request(awaits_approval=True))
    assert store.approve(waits.id, OPERATOR, now=at(1)).state is State.PENDING
    cancelled = store.cancel(waits.id, "owner alice", now=at(2))
    assert (cancelled.state, cancelled.ended) == (State.CANCELLED, at(2))
    rejected = store.reject(made(store).id, OPERATOR, "not\0yours", now=at(3))
    assert (rejected.state, rejected.reason) == (State.REJECTED, "not\ufffdyours")
    states = [(e.state, e.actor, e.reason) for e in store.events(rejected.id)]
    assert states[-1] == (State.REJECTED, OPERATOR, "not\ufffdyours")
    assert store.events(rejected.id, after=rejected.last_event) == []
    assert [e.number for e in store.events(None)] == list(range(1, store.last_event() + 1))
    assert len(store.events(None, after=2, limit=1)) == 1
    with pytest.raises(UnknownDeletionError):
        store.events("nowhere")
    assert holds(store)


def test_what_a_state_does_not_allow_is_refused(store: RequestStore) -> None:
    deletion, last = made(store), store.last_event()
    for act in (store.approve, store.retry):
        with pytest.raises(TransitionError, match=f"request {deletion.id} is PENDING; right is"):
            act(deletion.id, OPERATOR, now=START)
    lease = leased(store)
    refusals: list[Callable[[], object]] = [
        lambda: store.cancel(deletion.id, "owner alice", now=START),
        lambda: store.reject(deletion.id, OPERATOR, "no", now=START),
        lambda: store.approve(deletion.id, OPERATOR, now=START),
        lambda: store.retry(deletion.id, OPERATOR, now=START),
    ]
    for refuse in refusals:
        with pytest.raises(TransitionError, match=f"request {deletion.id} is RUNNING"):
            refuse()
    completed(store, lease, "second")
    for refuse in refusals:
        with pytest.raises(TransitionError, match=f"request {deletion.id} is SUCCEEDED"):
            refuse()
    with pytest.raises(UnknownDeletionError):
        store.cancel("nowhere", "owner alice", now=START)
    assert store.last_event() == last + 2
    assert holds(store)


def test_the_due_date_is_moved_once_and_not_too_far(store: RequestStore) -> None:
    made_at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    deletion = made(store, request(received=made_at))
    latest = datetime(2027, 2, 28, 12, tzinfo=UTC)
    for due in (deletion.due, latest + timedelta(microseconds=1)):
        with pytest.raises(TransitionError, match=r"cannot be due on .* not after 2027-02-28T12"):
            store.extend(deletion.id, OPERATOR, due, "many", now=made_at)
    lease = leased(store, made_at)
    extended = store.extend(deletion.id, OPERATOR, latest, "many", now=made_at)
    assert (extended.due, extended.reason, extended.state) == (latest, "many", State.RUNNING)
    assert extended.stage is Stage.COLLECTING
    with pytest.raises(TransitionError, match="was extended before"):
        store.extend(deletion.id, OPERATOR, latest, "more", now=made_at)
    completed(store, lease, "second", made_at)
    with pytest.raises(TransitionError, match="is SUCCEEDED and has no due date"):
        store.extend(deletion.id, OPERATOR, latest, "more", now=made_at)
    assert holds(store)


def test_calls_are_taken_once(store: RequestStore) -> None:
    key = OLGA.public.id
    assert store.take_nonce(key, b"n" * 16, at(60), now=START)
    assert not store.take_nonce(key, b"n" * 16, at(60), now=at(60))
    assert store.take_nonce(ALICE.public.id, b"n" * 16, at(60), now=START)
    assert store.take_nonce(key, b"n" * 16, at(200), now=at(61))
    with ThreadPoolExecutor(8) as pool:
        taken = pool.map(lambda _: store.take_nonce(key, b"m" * 16, at(90), now=at(1)), range(16))
        assert sum(taken) == 1


def test_refusals_are_kept_within_bounds(store_url: str) -> None:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False, most_audits=3) as store:
        for i in range(5):
            store.audit("KEY_UNKNOWN", key_id="k", peer="p", detail=f"{i}\0\ud800", now=at(i))
        store.audit("LONG", detail="x" * 10_000, now=at(5))
        found = store.audits()
        assert [a.detail[:1] for a in found] == ["x", "4", "3"] and len(found[0].detail) == 500
        assert (found[1].kind, found[1].time, found[1].peer) == ("KEY_UNKNOWN", at(4), "p")
        assert len(store.audits(limit=1)) == 1


def test_traces_that_last_are_not_crowded_out(store_url: str) -> None:
    with RequestStore.open(store_url, issuer=ISSUER, durable=False, most_audits=4) as store:
        lasting = {"NOT_YOUR_NODE"}
        for kind in ("NOT_YOUR_NODE", *["KEY_UNKNOWN"] * 9, "NOT_YOUR_NODE", "KEY_UNKNOWN"):
            store.audit(kind, now=START, lasting=lasting)
        kinds = [audit.kind for audit in store.audits()]
        assert kinds == ["KEY_UNKNOWN", "NOT_YOUR_NODE", "KEY_UNKNOWN", "NOT_YOUR_NODE"]
        for _ in range(9):
            store.audit("NOT_YOUR_NODE", now=START, lasting=lasting)
        assert [audit.kind for audit in store.audits()] == ["NOT_YOUR_NODE"] * 4
        store.audit("KEY_UNKNOWN", now=START, lasting=lasting)
        assert store.audits(1)[0].kind == "KEY_UNKNOWN" and len(store.audits()) == 4


def test_figures(store: RequestStore) -> None:
    for days in (1, 2, 40):
        made(store, request(days=days, received=at(10)))
    made(store, request(awaits_approval=True, days=50))
    completed(store, leased(store, at(20)), "second", at(70))
    store.fail(leased(store, at(80)), "no", now=at(80))
    found = store.statistics(START + timedelta(days=5), near=timedelta(days=40))
    assert found.open == {
        State.PENDING: 1,
        State.AWAITING_APPROVAL: 1,
        State.RUNNING: 0,
        State.FAILED: 1,
    }
    assert (found.oldest, found.overdue, found.near_due, found.failures) == (START, 1, 1, 1)
    assert (found.completions, found.completion_seconds) == (1, 60.0)


def test_times_need_a_zone(store: RequestStore) -> None:
    with pytest.raises(ValueError, match="a time without a time zone"):
        store.lease("w", now=datetime(2026, 1, 1), seconds=1)


def test_all_is_there_after_reopening(store_url: str) -> None:
    with RequestStore.open(store_url, issuer=ISSUER) as store:
        populate(store)
        deletion = made(store)
        completed(store, leased(store), "second")
        before = export_ledger(store), store.get(deletion.id), store.receipt(deletion.id)
    with RequestStore.open(store_url, create=False) as store:
        assert (export_ledger(store), store.get(deletion.id), store.receipt(deletion.id)) == before
