"""Every call that must be refused is, as the catalogue says, and nothing is stored but a trace."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest

from fedunlearn.requests.deletion import State
from fedunlearn.requests.statement import class_scope, node_scope, record_scope
from fedunlearn.rpc.v1 import deletion_pb2 as pb
from fedunlearn.service.errors import CODES, Reason
from tests.deletion_catalogue import CATALOGUE
from tests.deletion_catalogue.calls import CALLS, METHODS, valid
from tests.deletion_house import COMMITMENTS, House, house, now, remove
from tests.deletion_messages import Names, Sent, calling
from tests.deletion_wire import Answer, check_details, send, tables


class Place:
    """A house with requests in every state that calls are made about."""

    def __init__(self, opened: House) -> None:
        self.house = opened
        self.channel = grpc.insecure_channel(opened.address)
        alice, op, bob = (opened.client(name) for name in ("alice", "op", "bob"))
        done = alice.create(node_scope(["1"]))
        remove(opened.state, "after node 1")
        pending = alice.create(record_scope("0", COMMITMENTS["0"], [1, 2]))
        cancelled = alice.create(record_scope("0", COMMITMENTS["0"], [3]))
        alice.cancel(cancelled.id)
        extended = alice.create(record_scope("0", COMMITMENTS["0"], [4]))
        op.extend(extended.id, now() + timedelta(days=50), "a reason")
        awaiting = bob.create(node_scope(["2"]))
        page = send(self.channel, self._listing(2))
        token = pb.ListDeletionsResponse.FromString(page.bodies[0]).next_page_token
        names = Names(opened.server.audience, pending=pending.id)
        decision = calling(
            names,
            "RejectDeletion",
            pb.RejectDeletionRequest(id=bob.create(class_scope(["1"], ["2"])).id, reason="no"),
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


@pytest.mark.parametrize("method", [*METHODS, "CreateDeletion"])
def test_the_calls_that_the_catalogue_changes_are_right(place: Place, method: str) -> None:
    names = place.names
    if method == "ExtendDeletion":
        sent = valid(method, names)
    elif method in {"CancelDeletion", "RejectDeletion"}:
        client = place.house.client("alice")
        made = client.create(record_scope("0", COMMITMENTS["0"], [9]))
        names = Names(names.audience, pending=made.id)
        sent = valid(method, names, "alice" if method == "CancelDeletion" else "op")
    elif method == "RetryDeletion":
        assert place.send(valid(method, names)).reason == "STATE_CONFLICT"
        return
    else:
        sent = valid(method, names)
    answer = place.send(sent)
    assert answer.code == "OK", answer


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
