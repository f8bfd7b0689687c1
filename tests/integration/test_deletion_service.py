"""The deletion service over a real channel: what it takes, what it refuses, what it stores."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedunlearn.errors import InputError, ServiceError, StoreError
from fedunlearn.requests.deletion import State
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import class_scope, node_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import CODES, DOMAIN, Reason
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.settings import ServiceSettings
from tests.deletion_catalogue import CALLS, CATALOGUE, METHODS, READS, valid
from tests.deletion_house import COMMITMENTS, KEYS, MODEL, House, house, now, remove
from tests.deletion_messages import Names, Sent, calling, creating
from tests.deletion_wire import Answer, refused, send, tables


class Place:
    """A house with requests in every state that calls are made about."""

    def __init__(self, opened: House) -> None:
        self.house = opened
        self.channel = grpc.insecure_channel(opened.address)
        alice, op, bob = (opened.client(name) for name in ("alice", "op", "bob"))
        done = alice.create(node_scope([1]))
        remove(opened.state, "after node 1")
        pending = alice.create(record_scope(0, COMMITMENTS[0], [1, 2]))
        cancelled = alice.create(record_scope(0, COMMITMENTS[0], [3]))
        alice.cancel(cancelled.id)
        extended = alice.create(record_scope(0, COMMITMENTS[0], [4]))
        op.extend(extended.id, now() + timedelta(days=50), "a reason")
        awaiting = bob.create(node_scope([2]))
        page = send(self.channel, self._listing(2))
        token = pb.ListDeletionsResponse.FromString(page.bodies[0]).next_page_token
        names = Names(opened.server.audience, pending=pending.id)
        decision = calling(
            names,
            "RejectDeletion",
            pb.RejectDeletionRequest(id=bob.create(class_scope([1], [2])).id, reason="no"),
            key="op",
        )
        used = {"read": valid("GetDeletion", names), "decision": decision}
        for sent in used.values():
            assert send(self.channel, sent).code == "OK"
        self.names = Names(
            opened.server.audience,
            pending=pending.id,
            awaiting=awaiting.id,
            cancelled=cancelled.id,
            done=done.id,
            extended=extended.id,
            bobs=awaiting.id,
            tokens={"op": token, "id": pending.request_id},
            used=used,
        )

    def _listing(self, size: int) -> Sent:
        names = Names(self.house.server.audience)
        return calling(names, "ListDeletions", pb.ListDeletionsRequest(page_size=size), key="op")

    def send(self, sent: Sent, *, compressed: bool = False) -> Answer:
        return send(self.channel, sent, compressed=compressed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with house(tmp_path_factory.mktemp("service") / "state") as opened:
        found = Place(opened)
        yield found
        found.channel.close()


def test_the_catalogue_is_large_and_knows_every_reason_of_a_refusal() -> None:
    assert len(CATALOGUE) >= 100
    elsewhere = {
        *("QUOTA_EXCEEDED", "STORE_BUSY", "SERVER_STOPPING", "WATCH_TOO_LONG", "INTERNAL_FAILURE")
    }
    assert {case.reason for case in CATALOGUE.values()} - {""} == {*Reason} - elsewhere
    assert set(CODES) == set(Reason)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue(place: Place, name: str) -> None:
    case = CATALOGUE[name]
    folder = place.house.state.folder
    before = tables(folder)
    answer = place.send(case.build(place.names), compressed=case.compressed)
    assert (answer.code, answer.reason) == (case.code, case.reason), answer.message
    after = tables(folder)
    trace = after.pop("audit")[len(before.pop("audit")) :]
    if case.reason:
        check_details(answer)
        assert "\n" not in answer.message
    if case.code != "FAILED_PRECONDITION" or not name.startswith(CALLS):
        assert after == before
    else:  # the call was taken, though it changed nothing
        assert after | {"nonces": []} == before | {"nonces": []}
    traced = case.code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}
    assert [row[2] for row in trace] == (
        [case.reason] if traced and case.reason != "CREDENTIAL_MISSING" else []
    )


def check_details(answer: Answer) -> None:
    info, *others = answer.details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == (DOMAIN, answer.reason)
    kinds = {type(one) for one in others}
    if answer.reason == "FIELD_INVALID":
        assert kinds == {error_details_pb2.BadRequest}
        for violation in others[0].field_violations:  # type: ignore[attr-defined]
            assert violation.field and violation.description
    elif answer.reason == "QUOTA_EXCEEDED":
        assert kinds == {error_details_pb2.QuotaFailure}
    else:
        assert kinds == ({error_details_pb2.RetryInfo} if answer.code == "UNAVAILABLE" else set())


@pytest.mark.parametrize("method", [*METHODS, "CreateDeletion"])
def test_the_calls_that_the_catalogue_changes_are_right(place: Place, method: str) -> None:
    names = place.names
    if method == "ExtendDeletion":
        sent = valid(method, names)
    elif method in {"CancelDeletion", "RejectDeletion"}:
        client = place.house.client("alice")
        made = client.create(record_scope(0, COMMITMENTS[0], [9]))
        names = Names(names.audience, pending=made.id)
        sent = valid(method, names, "alice" if method == "CancelDeletion" else "op")
    elif method == "RetryDeletion":
        assert place.send(valid(method, names)).reason == "STATE_CONFLICT"
        return
    else:
        sent = valid(method, names)
    answer = place.send(sent)
    assert answer.code == "OK", answer


def test_a_request_goes_through_its_life(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"require-approval": True}) as opened:
        alice, op = opened.client("alice"), opened.client("op")
        made = alice.create(record_scope(0, COMMITMENTS[0], [1, 7]))
        assert (made.state, made.kind, made.count) == (pb.STATE_AWAITING_APPROVAL, "records", 2)
        assert made.owner == "alice" and not made.near_due
        assert made.due.ToDatetime() - made.created.ToDatetime() == timedelta(days=30)
        assert op.approve(made.id).state == pb.STATE_PENDING
        remove(opened.state, "second")
        done = alice.get(made.id)
        assert done.state == pb.STATE_SUCCEEDED and done.model_before_sha256.hex() == MODEL
        receipt = verify_receipt(alice.receipt(made.id), opened.state.issuer.public)
        assert receipt.model == done.model_after_sha256.hex() == alice.info().model_sha256.hex()
        events = list(alice.watch(made.id))
        assert [event.actor for event in events[:2]] == ["owner alice", "operator op"]
        assert [event.number for event in events] == sorted(event.number for event in events)
        assert events[-1].state == pb.STATE_SUCCEEDED
        assert [e.number for e in alice.watch(made.id, events[1].number)] == [
            event.number for event in events[2:]
        ]
        # The first model is still one that the owner may have seen.
        assert alice.create(record_scope(0, COMMITMENTS[0], [8]), model=MODEL).id != made.id


def test_a_repeat_gets_the_first_answer_even_when_the_node_has_left(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"quota-open": 1}) as opened:
        alice = opened.client("alice")
        id = str(uuid.uuid4())
        first = alice.create(node_scope([1]), request_id=id)
        assert alice.create(node_scope([1]), request_id=id).id == first.id  # beyond the quota
        remove(opened.state, "after node 1")
        again = alice.create(node_scope([1]), request_id=id)
        assert (again.id, again.state) == (first.id, pb.STATE_SUCCEEDED)
        with pytest.raises(ServiceError) as refusal:
            alice.create(node_scope([1]))
        assert refusal.value.reason == "NODE_LEFT"


def test_many_duplicates_at_once_make_one_row(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        sent = creating(Names(opened.server.audience))
        barrier = threading.Barrier(20)

        def ask(place: int) -> list[Answer]:
            barrier.wait()
            return [send(channel, sent) for _ in range(5)]

        with ThreadPoolExecutor(20) as pool:
            answers = [answer for found in pool.map(ask, range(20)) for answer in found]
        assert len(answers) == 100
        ids = {
            pb.CreateDeletionResponse.FromString(answer.bodies[0]).deletion.id for answer in answers
        }
        stored = tables(opened.state.folder)
        assert len(ids) == len(stored["deletions"]) == len(stored["events"]) == 1


def test_requests_that_are_stored_together_all_are(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        bob = opened.client("bob")
        bob.info()

        def ask(record: int) -> str:
            scope = record_scope(2, COMMITMENTS[2], [record])
            return bob.create(scope, model=MODEL).id

        with ThreadPoolExecutor(16) as pool:
            ids = list(pool.map(ask, range(90)))
        assert len(set(ids)) == 90
        assert {one.id for one in opened.client("op").list(page_size=7)} == set(ids)


@pytest.mark.parametrize("key", ["quota-open", "quota-per-day"])
def test_quotas(tmp_path: Path, key: str) -> None:
    with house(tmp_path / "state", **{key: 3}) as opened:
        alice, bob = opened.client("alice"), opened.client("bob")
        scopes = [record_scope(0, COMMITMENTS[0], [record]) for record in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(alice.create, scope, model=MODEL) for scope in scopes]
        refusals = [one.exception() for one in found if one.exception()]
        assert len(refusals) == 5
        for refusal in refusals:
            assert isinstance(refusal, ServiceError)
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        with grpc.insecure_channel(opened.address) as channel:
            answer = send(channel, creating(Names(opened.server.audience)))
        check_details(answer)
        assert answer.reason == "QUOTA_EXCEEDED"
        assert len(tables(opened.state.folder)["deletions"]) == 3
        bob.create(record_scope(2, COMMITMENTS[2], [0]))
        alice.cancel(next(iter(alice.list())).id)
        if key == "quota-open":
            alice.create(scopes[0])
        else:
            with pytest.raises(ServiceError, match="within a day"):
                alice.create(scopes[0])


def test_approval_by_share(tmp_path: Path) -> None:
    # Of 384 records alice has 64 on node 0 and bob 256 on node 2.
    with house(tmp_path / "state", **{"approval-share": 0.1, "most-records": 100}) as opened:
        alice, bob, op = (opened.client(name) for name in ("alice", "bob", "op"))
        waits, runs = pb.STATE_AWAITING_APPROVAL, pb.STATE_PENDING
        records = COMMITMENTS[0]
        assert alice.create(record_scope(0, records, range(38))).state == runs
        assert alice.create(record_scope(0, records, range(39))).state == waits
        assert alice.create(node_scope([0])).state == waits
        assert alice.create(class_scope([1], [0])).state == waits
        assert bob.create(node_scope([3])).state == waits  # nobody knows how much that is
        assert op.create(class_scope([1])).state == runs


def test_owners_see_their_own_and_operators_all(place: Place) -> None:
    alice, bob, op = (place.house.client(name) for name in ("alice", "bob", "op"))
    assert {one.owner for one in alice.list()} == {"alice"}
    assert {one.owner for one in bob.list(page_size=1)} == {"bob"}
    everything = [one.id for one in op.list(page_size=2)]
    assert len(everything) == len(set(everything)) and place.names.bobs in everything
    cancelled = list(op.list([State.CANCELLED], page_size=1))
    assert {one.state for one in cancelled} == {pb.STATE_CANCELLED}
    assert place.names.cancelled in {one.id for one in cancelled}


def test_pages_are_cut_to_size(place: Place) -> None:
    op = place.house.client("op")
    assert len(list(op.list(page_size=2**31 - 1))) == len(list(op.list()))


def test_a_new_key_counts_at_once_and_a_revoked_one_no_more(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        nobody = opened.client("nobody")
        with pytest.raises(ServiceError) as refusal:
            list(nobody.list())
        assert refusal.value.reason == "KEY_UNKNOWN"
        key = KEYS["nobody"].public
        opened.store.register_key("carol", "owner", key, [7], now=now())
        assert nobody.create(node_scope([7])).owner == "carol"
        opened.store.revoke_key(key.id, now=now())
        time.sleep(1.0)  # five looks at the store
        with pytest.raises(ServiceError) as refusal:
            nobody.create(node_scope([7]))
        assert refusal.value.reason == "KEY_REVOKED"


def test_the_clock_of_a_request(tmp_path: Path) -> None:
    late = timedelta()
    with house(tmp_path / "state", clock=lambda: now() + late) as opened:
        alice, op = opened.client("alice"), opened.client("op")
        id = alice.create(node_scope([0])).id
        for days, near, overdue in ((0, 0, 0), (24, 1, 0), (31, 0, 1)):
            late = timedelta(days=days)
            stored = opened.store.statistics(now() + late, near=timedelta(days=7))
            assert (stored.near_due, stored.overdue) == (near, overdue)
        late = timedelta()
        due = now() + timedelta(days=75)
        assert op.extend(id, due, "many requests").due.ToDatetime() == due.replace(tzinfo=None)


def test_near_due_is_shown(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"due-days": 5}) as opened:
        made = opened.client("alice").create(node_scope([0]))
        assert made.near_due
        assert not opened.client("alice").cancel(made.id).near_due


def test_a_watch_sees_every_change_as_it_happens(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice, op = opened.client("alice"), opened.client("op")
        id = op.create(class_scope([3])).id
        seen: list[tuple[int, float]] = []

        def watch() -> None:
            for event in op.watch(id):
                seen.append((event.state, time.monotonic()))

        thread = threading.Thread(target=watch)
        thread.start()
        wait_for(lambda: len(seen) == 1)
        begun = time.monotonic()
        op.reject(id, "not now")
        thread.join(10)
        assert [state for state, _ in seen] == [pb.STATE_PENDING, pb.STATE_REJECTED]
        assert seen[1][1] - begun < 1.0
        assert list(alice.list()) == []


def test_a_watch_sees_what_another_process_does(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice = opened.client("alice")
        id = alice.create(node_scope([0])).id
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(e.state for e in alice.watch(id)))
        thread.start()
        wait_for(lambda: "fedunlearn_watches 1.0" in opened.server.metrics.text())
        opened.store.cancel(id, actor="owner alice", now=now())  # not through the service
        thread.join(10)
        assert found == [pb.STATE_PENDING, pb.STATE_CANCELLED]


def test_a_watch_is_taken_up_again_after_the_server_restarts(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        client = opened.client("alice")
        id = client.create(node_scope([0])).id
        found: list[pb.Event] = []
        thread = threading.Thread(target=lambda: found.extend(client.watch(id)))
        thread.start()
        wait_for(lambda: len(found) == 1 or "watches 1.0" in opened.server.metrics.text())
        port = opened.address.rpartition(":")[2]
        opened.server.stop()
        opened.store.cancel(id, actor="owner alice", now=now())
        settings = opened.state.settings.model_copy(update={"listen": f"127.0.0.1:{port}"})
        with DeletionServer(opened.store, settings) as again:
            again.start()
            thread.join(20)
            assert not thread.is_alive()
        assert [event.state for event in found] == [pb.STATE_PENDING, pb.STATE_CANCELLED]


def test_watches_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    settings = {"watches-per-principal": 2, "longest-watch-s": 1.0}
    with house(tmp_path / "state", **settings) as opened:
        id = opened.client("alice").create(node_scope([0])).id
        names = Names(opened.server.audience, cancelled=id)
        with grpc.insecure_channel(opened.address) as channel:
            watches = []
            for _ in range(2):
                sent = valid("WatchDeletion", names)
                call = channel.unary_stream(sent.path)(sent.body, metadata=sent.metadata)
                next(call)
                watches.append(call)
            answer = send(channel, valid("WatchDeletion", names))
            assert (answer.code, answer.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
            assert send(channel, valid("GetDeletion", Names(names.audience, id))).code == "OK"
            with pytest.raises(grpc.RpcError) as ended:
                list(watches[0])
            answer = refused(ended.value)
            assert (answer.code, answer.reason) == ("UNAVAILABLE", "WATCH_TOO_LONG")
            watches[1].cancel()
            wait_for(lambda: "fedunlearn_watches 0.0" in opened.server.metrics.text())


def test_hundreds_of_watches_leave_room_for_other_calls(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"watches-per-principal": 500}) as opened:
        alice = opened.client("alice")
        id = alice.create(node_scope([0])).id
        names = Names(opened.server.audience, cancelled=id)
        with grpc.insecure_channel(opened.address) as channel:
            sents = [valid("WatchDeletion", names) for _ in range(300)]
            calls = [
                channel.unary_stream(sent.path)(sent.body, metadata=sent.metadata) for sent in sents
            ]
            for call in calls:
                next(call)
            assert alice.get(id).state == pb.STATE_PENDING
            alice.cancel(id)
            for call in calls:
                assert len(list(call)) == 1


def test_callers_that_send_nothing_hold_up_nobody(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        release = threading.Event()

        def silent() -> Iterator[bytes]:
            release.wait(20)
            yield from ()

        path = valid("GetDeletion", Names("x")).path
        calls = [channel.stream_unary(path).future(silent()) for _ in range(20)]
        try:
            assert opened.client("alice").info().federation
        finally:
            for call in calls:
                call.cancel()
            release.set()


def test_health_and_reflection(tmp_path: Path) -> None:
    for reflection in (False, True):
        folder = tmp_path / str(reflection)
        with (
            house(folder / "state", reflection=reflection) as opened,
            grpc.insecure_channel(opened.address) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "fedunlearn.rpc.v1.DeletionService"):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            call = channel.stream_stream(path)(iter([b"\x3a\x00"]), timeout=10)
            if reflection:
                assert b"fedunlearn.rpc.v1.DeletionService" in next(call)
            else:
                with pytest.raises(grpc.RpcError) as refusal:
                    next(call)
                assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_says_so_before_the_server_stops(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        states = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        thread = threading.Thread(target=opened.server.stop, args=(1.0,))
        thread.start()
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        thread.join()


def test_a_failure_inside_is_logged_without_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        id = opened.client("alice").create(node_scope([0])).id
        sent = valid("GetDeletion", Names(opened.server.audience, id))
        told = f"what {id} holds"

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(told)

        monkeypatch.setattr(opened.store, "get", fail)
        with caplog.at_level(logging.DEBUG):
            answer = send(channel, sent)
        assert (answer.code, answer.reason) == ("UNAVAILABLE", "INTERNAL_FAILURE")
        check_details(answer)
        assert "RuntimeError" in caplog.text
        for text in (caplog.text, answer.message):
            assert id not in text and told not in text

        def busy(*_: object, **__: object) -> None:
            raise StoreError("busy")

        monkeypatch.setattr(opened.store, "get", busy)
        answer = send(channel, valid("GetDeletion", Names(opened.server.audience, id)))
        assert (answer.code, answer.reason) == ("UNAVAILABLE", "STORE_BUSY")
        check_details(answer)
        monkeypatch.setattr(opened.store, "create_many", busy)
        answer = send(channel, creating(Names(opened.server.audience)))
        assert (answer.code, answer.reason) == ("UNAVAILABLE", "STORE_BUSY")
        text = opened.server.metrics.text()
        assert 'fedunlearn_calls_refused_total{reason="INTERNAL_FAILURE"} 1.0' in text


def test_the_service_needs_the_issuers_key_and_a_free_port(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        settings = opened.state.settings.model_copy(update={"listen": opened.address})
        with pytest.raises(InputError, match="is another server there"):
            DeletionServer(opened.store, settings).start()
        opened.store.issuer = None
        with pytest.raises(StoreError, match="issuer's key"):
            DeletionServer(opened.store, settings)
        opened.store.issuer = opened.state.issuer
    with pytest.raises(InputError, match="not the loopback interface"):
        with house(tmp_path / "other", listen="0.0.0.0:0"):
            pass


def test_figures(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice = opened.client("alice")
        id = alice.create(record_scope(0, COMMITMENTS[0], [1])).id
        remove(opened.state, "second")
        alice.create(node_scope([0]))
        with pytest.raises(ServiceError):
            alice.approve(id)
        for line in (
            'fedunlearn_deletions_open{state="PENDING"} 1.0',
            "fedunlearn_deletions_near_due 0.0",
            "fedunlearn_deletions_overdue 0.0",
            "fedunlearn_deletion_failures_total 0.0",
            "fedunlearn_deletion_completion_seconds_count 1.0",
            'fedunlearn_calls_total{code="OK",method="CreateDeletion"} 2.0',
            'fedunlearn_calls_total{code="PERMISSION_DENIED",method="ApproveDeletion"} 1.0',
            'fedunlearn_calls_refused_total{reason="OPERATOR_ONLY"} 1.0',
        ):
            wait_for(lambda line=line: line in opened.server.metrics.text())  # type: ignore[misc]
        assert "fedunlearn_deletion_oldest_open_age_seconds" in opened.server.metrics.text()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="tls-key"):
        ServiceSettings.model_validate({"tls-certificate": "a.pem"})


def wait_for(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


assert set(READS) < set(CALLS) < set(METHODS)
