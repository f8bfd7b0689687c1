"""Sessions that one Flower message per node opens, with Flower's messages as the fallback.

Flower runs the messages to a node one after another, so that a node in a session answers no other
message. The session therefore opens with the first round and closes before training continues.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedunlearn.errors import FederationError, StoppedError, UnreachableError
from fedunlearn.federation.transport.session import SessionTransport
from fedunlearn.federation.transport.session_server import Endpoint, SessionServer
from fedunlearn.flower.messages import MessageTransport, raise_failure
from fedunlearn.flower.metered_grid import POLL_S, MeteredGrid
from fedunlearn.flower.records import config_number
from fedunlearn.node.node import TaskNode
from fedunlearn.node.session_client import attend
from fedunlearn.questions.invitation import Invitation
from fedunlearn.questions.question import Answer, Question

SESSION = "query.session"
JOB_S = 12 * 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionSettings:
    """Settings for the opening of sessions.

    Attributes:
        endpoint: Endpoint to which nodes connect.
        join_s: Seconds until every node must have joined, since Flower starts a process on each.
        connect_s: Part of these seconds in which a node must reach the endpoint once it tries.
        payload: bfloat16 to halve the bytes of questions; None for the tensors' own dtype.
        on_loss: ``wait`` to let a node whose session ended open another within the round's
            deadline, or ``abort``.
    """

    endpoint: Endpoint = field(default_factory=Endpoint)
    join_s: float = 180.0
    connect_s: float = 20.0
    payload: torch.dtype | None = None
    on_loss: Literal["wait", "abort"] = "wait"


class SessionOrMessages:
    """A Transport over sessions that open when they are needed, or over Flower's messages.

    Attributes:
        joining_s: Seconds that the opening of sessions took, including Flower's start of the nodes.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        addresses: Mapping[int, int],
        settings: SessionSettings,
        stop: threading.Event | None = None,
    ) -> None:
        """Take the enrolled nodes without opening a session.

        Args:
            grid: Grid that carries the invitations.
            addresses: Flower node id of each node.
            settings: Settings of the sessions.
            stop: Event that ends every wait.
        """
        self._grid = grid
        self._addresses = addresses
        self._settings = settings
        self._stop = stop or threading.Event()
        self._messages = MessageTransport(grid, addresses)
        self._session: SessionTransport | None = None
        self._open: dict[str, int] = {}  # node of each invitation that has no reply yet
        self._unreachable: str | None = None
        self.joining_s = 0.0

    @property
    def carrier(self) -> str:
        """The means by which the rounds so far were carried, for results."""
        if self._unreachable is None:
            return "session"
        return f"messages ({self._unreachable})"

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """See Transport."""
        if self._session is None and self._unreachable is None:
            started = time.perf_counter()
            self._session = self._join()
            self.joining_s += time.perf_counter() - started
        carrier = self._session or self._messages
        yield from carrier.ask(question, nodes, deadline_s=deadline_s)

    def close(self) -> None:
        """End the session, so that nodes answer other messages; the next round opens another."""
        if self._session is not None:
            self._end(self._session.server)
            self._session = None

    def _join(self) -> SessionTransport | None:
        """Invite all nodes and wait for them.

        Returns:
            The session; None where a node cannot reach the endpoint.

        Raises:
            FederationError: A node fails, or does not join in time.
        """
        server = SessionServer(self._addresses, self._settings.endpoint)

        def invite(node: int) -> None:
            invitation = server.invite(node)
            content = RecordDict({"session": _record(invitation, self._settings.connect_s)})
            message = Message(content, self._addresses[node], SESSION, ttl=JOB_S)
            (number,) = self._grid.push_messages([message])
            self._open[number] = node

        try:
            for node in self._addresses:
                invite(node)
            self._wait(server)
        except UnreachableError as error:
            self._unreachable = " ".join(str(error).split())
            log.warning("no session: %s; rounds go as Flower messages", self._unreachable)
            self._end(server)
            return None
        except BaseException:
            server.close()
            raise
        again = invite if self._settings.on_loss == "wait" else None
        return SessionTransport(
            server,
            self._grid.meters,
            payload=self._settings.payload,
            again=again,
            stop=self._stop,
        )

    def _wait(self, server: SessionServer) -> None:
        end = time.monotonic() + self._settings.join_s
        while missing := server.wait(POLL_S):
            if self._stop.is_set():
                raise StoppedError("stopped while waiting for nodes to join the session")
            for node, reply in self._replies():
                if not reply.has_error() and "failure" in reply.content:
                    failure = reply.content.config_records["failure"]
                    if failure["kind"] == UnreachableError.__name__:
                        raise UnreachableError(str(failure["message"]), nodes=(node,))
                raise_failure(f"node {node}", reply)
            if time.monotonic() > end:
                raise UnreachableError(
                    f"node {', '.join(map(str, missing))} did not join within "
                    f"{self._settings.join_s:g} s",
                    nodes=missing,
                )

    def _end(self, server: SessionServer) -> None:
        """Close a session and wait until its nodes are free for other messages."""
        server.close()
        end = time.monotonic() + self._settings.join_s
        while self._open and time.monotonic() < end and not self._stop.is_set():
            for _ in self._replies():
                pass  # its rounds have already reported any failure of the session
            time.sleep(POLL_S)
        if self._open:
            left = ", ".join(str(node) for node in sorted(self._open.values()))
            log.warning("session: node %s has not left it; messages to it wait", left)
            self._open.clear()

    def _replies(self) -> list[tuple[int, Message]]:
        """Take all replies that have arrived, since the grid returns each only once."""
        replies = list(self._grid.pull_messages(list(self._open)))
        return [(self._open.pop(r.metadata.reply_to_message_id), r) for r in replies]


def _record(invitation: Invitation, connect_s: float) -> ConfigRecord:
    return ConfigRecord(
        {
            "node": invitation.node,
            "address": invitation.address,
            "token": invitation.token,
            "certificate": invitation.certificate,
            "connect-s": connect_s,
        }
    )


def reply_to_session(
    message: Message, node: TaskNode, payload: torch.dtype | None = None
) -> Message:
    """Answer ``query.session`` on a node: join, answer questions, and reply when it is over.

    Data and model are loaded before the node joins, so that no round waits for them.

    Args:
        message: The invitation.
        node: The node that answers the questions.
        payload: Type of the tensors in the node's answers.

    Returns:
        The reply, with the number of questions that were answered.

    Raises:
        FederationError: The invitation is for another node.
    """
    invited = message.content.config_records["session"]
    number, certificate = int(config_number(invited, "node")), invited["certificate"]
    if number != node.number or not isinstance(certificate, bytes):
        raise FederationError(f"session: this is node {node.number}, invited was node {number}")
    invitation = Invitation(number, str(invited["address"]), str(invited["token"]), certificate)
    _ = node.examples, node.model
    answered = attend(
        node, invitation, connect_s=config_number(invited, "connect-s"), payload=payload
    )
    return Message(RecordDict({"session": ConfigRecord({"questions": answered})}), reply_to=message)
