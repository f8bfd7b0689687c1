"""One Flower message opens a session; where the endpoint is out of reach, rounds are messages."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedunlearn.errors import NodeFailedError, TaskError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.transport.session_server import Endpoint
from fedunlearn.flower import sessions
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.sessions import SESSION, SessionOrMessages, SessionSettings
from fedunlearn.parameters import initial_weights
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.risk.task import Task
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.cubic_newton import CubicNewton
from tests.federations import BrokenTask, TinyTask
from tests.inline_grid import InlineGrid

NODES = 3
FORGET = ForgetSet.of_nodes(1)


class ThreadedGrid(InlineGrid):
    """Nodes that work at the same time, as SuperNodes do; messages to one of them in turn."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(app, nodes)
        self.sent: list[str] = []
        self._turns = {node: threading.Lock() for node in self.get_node_ids()}
        self._replies: dict[str, Message] = {}
        self.threads: list[threading.Thread] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = list(super().push_messages(messages))
        for number in ids:
            message = self._pending.pop(number)
            self.sent.append(message.metadata.message_type)
            thread = threading.Thread(target=self._work, args=(number, message))
            thread.start()
            self.threads.append(thread)
        return ids

    def _work(self, number: str, message: Message) -> None:
        with self._turns[message.metadata.dst_node_id]:
            self._replies[number] = self._reply(message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]


class Opened:
    """A federation over a threaded grid, closed with the test."""

    def __init__(self, task: Task, settings: SessionSettings | None) -> None:
        self.grid = ThreadedGrid(make_client_app(task), NODES)
        self.federation: Federation = open_federation(
            self.grid, NODES, progress=Silent(), sessions=settings, deadline_s=30.0
        )

    def close(self) -> None:
        self.federation.close()
        for thread in self.grid.threads:
            thread.join(30.0)
            assert not thread.is_alive()


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[Opened] = []

    def make(task: Task, settings: SessionSettings | None = None) -> Opened:
        made.append(Opened(task, settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def removed(federation: Federation) -> tuple[torch.Tensor, Any]:
    settings = TrainingSettings(rounds=2, learning_rate=0.1)
    trained = federation.fit(initial_weights(TinyTask().model, 1), settings)
    with federation.measure() as meter:
        unlearned = CubicNewton().unlearn(trained, federation, FORGET)
    return unlearned.weights, meter.stopped()


def test_a_session_gives_what_messages_give_for_one_message_a_node(opened: Any) -> None:
    by_session = opened(TinyTask(), SessionSettings())
    by_messages = opened(TinyTask())
    (weights, spent), (expected, cost) = (
        removed(each.federation) for each in (by_session, by_messages)
    )
    torch.testing.assert_close(weights, expected, rtol=0.0, atol=1e-12)
    assert spent.rounds == cost.rounds > 3
    assert spent.example_gradients == cost.example_gradients
    assert abs(spent.bytes_up - cost.bytes_up) < 0.5 * cost.bytes_up
    carried = by_session.grid.sent
    assert carried.count(SESSION) == NODES and "query.ask" not in carried
    assert by_session.federation.transport.carrier == "session"


def test_training_frees_the_nodes_and_the_next_round_takes_them_again(opened: Any) -> None:
    each = opened(TinyTask(), SessionSettings())
    first, _ = removed(each.federation)
    second, _ = removed(each.federation)
    torch.testing.assert_close(first, second, rtol=0.0, atol=1e-12)
    assert each.grid.sent.count(SESSION) == 2 * NODES


def test_an_endpoint_out_of_reach_is_said_and_the_job_goes_on(
    opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Nodes are told a loopback address at which nobody listens.
    settings = SessionSettings(Endpoint(reach="127.0.0.9"), connect_s=0.5)
    each = opened(TinyTask(), settings)
    with caplog.at_level(logging.WARNING):
        weights, _ = removed(each.federation)
    expected, _ = removed(opened(TinyTask()).federation)
    assert torch.equal(weights, expected)
    assert "cannot be reached within 0.5 s" in caplog.text
    assert "rounds go as Flower messages" in caplog.text
    assert isinstance(each.federation.transport, SessionOrMessages)
    assert each.federation.transport.carrier.startswith("messages (node ")
    assert each.grid.sent.count(SESSION) == NODES  # nobody tries again in every round


def test_nodes_that_do_not_come_are_named(
    opened: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    attend = sessions.attend

    def slow(node: Any, invitation: Any, **options: Any) -> int:
        if invitation.node == 2:
            threading.Timer(0.8, gate.set).start()  # not before: training may take longer
            gate.wait(10.0)
        return attend(node, invitation, **options)

    monkeypatch.setattr(sessions, "attend", slow)
    each = opened(TinyTask(), SessionSettings(join_s=0.5, connect_s=0.5))
    removed(each.federation)
    assert "node 2 did not join within 0.5 s" in caplog.text


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("dropout", TaskError, "node .: .*use weight decay instead"),
        ("raises", NodeFailedError, "node 1: KeyError in the task's own code"),
    ],
)
def test_a_failure_in_a_session_is_that_of_the_node(
    opened: Any, how: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        removed(opened(BrokenTask(how), SessionSettings()).federation)
