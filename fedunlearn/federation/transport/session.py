"""Rounds over one gRPC stream per node, for nodes in other processes and on other machines.

The cost of a round is that of its bytes: no polling, no process start, no second copy.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty

import torch

from fedunlearn.errors import NodeLostError, StoppedError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.session_round import Arrived, Faulted, Joined, Lost, Round
from fedunlearn.federation.transport.session_server import SessionServer
from fedunlearn.questions.question import Answer, Question

# Interval at which a wait checks whether the run was asked to stop.
LOOK_S = 0.2


class SessionTransport:
    """A transport to the nodes that have joined a session."""

    def __init__(
        self,
        server: SessionServer,
        meters: MeterStack,
        *,
        payload: torch.dtype | None = None,
        again: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Take a session's server.

        Args:
            server: The server of the session, which nodes have joined or are about to join.
            meters: Meters that count rounds and bytes.
            payload: bfloat16 to halve the bytes of questions; None for the tensors' own dtype.
            again: Invites a node whose stream ended to open another, for which the round waits
                within its deadline. With None, the round fails.
            stop: Event that ends every wait.
        """
        self.server = server
        self.meters = meters
        self._payload = payload
        self._again = again
        self._stop = stop or threading.Event()
        self._numbers = itertools.count(1)

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """See Transport; raises NodeLostError where a lost node is not invited again."""
        self.meters.count_round()
        current = Round(
            next(self._numbers),
            question,
            streams=len(nodes),
            payload=self._payload,
            deadline_s=deadline_s,
        )
        self.server.on_join = lambda node: current.events.put(Joined(node))
        waiting, lost = set(nodes), set[int]()
        try:
            for node in nodes:
                self._send(current, node)
            while waiting and (left := current.ends - time.monotonic()) > 0:
                if self._stop.is_set():
                    raise StoppedError("stopped while waiting for nodes")
                try:
                    event = current.events.get(timeout=min(left, LOOK_S))
                except Empty:
                    continue
                match event:
                    case Arrived(answer, nbytes):
                        self.meters.count_bytes(up=nbytes)
                        waiting.discard(answer.node)
                        yield answer
                        del answer, event  # frees them before there is room for the next answer
                        current.done_with_one()
                    case Faulted(error=error):
                        raise error
                    case Lost(node, reason) if node in waiting:
                        lost.add(node)
                        self._lost(question, node, reason)
                    case Joined(node) if node in waiting & lost:
                        lost.discard(node)
                        self._send(current, node)
        finally:
            self.server.on_join = lambda node: None
            current.close()

    def _send(self, current: Round, node: int) -> None:
        self.meters.count_bytes(down=self.server.link(node).ask(current))

    def _lost(self, question: Question, node: int, reason: str) -> None:
        if self._again is None:
            raise NodeLostError(
                f"round {question.round}: node {node} was lost: {reason}", nodes=(node,)
            )
        self._again(node)
