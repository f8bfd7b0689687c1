"""The deletion service over a real channel: what it takes, what it refuses, what it stores."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedunlearn.errors import InputError, KeyFileError, ServiceError, StoreError
from fedunlearn.requests.deletion import NewDeletion
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import class_scope, node_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.audits import BURST, Audits
from fedunlearn.service.errors import Reason, ServiceRefusal
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.state import open_state
from tests.deletion_catalogue.calls import valid
from tests.deletion_house import COMMITMENTS, KEYS, MODEL, house, now, remove
from tests.deletion_messages import Names, creating
from tests.deletion_wire import Answer, check_details, send, tables, wait_for, wait_until_revoked
from tests.stores import KINDS, Places


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_goes_through_its_life(tmp_path: Path, places: Places, kind: str) -> None:
    database = places.new_url(kind, tmp_path)
    with house(tmp_path / "state", database=database, **{"require-approval": True}) as opened:
        alice, op = opened.client("alice"), opened.client("op")
        made = alice.create(record_scope("0", COMMITMENTS["0"], [1, 7]))
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
        assert alice.create(record_scope("0", COMMITMENTS["0"], [8]), model=MODEL).id != made.id


def test_a_repeat_gets_the_first_answer_even_when_the_node_has_left(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"quota-open": 1}) as opened:
        alice = opened.client("alice")
        id = str(uuid.uuid4())
        first = alice.create(node_scope(["1"]), request_id=id)
        assert alice.create(node_scope(["1"]), request_id=id).id == first.id  # beyond the quota
        remove(opened.state, "after node 1")
        again = alice.create(node_scope(["1"]), request_id=id)
        assert (again.id, again.state) == (first.id, pb.STATE_SUCCEEDED)
        with pytest.raises(ServiceError) as refusal:
            alice.create(node_scope(["1"]))
        assert refusal.value.reason == "NODE_LEFT"


def test_a_repeat_gets_the_first_answer_even_when_its_model_was_rolled_back(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice = opened.client("alice")
        alice.create(record_scope("0", COMMITMENTS["0"], [1]))
        remove(opened.state, "second")
        seen, id = alice.info().model_sha256.hex(), str(uuid.uuid4())
        first = alice.create(node_scope(["0"]), model=seen, request_id=id)
        opened.store.rollback("operator op", "worse", now=now())
        wait_for(lambda: alice.info().model_sha256.hex() == MODEL)
        assert alice.create(node_scope(["0"]), model=seen, request_id=id).id == first.id
        for scope, request_id in ((node_scope(["1"]), id), (node_scope(["0"]), str(uuid.uuid4()))):
            with pytest.raises(ServiceError) as refusal:
                alice.create(scope, model=seen, request_id=request_id)
            assert refusal.value.reason == "MODEL_UNKNOWN"


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
            scope = record_scope("2", COMMITMENTS["2"], [record])
            return bob.create(scope, model=MODEL).id

        with ThreadPoolExecutor(16) as pool:
            ids = list(pool.map(ask, range(90)))
        assert len(set(ids)) == 90
        assert {one.id for one in opened.client("op").list(page_size=7)} == set(ids)


def test_a_request_that_cannot_be_stored_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path / "state") as opened:
        alice, bob = opened.client("alice"), opened.client("bob")
        create_many = opened.store.create_many
        together = []

        def fail(news: Sequence[NewDeletion]) -> object:
            together.append({new.owner for new in news})
            if "bob" in together[-1]:
                raise ValueError("what bob asks cannot be stored")
            return create_many(news)

        monkeypatch.setattr(opened.store, "create_many", fail)
        monkeypatch.setattr("fedunlearn.service.writer.WAIT_S", 0.3)
        monkeypatch.setattr("fedunlearn.service.client.PAUSES_S", ())
        scopes = [record_scope("0", COMMITMENTS["0"], [record]) for record in range(4)]
        with ThreadPoolExecutor(5) as pool:
            while {"alice", "bob"} not in together:
                good = [pool.submit(alice.create, scope, model=MODEL) for scope in scopes]
                bad = pool.submit(bob.create, node_scope(["2"]), model=MODEL)
                assert {one.result().owner for one in good} == {"alice"}
                with pytest.raises(ServiceError) as refusal:
                    bad.result()
                assert refusal.value.reason == "INTERNAL_FAILURE"
        assert {one.owner for one in opened.client("op").list()} == {"alice"}


@pytest.mark.parametrize("key", ["quota-open", "quota-per-day"])
def test_quotas(tmp_path: Path, key: str) -> None:
    with house(tmp_path / "state", **{key: 3}) as opened:
        alice, bob = opened.client("alice"), opened.client("bob")
        scopes = [record_scope("0", COMMITMENTS["0"], [record]) for record in range(8)]
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
        bob.create(record_scope("2", COMMITMENTS["2"], [0]))
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
        records = COMMITMENTS["0"]
        assert alice.create(record_scope("0", records, range(38))).state == runs
        assert alice.create(record_scope("0", records, range(39))).state == waits
        assert alice.create(node_scope(["0"])).state == waits
        assert alice.create(class_scope(["1"], ["0"])).state == waits
        assert bob.create(node_scope(["3"])).state == waits  # nobody knows how much that is
        assert op.create(class_scope(["1"])).state == runs


def test_a_new_key_counts_at_once_and_a_revoked_one_no_more(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        nobody = opened.client("nobody")
        with pytest.raises(ServiceError) as refusal:
            list(nobody.list())
        assert refusal.value.reason == "KEY_UNKNOWN"
        key = KEYS["nobody"].public
        opened.store.register_key("carol", "owner", key, ["7"], now=now())
        assert nobody.create(node_scope(["7"])).owner == "carol"
        opened.store.revoke_key(key.id, now=now())
        wait_until_revoked(nobody)
        with pytest.raises(ServiceError) as refusal:
            nobody.create(node_scope(["7"]))
        assert refusal.value.reason == "KEY_REVOKED"


def test_the_clock_of_a_request(tmp_path: Path) -> None:
    late = timedelta()
    with house(tmp_path / "state", clock=lambda: now() + late) as opened:
        alice, op = opened.client("alice"), opened.client("op")
        id = alice.create(node_scope(["0"])).id
        for days, near, overdue in ((0, 0, 0), (24, 1, 0), (31, 0, 1)):
            late = timedelta(days=days)
            stored = opened.store.statistics(now() + late, near=timedelta(days=7))
            assert (stored.near_due, stored.overdue) == (near, overdue)
        late = timedelta()
        due = now() + timedelta(days=75)
        assert op.extend(id, due, "many requests").due.ToDatetime() == due.replace(tzinfo=None)


def test_near_due_is_shown(tmp_path: Path) -> None:
    with house(tmp_path / "state", **{"due-days": 5}) as opened:
        made = opened.client("alice").create(node_scope(["0"]))
        assert made.near_due
        assert not opened.client("alice").cancel(made.id).near_due


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


def test_health_says_whether_the_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> object:
        raise StoreError("busy")

    monkeypatch.setattr("fedunlearn.service.pulse.STALE_S", 1.0)
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        states = stub.Watch(health_pb2.HealthCheckRequest(), timeout=15)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        with monkeypatch.context() as broken:
            broken.setattr(opened.store, "last_head", busy)
            assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
            answer = send(channel, creating(Names(opened.server.audience)))
            assert answer.reason == "STORE_BUSY"
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        assert send(channel, creating(Names(opened.server.audience))).code == "OK"


def test_a_failure_inside_is_logged_without_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with house(tmp_path / "state") as opened, grpc.insecure_channel(opened.address) as channel:
        id = opened.client("alice").create(node_scope(["0"])).id
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
        with pytest.raises(InputError, match="is another server using the port"):
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
        id = alice.create(record_scope("0", COMMITMENTS["0"], [1])).id
        remove(opened.state, "second")
        alice.create(node_scope(["0"]))
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


def test_a_flood_of_refusals_leaves_few_traces(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        audits = Audits(opened.store)
        denied = ServiceRefusal(Reason.KEY_UNKNOWN, "no")
        missing = ServiceRefusal(Reason.CREDENTIAL_MISSING, "no")
        assert not audits.wanted(missing)
        assert BURST <= sum(audits.wanted(denied) for _ in range(20 * BURST)) < 2 * BURST
        # Strangers leave room for those who are known.
        assert audits.wanted(ServiceRefusal(Reason.NOT_YOUR_NODE, "no"))
        audits.write(denied, method="GetDeletion", key_id="", peer="", now=now())
        (trace,) = opened.store.audits(1)
        assert trace.kind == "KEY_UNKNOWN" and "more were not written" in trace.detail


def test_a_state_is_opened_with_the_key_that_signed_its_log(tmp_path: Path) -> None:
    with house(tmp_path / "state"):
        pass
    (tmp_path / "state" / "issuer.key").unlink()
    with pytest.raises(KeyFileError, match="cannot be read"), open_state(tmp_path / "state"):
        pass
    KEYS["nobody"].write(tmp_path / "state" / "issuer.key")
    with (
        pytest.raises(KeyFileError, match="is not the key that signed"),
        open_state(tmp_path / "state"),
    ):
        pass
    (tmp_path / "state" / "service.toml").write_text("due-day = 3")
    with pytest.raises(InputError, match=r"due-day: unknown key \(did you mean 'due-days'"):
        with open_state(tmp_path / "state"):
            pass


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="tls-key"):
        ServiceSettings.model_validate({"tls-certificate": "a.pem"})
