"""Small federations that suites share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.errors import EmptyNodeError, FederationError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.base import Transport
from fedunlearn.federation.transport.inline import InlineTransport
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.messages import MessageTransport, enrol
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.question import Answer, Node, Question
from fedunlearn.risk.task import Examples, Loss, Task
from tests.inline_grid import InlineGrid


class TinyTask:
    """Three classes of points in the plane, spread unevenly over nodes."""

    loss: Loss = nn.CrossEntropyLoss()

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype

    def model(self) -> nn.Module:
        layers = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
        return layers.to(self.dtype)

    def data(self, node: int) -> Examples:
        generator = torch.Generator().manual_seed(node)
        targets = torch.randint(0, 3, (12 + 5 * node,), generator=generator)
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        inputs = centres[targets] + torch.randn(len(targets), 2, generator=generator)
        return inputs.to(self.dtype), targets

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


def by_messages(task: Task, nodes: int) -> Reach:
    meters = MeterStack()
    grid = MeteredGrid(InlineGrid(make_client_app(task), nodes), meters)
    addresses = {n: address for n, (address, _) in enrol(grid, nodes, deadline_s=30.0).items()}
    return Reach(MessageTransport(grid, addresses), meters, tuple(range(nodes)))


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


def by_session(task: Task, nodes: int) -> Reach:
    meters = MeterStack()
    server = SessionServer(range(nodes))
    threads = [join(server.invite(n), InTurn(TaskNode(task, n))) for n in range(nodes)]

    def close() -> None:
        server.close()
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()

    _OPEN.append(close)
    assert server.wait(30.0) == ()
    return Reach(SessionTransport(server, meters), meters, tuple(range(nodes)))


TRANSPORTS = {"inline": by_call, "messages": by_messages, "session": by_session}


def weights_of(task: TinyTask, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([p.detach().reshape(-1) for p in task.model().parameters()])
