"""One node's stream, on the side of the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from queue import SimpleQueue

from google.protobuf.message import DecodeError

from fedunlearn.errors import BadAnswerError, FedunlearnError
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.federation.transport.session_round import Faulted, Lost, Round
from fedunlearn.questions.chunks import Assembly, chunk_of, wire_bytes
from fedunlearn.rpc.v1 import session_pb2 as pb

log = logging.getLogger(__name__)


class Link:
    """The stream to one node, which sends questions and takes answers without a buffer.

    It uses two threads of gRPC. The sending thread requests the next frame only when gRPC has taken
    the one before, and the reading thread reads an answer only when the round has room for it, so
    that the faster side waits.
    """

    def __init__(self, node: int) -> None:
        """Take the number of the node."""
        self.node = node
        self._lock = threading.Lock()
        self._outbox: SimpleQueue[tuple[Round, bool] | None] = SimpleQueue()
        self._state = b""  # digest of the model's state that the node has
        self._current: Round | None = None
        self._answered = False  # whether its header has arrived
        self._settled = True  # whether the round has its outcome
        self._gone: str | None = None
        self._fault: FedunlearnError | None = None

    def ask(self, current: Round) -> int:
        """Send a question, whose outcome is put into the round's queue.

        Returns:
            The number of bytes sent to the node, without headers of chunks.
        """
        with self._lock:
            state = current.question.carried.digest
            anew = bool(state) and state != self._state
            if self._fault is not None:
                current.events.put(Faulted(self.node, self._fault))
            elif self._gone is not None:
                current.events.put(Lost(self.node, self._gone))
            else:
                self._current, self._answered, self._settled = current, False, False
                self._outbox.put((current, anew))
                self._state = state or self._state
            return current.nbytes(state=anew)

    @property
    def fault(self) -> FedunlearnError | None:
        """The violation of the protocol for which the stream was ended, if any."""
        return self._fault

    @property
    def alive(self) -> bool:
        """Whether the stream is open."""
        return self._gone is None

    def close(self) -> None:
        """End the stream, because the node's part in the job is complete."""
        self._outbox.put(None)

    def frames(self) -> Iterator[bytes]:
        """Yield the frames to be sent, as they become available, until the link is closed."""
        while (sent := self._outbox.get()) is not None:
            current, state = sent
            yield from current.frames(state=state)
            del sent, current  # this thread must not hold their tensors

    def read(self, requests: Iterator[bytes]) -> None:
        """Take the messages of the node until its stream ends."""
        reason = "its stream ended"
        try:
            for frame in requests:
                self._take(frame, requests)
        except FedunlearnError as error:
            reason = str(error)
            self._fault = error
            self._report(error)
        except Exception as error:  # gRPC: cancelled, or the connection broke
            reason = "its connection broke"
            log.info("node %d: %s", self.node, type(error).__name__)
        with self._lock:
            self._gone = reason
            if self._current is not None and not self._settled:
                self._current.events.put(Lost(self.node, reason))
            self._current = None
        self._outbox.put(None)

    def _take(self, frame: bytes, requests: Iterator[bytes]) -> None:
        message = self._parse(frame)
        match message.WhichOneof("frame"):
            case "answer":
                self._take_answer(message.answer, requests)
            case "failure":
                failure = message.failure
                if self._answer(failure.number) is not None:
                    self._report(node_failure(self.node, failure.kind, failure.message))
            case _:
                raise self._bad("sent bytes that belong to no message")

    def _parse(self, frame: bytes) -> pb.AttendRequest:
        try:
            if chunk_of(frame) is None:
                return pb.AttendRequest.FromString(frame)
        except (DecodeError, ValueError):
            raise self._bad("sent a frame that does not parse") from None
        raise self._bad("sent bytes that belong to no message")

    def _take_answer(self, header: pb.AnswerHeader, requests: Iterator[bytes]) -> None:
        current = self._answer(header.number)
        if current is None:
            log.warning("node %d: an answer arrived late and is not used", self.node)
            self._pass_over(header, requests)
            return
        size = current.check(self.node, header)
        if not current.admit_one():
            self._pass_over(header, requests)
            return
        try:
            assembly = Assembly(list(header.tensors))
            while not assembly.complete:
                assembly.take(self._chunk(requests))
            current.put(self.node, header, dict(assembly.tensors()), size + header.ByteSize())
            self._settled = True
        except ValueError:
            current.done_with_one()
            raise self._bad("sent more bytes than it announced") from None
        except BaseException:
            current.done_with_one()
            raise

    def _answer(self, number: int) -> Round | None:
        """Mark the open question as answered.

        Returns:
            The round of the question; None where another is open by now.

        Raises:
            BadAnswerError: The question was answered before, or was never sent.
        """
        with self._lock:
            if self._current is None or number > self._current.number:
                raise self._bad("answered a question that was not sent")
            if number < self._current.number:
                return None
            if self._answered:
                raise self._bad(f"answered round {self._current.question.round} twice")
            self._answered = True
            return self._current

    def _pass_over(self, header: pb.AnswerHeader, requests: Iterator[bytes]) -> None:
        try:
            left = sum(wire_bytes(tensor) for tensor in header.tensors)
        except ValueError as error:
            raise self._bad(f"announced a {error}") from None
        while left > 0:
            left -= len(self._chunk(requests))

    def _chunk(self, requests: Iterator[bytes]) -> memoryview:
        frame = next(requests, None)
        if frame is None:
            raise EOFError("the stream ended within an answer")
        try:
            chunk = chunk_of(frame)
        except ValueError:
            chunk = None
        if not chunk:
            raise self._bad("broke off within an answer")
        return chunk

    def _report(self, error: FedunlearnError) -> None:
        with self._lock:
            if self._current is not None:
                self._current.events.put(Faulted(self.node, error))
                self._settled = True

    def _bad(self, what: str) -> BadAnswerError:
        return BadAnswerError(f"node {self.node} {what}", nodes=(self.node,))
