"""What only a session has: tokens, a protocol that peers can break, streams that end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor

from fedunlearn.errors import (
    BadAnswerError,
    MissingAnswerError,
    NodeLostError,
)
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation, OnFault
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.node.node import TaskNode
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.wire import answer_message, read_question
from fedunlearn.rpc.v1 import session_pb2 as pb
from fedunlearn.rpc.v1.session_pb2_grpc import SessionServiceStub
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton
from fedunlearn.unlearning.faults import unlearn
from tests.federations import InTurn, TinyTask, join, weights_of

NODES = 3
FORGET = ForgetSet.of_nodes(2)


@dataclass
class Session:
    server: SessionServer
    transport: SessionTransport

    def objective(self, deadline_s: float = 30.0) -> FederatedObjective:
        return FederatedObjective(
            self.transport,
            tuple(range(NODES)),
            FORGET,
            weight_decay=0.0,
            meters=self.transport.meters,
            progress=Silent(),
            deadline_s=deadline_s,
        )

    def gradient(self, deadline_s: float = 30.0) -> Tensor:
        return self.objective(deadline_s).gradients(weights_of(TinyTask())).retain


Open = Callable[..., Session]


@pytest.fixture
def session() -> Iterator[Open]:
    """Open a session whose nodes are honest, but for those that are given."""
    closing: list[Callable[[], None]] = []

    def open_session(
        others: dict[int, Callable[[Invitation], threading.Thread]] | None = None,
        **options: Any,
    ) -> Session:
        others = others or {}
        server = SessionServer(range(NODES))
        threads = [(others.get(n) or honest)(server.invite(n)) for n in range(NODES)]

        def close() -> None:
            server.close()
            for thread in threads:
                thread.join(30.0)
                assert not thread.is_alive()

        closing.append(close)
        assert server.wait(30.0) == ()
        return Session(server, SessionTransport(server, MeterStack(), **options))

    yield open_session
    for close in closing:
        close()


def honest(invitation: Invitation) -> threading.Thread:
    return join(invitation, InTurn(TaskNode(TinyTask(), invitation.node)))


class Peer:
    """A node written from the proto alone, with the generated stub, that a test can make lie."""

    def __init__(self, invitation: Invitation) -> None:
        self.node = TaskNode(TinyTask(), invitation.node)
        credentials = grpc.ssl_channel_credentials(invitation.certificate)
        self.channel = grpc.secure_channel(invitation.address, credentials)
        self._out: SimpleQueue[pb.AttendRequest | None] = SimpleQueue()
        self._in = SessionServiceStub(self.channel).Attend(
            iter(self._out.get, None), metadata=(("authorization", f"Bearer {invitation.token}"),)
        )

    def questions(self) -> Iterator[tuple[int, Question]]:
        for message in self._in:
            header = message.question
            tensors = {}
            for announced in header.tensors:
                size, data = 4 if announced.payload == pb.DTYPE_FLOAT32 else 8, b""
                dtype = torch.float32 if size == 4 else torch.float64
                count = torch.Size(announced.shape).numel()
                while len(data) < size * count:
                    data += next(self._in).chunk
                flat = torch.frombuffer(bytearray(data), dtype=dtype)
                tensors[announced.name] = flat.reshape(tuple(announced.shape))
            point = tensors["point"]
            vectors = tensors.get("vectors", point.new_empty(0, len(point)))
            yield header.number, read_question(header.question, point, vectors)

    def say(self, number: int, answer: Answer) -> None:
        self.send(
            pb.AttendRequest(
                answer=pb.AnswerHeader(
                    number=number,
                    answer=answer_message(answer),
                    tensors=[
                        pb.TensorHeader(
                            name=str(part),
                            shape=values.shape,
                            dtype=pb.DTYPE_FLOAT64,
                            payload=pb.DTYPE_FLOAT64,
                        )
                        for part, values in answer.values.items()
                    ],
                )
            )
        )
        for values in answer.values.values():
            self.send(pb.AttendRequest(chunk=values.numpy().tobytes()))

    def send(self, message: pb.AttendRequest) -> None:
        self._out.put(message)

    def end(self) -> None:
        self._out.put(None)
        self._in.cancel()
        self.channel.close()


Behaviour = Callable[[Peer, int, Question, Answer], None]


def peer(behave: Behaviour) -> Callable[[Invitation], threading.Thread]:
    """Let a thread be a node that behaves in its own way."""

    def start(invitation: Invitation) -> threading.Thread:
        def run() -> None:
            who = Peer(invitation)
            try:
                for number, question in who.questions():
                    with InTurn.lock:
                        answer = who.node.answer(question)
                    behave(who, number, question, answer)
            except grpc.RpcError:
                pass
            finally:
                who.end()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return start


def test_a_node_written_from_the_proto_alone_is_a_node_like_any(session: Open) -> None:
    expected = session().gradient()
    found = session({1: peer(lambda who, number, _, answer: who.say(number, answer))}).gradient()
    assert torch.equal(found, expected)


def doubled(answer: Answer) -> Answer:
    return replace(answer, counts={part: 2 * n for part, n in answer.counts.items()})


def values_of(answer: Answer, change: Callable[[Tensor], Tensor]) -> Answer:
    return replace(answer, values={part: change(v) for part, v in answer.values.items()})


def twice(who: Peer, number: int, answer: Answer) -> None:
    who.say(number, answer)
    who.say(number, answer)


def header(number: int, answer: Answer, name: str) -> pb.AttendRequest:
    """Announce an answer of which no byte follows."""
    tensor = pb.TensorHeader(
        name=name, shape=[33], dtype=pb.DTYPE_FLOAT64, payload=pb.DTYPE_FLOAT64
    )
    announced = pb.AnswerHeader(number=number, answer=answer_message(answer), tensors=[tensor])
    return pb.AttendRequest(answer=announced)


FAULTS: dict[str, tuple[Callable[[Peer, int, Answer], object], str]] = {
    "another job": (
        lambda who, number, answer: who.say(number, replace(answer, job="other")),
        "node 1 answered with another job than asked",
    ),
    "another round": (
        lambda who, number, answer: who.say(number, replace(answer, round=9)),
        "node 1 answered with another round than asked",
    ),
    "another model": (
        lambda who, number, answer: who.say(number, replace(answer, model_digest=b"x")),
        "node 1 answered with another model digest than asked",
    ),
    "another node": (
        lambda who, number, answer: who.say(number + 5, answer),
        "node 1 answered a question that was not sent",
    ),
    "wrong shape": (
        lambda who, number, answer: who.say(number, values_of(answer, lambda v: v[:-1])),
        "node 1 answered with shape (32,) for retain, asked for (33,)",
    ),
    "NaN": (
        lambda who, number, answer: who.say(number, values_of(answer, lambda v: v * float("nan"))),
        "node 1 answered with NaN or infinity for retain",
    ),
    "bytes without header": (
        lambda who, number, answer: who.send(pb.AttendRequest(chunk=b"x")),
        "node 1 sent bytes that belong to no message",
    ),
    "header within an answer": (
        lambda who, number, answer: [who.send(header(number, answer, "retain")) for _ in "12"],
        "node 1 broke off within an answer",
    ),
    "unknown part": (
        lambda who, number, answer: who.send(header(number, answer, "all")),
        "node 1 answered for parts that do not exist",
    ),
    "no frame": (
        lambda who, number, answer: who.send(pb.AttendRequest()),
        "node 1 sent bytes that belong to no message",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_answer_names_node_and_reason(session: Open, fault: str) -> None:
    behave, says = FAULTS[fault]
    lying = session({1: peer(lambda who, number, _, answer: behave(who, number, answer))})
    with pytest.raises(BadAnswerError) as caught:
        lying.gradient()
    assert str(caught.value).startswith(says)
    assert caught.value.nodes == (1,)


def test_a_second_answer_within_a_round_is_found(session: Open) -> None:
    lying = session({1: peer(lambda who, number, _, answer: twice(who, number, answer))})
    objective = lying.objective()
    with pytest.raises(BadAnswerError, match=r"node 1 answered round \d twice"):
        for _ in range(50):  # one that arrives when its round has ended is dropped
            objective.gradients(weights_of(TinyTask()))


def test_other_counts_in_the_middle_of_a_basis_are_refused(session: Open) -> None:
    def behave(who: Peer, number: int, question: Question, answer: Answer) -> None:
        who.say(number, doubled(answer) if question.round == 1 else answer)

    objective = session({1: peer(behave)}).objective()
    weights = weights_of(TinyTask())
    objective.gradients(weights)
    with pytest.raises(BadAnswerError, match="node 1 holds other numbers of examples"):
        objective.gradients(weights)


def test_a_late_answer_is_missing_then_and_not_taken_for_another(session: Open) -> None:
    over = threading.Event()

    def behave(who: Peer, number: int, question: Question, answer: Answer) -> None:
        if question.round == 0:
            over.wait(30.0)
        who.say(number, answer)

    late = session({1: peer(behave)})
    with pytest.raises(MissingAnswerError, match=r"round 0: no answer .* from node 1$") as caught:
        late.gradient(deadline_s=0.5)
    assert caught.value.nodes == (1,)
    over.set()
    objective = late.objective()
    objective.rounds = 1
    assert torch.equal(objective.gradients(weights_of(TinyTask())).retain, session().gradient())


def test_a_node_that_dies_in_the_middle_of_a_basis_is_named(session: Open) -> None:
    def behave(who: Peer, number: int, question: Question, answer: Answer) -> None:
        if question.round == 1:
            who.end()
        else:
            who.say(number, answer)

    objective = session({1: peer(behave)}).objective()
    objective.gradients(weights_of(TinyTask()))
    started = time.monotonic()
    with pytest.raises(NodeLostError, match="round 1: node 1 was lost") as caught:
        objective.gradients(weights_of(TinyTask()))
    assert caught.value.nodes == (1,)
    assert time.monotonic() - started < 5.0  # at once, not at the deadline
    with pytest.raises(NodeLostError, match="round 2: node 1 was lost"):
        objective.gradients(weights_of(TinyTask()))


def test_a_node_that_comes_back_is_asked_again(session: Open) -> None:
    died = threading.Event()

    def behave(who: Peer, number: int, question: Question, answer: Answer) -> None:
        if question.round == 1 and not died.is_set():
            died.set()
            who.end()
        else:
            who.say(number, answer)

    again: list[threading.Thread] = []
    waiting = session({1: peer(behave)}, again=lambda n: again.append(honest(server.invite(n))))
    server = waiting.server
    objective = waiting.objective()
    weights = weights_of(TinyTask())
    expected = objective.gradients(weights)
    found = objective.gradients(weights)
    assert died.is_set() and len(again) == 1
    assert torch.equal(found.retain, expected.retain) and torch.equal(found.forget, expected.forget)
    server.close()
    again[0].join(30.0)


@pytest.mark.parametrize("fault", ["NaN", "another job", "another model"])
def test_a_node_that_fails_is_dropped_whole_where_the_rule_says_so(
    session: Open, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    behave, says = FAULTS[fault]

    def in_the_middle(who: Peer, number: int, question: Question, answer: Answer) -> None:
        if question.round == 3:
            behave(who, number, answer)
        else:
            who.say(number, answer)

    def federation(opened: Session, nodes: Iterable[int], rule: OnFault) -> Federation:
        return Federation(
            examples={n: len(TinyTask().data(n)[1]) for n in nodes},
            transport=opened.transport,
            trainer=None,  # type: ignore[arg-type]  # nothing is trained here
            meters=opened.transport.meters,
            on_fault=rule,
        )

    weights = weights_of(TinyTask())
    trained = TrainedModel(weights + 0.3, weights, TrainingSettings())
    method = CubicNewton()
    for rule in OnFault:
        lying = session({1: peer(in_the_middle)})
        if rule is OnFault.ABORT:
            with pytest.raises(BadAnswerError, match=re.escape(says)):
                unlearn(method, trained, federation(lying, range(NODES), rule), FORGET)
            continue
        found = unlearn(method, trained, federation(lying, range(NODES), rule), FORGET)
    never_there = unlearn(method, trained, federation(session(), (0, 2), OnFault.ABORT), FORGET)
    assert torch.equal(found.weights, never_there.weights)
    assert found.status == f"{never_there.status}; without node 1, which failed"
    assert found.details["dropped"]["1"].startswith(says)
    assert "the basis begins again without it" in caplog.text


def test_who_leaves_is_not_dropped(session: Open) -> None:
    lying = session({2: peer(lambda who, number, _, answer: FAULTS["NaN"][0](who, number, answer))})
    made = Federation(
        examples=dict.fromkeys(range(NODES), 1),
        transport=lying.transport,
        trainer=None,  # type: ignore[arg-type]  # nothing is trained here
        meters=lying.transport.meters,
        on_fault=OnFault.DROP,
    )
    weights = weights_of(TinyTask())
    trained = TrainedModel(weights, weights, TrainingSettings())
    with pytest.raises(BadAnswerError, match="node 2 answered with NaN"):
        unlearn(CubicNewton(), trained, made, FORGET)
