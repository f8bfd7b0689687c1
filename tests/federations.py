"""Small federations that suites share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.errors import EmptyNodeError, FederationError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.base import Transport
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.flower.client_app import app_of
from fedunlearn.flower.messages import MessageTransport, enrol
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.question import Answer, Node, Question
from fedunlearn.risk.task import Examples, Task
from fedunlearn.testing import Points
from tests.inline_grid import InlineGrid


class TinyTask(Points):
    """Points that can be tested on."""

    def test_data(self) -> Examples:
        return self.data(50)


class BrokenTask(TinyTask):
    """A task that fails on node 1, in the way it is told to."""

    SECRET = "patient 4711"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def data(self, node: int) -> Examples:
        inputs, targets = super().data(node)
        if node != 1:
            return inputs, targets
        if self.how == "raises":
            raise KeyError(self.SECRET)
        if self.how == "empty":
            return inputs[:0], targets[:0]
        if self.how == "nan":
            return inputs * float("nan"), targets
        if self.how == "unsaid":
            raise EmptyNodeError("data: no examples; a node needs at least one")
        return inputs, targets

    def model(self) -> nn.Module:
        if self.how == "dropout":
            return nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
        if self.how == "batchnorm":
            return nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
        return super().model()


@dataclass
class Reach:
    """A transport to nodes, and what it counts."""

    transport: Transport
    meters: MeterStack
    nodes: tuple[int, ...]


def by_call(task: Task, nodes: int) -> Reach:
    meters = MeterStack()
    made: Mapping[int, Node] = {number: TaskNode(task, number) for number in range(nodes)}
    return Reach(InlineTransport(made, meters), meters, tuple(range(nodes)))


def over_messages(nodes: Mapping[int, TaskNode], meters: MeterStack) -> MessageTransport:
    """Reach nodes by Flower messages on a grid in this process."""
    app = app_of(lambda context, settings: nodes[settings.number])
    grid = MeteredGrid(InlineGrid(app, len(nodes)), meters)
    enrolled = enrol(grid, len(nodes), deadline_s=30.0)
    return MessageTransport(grid, {number: address for number, (address, _) in enrolled.items()})


def by_messages(task: Task, nodes: int) -> Reach:
    meters = MeterStack()
    made = {number: TaskNode(task, number) for number in range(nodes)}
    return Reach(over_messages(made, meters), meters, tuple(range(nodes)))


_OPEN: list[Callable[[], None]] = []


def close_federations() -> None:
    """End the sessions that are open, and what waits in them."""
    while _OPEN:
        _OPEN.pop()()


class InTurn:
    """Nodes that share a process, as worker processes do not: torch's generator is one for all."""

    lock = threading.Lock()

    def __init__(self, node: Node) -> None:
        self.node = node

    def answer(self, question: Question) -> Answer:
        with self.lock:
            return self.node.answer(question)


def join(invitation: Invitation, node: Node) -> threading.Thread:
    """Let a thread be a node of a session, to the end."""

    def serve() -> None:
        with suppress(FederationError):  # the test looks at the server's side
            attend(node, invitation, connect_s=30.0)

    thread = threading.Thread(target=serve, name=f"node-{invitation.node}")
    thread.start()
    return thread


@contextmanager
def over_session(nodes: Mapping[int, Node], meters: MeterStack) -> Iterator[SessionTransport]:
    """Reach nodes over a session; each is a thread until the context ends."""
    server = SessionServer(nodes)
    threads = [join(server.invite(number), node) for number, node in nodes.items()]
    try:
        assert server.wait(30.0) == ()
        yield SessionTransport(server, meters)
    finally:
        server.close()
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()


def by_session(task: Task, nodes: int) -> Reach:
    meters = MeterStack()
    opened = ExitStack()
    made = {number: InTurn(TaskNode(task, number)) for number in range(nodes)}
    _OPEN.append(opened.close)
    transport = opened.enter_context(over_session(made, meters))
    return Reach(transport, meters, tuple(range(nodes)))


TRANSPORTS = {"inline": by_call, "messages": by_messages, "session": by_session}


def weights_of(task: TinyTask, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([p.detach().reshape(-1) for p in task.model().parameters()])
