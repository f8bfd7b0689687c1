"""Watching deletion requests, and that who waits holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fedunlearn.requests.statement import class_scope, node_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.server import DeletionServer
from fedunlearn.service.watch import LOOK_S
from tests.deletion_catalogue.calls import valid
from tests.deletion_house import KEYS, house, now
from tests.deletion_messages import Names
from tests.deletion_wire import refused, send, wait_for, wait_until_revoked


def test_a_watch_sees_every_change_as_it_happens(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice, op = opened.client("alice"), opened.client("op")
        id = op.create(class_scope(["3"])).id
        seen: list[tuple[int, float]] = []

        def watch() -> None:
            for event in op.watch(id):
                seen.append((event.state, time.monotonic()))

        thread = threading.Thread(target=watch)
        thread.start()
        wait_for(lambda: len(seen) == 1)
        begun = time.monotonic()
        op.reject(id, "not now")
        thread.join(60)
        assert [state for state, _ in seen] == [pb.STATE_PENDING, pb.STATE_REJECTED]
        assert seen[1][1] - begun < LOOK_S / 3  # it is woken, not found at the next look
        assert [event.actor for event in op.watch(id)] == ["operator op"] * 2
        assert list(alice.list()) == []


def test_a_watch_sees_what_another_process_does(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        alice = opened.client("alice")
        id = alice.create(node_scope(["0"])).id
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
        id = client.create(node_scope(["0"])).id
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


def test_a_watch_ends_with_its_key(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        id = opened.client("alice").create(node_scope(["0"])).id
        names = Names(opened.server.audience, cancelled=id)
        with grpc.insecure_channel(opened.address) as channel:
            sent = valid("WatchDeletion", names, "alice")
            call = channel.unary_stream(sent.path)(sent.body, metadata=sent.metadata)
            next(call)
            opened.store.revoke_key(KEYS["alice"].public.id, now=now())
            wait_until_revoked(opened.client("alice"))
            (before,) = opened.store.audits(1)
            opened.client("op").reject(id, "what alice is not to know")
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            assert refused(ended.value).reason == "KEY_REVOKED"
            (trace,) = opened.store.audits(1)
            assert trace.kind == "KEY_REVOKED"
            assert trace.number > before.number


def test_watches_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    settings = {"watches-per-principal": 2, "longest-watch-s": 1.0}
    with house(tmp_path / "state", **settings) as opened:
        id = opened.client("alice").create(node_scope(["0"])).id
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
        id = alice.create(node_scope(["0"])).id
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
