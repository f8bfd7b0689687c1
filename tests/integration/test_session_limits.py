"""Limits of sessions: stops, tokens, certificates, sizes, and servers that end."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from fedunlearn.errors import (
    FederationError,
    NodeLostError,
    StoppedError,
    UnreachableError,
)
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.cohort import Cohort
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import Endpoint, SessionServer
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import answer_frames, attend
from fedunlearn.questions.forget import Part
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.kinds import Gradient
from fedunlearn.questions.question import Answer, Node, Question
from fedunlearn.rpc.v1 import session_pb2 as pb
from tests.federations import TinyTask, join, weights_of
from tests.integration.test_session import FORGET, Open, peer
from tests.integration.test_session import session as session


def test_a_stop_ends_the_wait(session: Open) -> None:
    stop, asked = threading.Event(), threading.Event()
    silent = session({1: peer(lambda *_: asked.set())}, stop=stop)
    threading.Thread(target=lambda: asked.wait(10.0) and stop.set()).start()
    with pytest.raises(StoppedError):
        silent.gradient()


def test_bfloat16_halves_the_bytes_of_vectors_and_the_answer_is_taken(session: Open) -> None:
    task, weights = TinyTask(torch.float32), weights_of(TinyTask(torch.float32))
    server = SessionServer([0])
    thread = threading.Thread(
        target=lambda invitation: attend(
            TaskNode(task, 0), invitation, connect_s=30.0, payload=torch.bfloat16
        ),
        args=(server.invite(0),),
    )
    thread.start()
    assert server.wait(30.0) == ()
    meters = MeterStack()
    question = Question("job", 0, FORGET, (Part.RETAIN,), weights, Gradient(), weights[None][:0])
    found = {}
    for payload in (None, torch.bfloat16):
        transport = SessionTransport(server, meters, payload=payload)
        with meters.measure() as meter:
            (found[payload],) = transport.ask(question, [0], deadline_s=30.0)
        size = 2 if payload else 4
        assert 33 * size <= meter.bytes_down < 33 * size + 300
        assert 33 * 2 <= meter.bytes_up < 33 * 2 + 300
        Cohort([0]).admit(question, found[payload])
    exact = TaskNode(task, 0).answer(question).values[Part.RETAIN]
    for answer in found.values():
        assert answer.values[Part.RETAIN].dtype == torch.float32
        torch.testing.assert_close(answer.values[Part.RETAIN], exact, rtol=2e-2, atol=2e-2)
    server.close()
    thread.join(30.0)


def refused(invitation: Invitation) -> FederationError:
    with pytest.raises(FederationError) as caught:
        attend(TaskNode(TinyTask(), 0), invitation, connect_s=5.0)
    return caught.value


def test_a_token_is_good_once_for_one_node_and_one_job() -> None:
    server, other = SessionServer([0]), SessionServer([0])
    used = server.invite(0)
    thread = join(used, TaskNode(TinyTask(), 0))
    assert server.wait(30.0) == ()
    replaced = other.invite(0)
    of_another_job = replace(other.invite(0), address=server.address, certificate=used.certificate)
    for invitation in (used, of_another_job, replace(used, token=""), replaced):
        assert "token is unknown or was used" in str(refused(invitation))
    assert server.missing() == () and other.missing() == (0,)
    for each in (server, other):
        each.close()
    thread.join(30.0)
    assert used.token not in repr(used)


def test_an_endpoint_with_another_certificate_is_not_trusted() -> None:
    server, other = SessionServer([0]), SessionServer([0])
    invitation = replace(server.invite(0), certificate=other.invite(0).certificate)
    with pytest.raises(UnreachableError, match="cannot be reached within 1 s"):
        attend(TaskNode(TinyTask(), 0), invitation, connect_s=1.0)
    server.close()
    other.close()


def test_a_port_that_is_taken_is_named() -> None:
    server = SessionServer([0])
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(FederationError, match=f"127.0.0.1:{port} cannot be listened on"):
        SessionServer([0], Endpoint(port=port))
    server.close()


def test_a_message_above_the_limit_is_not_taken(session: Open) -> None:
    huge = pb.AttendRequest(chunk=b"x" * 2**21)
    with pytest.raises(NodeLostError, match="round 0: node 1 was lost"):
        session({1: peer(lambda who, *_: who.send(huge))}).gradient()


def test_a_node_hears_that_the_server_is_gone() -> None:
    server = SessionServer([0])
    raised: list[Exception] = []

    class Slow:
        def answer(self, question: Question) -> Answer:
            raise NotImplementedError

    node: Node = Slow()

    def serve(invitation: Invitation) -> None:
        try:
            attend(node, invitation, connect_s=30.0)
        except FederationError as error:
            raised.append(error)

    thread = threading.Thread(target=serve, args=(server.invite(0),))
    thread.start()
    assert server.wait(30.0) == ()
    server._server.stop(0).wait()  # as a kill does: streams are cut, not ended
    thread.join(30.0)
    (error,) = raised
    assert isinstance(error, NodeLostError)
    server.close()


def test_answers_cross_in_frames_that_are_made_when_taken() -> None:
    weights = weights_of(TinyTask())
    question = Question("job", 0, FORGET, (Part.RETAIN,), weights, Gradient(), weights[None][:0])
    answer = TaskNode(TinyTask(), 0).answer(question)
    head, *chunks = answer_frames(3, question, answer, None)
    assert pb.AttendRequest.FromString(head).answer.number == 3
    assert len(chunks) == 1
