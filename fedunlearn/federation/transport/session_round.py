"""One question to all nodes of a session, and the events that follow it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import SimpleQueue

import torch
from torch import Tensor

from fedunlearn.errors import BadAnswerError, FedunlearnError
from fedunlearn.federation.cohort import require_shape
from fedunlearn.questions.chunks import STATE, announce, as_payload, cut, wire_bytes
from fedunlearn.questions.forget import Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.wire import question_message, read_answer
from fedunlearn.rpc.v1 import session_pb2 as pb

# Number of answers that the server holds at once: one is summed while others arrive.
AT_ONCE = 4


@dataclass(frozen=True)
class Arrived:
    """A complete answer; its receiver calls ``Round.done_with_one`` when it is summed.

    Attributes:
        answer: The answer, which the cohort has not checked yet.
        nbytes: Its bytes on the stream.
    """

    answer: Answer
    nbytes: int


@dataclass(frozen=True)
class Faulted:
    """An event: a node reported a failure, or its answer cannot be used."""

    node: int
    error: FedunlearnError


@dataclass(frozen=True)
class Lost:
    """An event: a node's stream ended before its answer."""

    node: int
    reason: str


@dataclass(frozen=True)
class Joined:
    """An event: a node opened a stream while the round runs."""

    node: int


Event = Arrived | Faulted | Lost | Joined


class Round:
    """A question in the form in which it is sent, and the queue of events from nodes.

    Question and answers exist once each, for any number of nodes: frames are cut from the
    question's tensors as each stream takes them, and only ``AT_ONCE`` answers are admitted.
    """

    def __init__(
        self,
        number: int,
        question: Question,
        *,
        streams: int,
        payload: torch.dtype | None,
        deadline_s: float,
    ) -> None:
        """Prepare a question for sending.

        Args:
            number: Number of the question in the session.
            question: The question of the job.
            streams: Number of nodes that must answer.
            payload: bfloat16 to halve the bytes of float32; None for the tensors' own dtype.
            deadline_s: Seconds after which absent answers count as missing.
        """
        self.number = number
        self.question = question
        self.ends = time.monotonic() + deadline_s
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._streams = streams
        named = {"point": question.point}
        if len(question.vectors):
            named["vectors"] = question.vectors
        self._sent = {name: as_payload(tensor, payload) for name, tensor in named.items()}
        self._state = {f"{STATE}{name}": tensor for name, tensor in question.carried.items()}
        if payload is not None:
            rounded = {name: self._sent[name].to(named[name].dtype) for name in named}
            question = replace(
                question,
                point=rounded["point"],
                vectors=rounded.get("vectors", question.vectors),
            )
        # The digests of what a node receives, which may be rounded, differ from those of the job.
        self._echoes = (question.model_digest, question.vectors_digest)
        header = pb.QuestionHeader(
            number=number,
            question=question_message(question),
            tensors=[announce(n, t, self._sent[n].dtype) for n, t in named.items()],
            deadline_s=deadline_s,
        )
        self._head = pb.AttendResponse(question=header).SerializeToString()
        header.tensors.extend(announce(n, t, t.dtype) for n, t in self._state.items())
        self._head_with_state = pb.AttendResponse(question=header).SerializeToString()
        self._slots = threading.Semaphore(AT_ONCE)
        self._closed = threading.Event()

    def nbytes(self, *, state: bool) -> int:
        """Return the bytes sent to one node, without chunk headers, with or without the state."""
        head = self._head_with_state if state else self._head
        return len(head) + sum(tensor.nbytes for tensor in self._tensors(state))

    def frames(self, *, state: bool) -> Iterator[bytes]:
        """Return the frames for one node, each of which is made when it is taken.

        Args:
            state: Whether the model's state is sent; otherwise the node has it from an earlier
                question.

        Yields:
            The header, then chunks.
        """
        yield self._head_with_state if state else self._head
        for tensor in self._tensors(state):
            yield from cut(tensor, self._streams)

    def _tensors(self, state: bool) -> list[Tensor]:
        return [*self._sent.values(), *(self._state.values() if state else ())]

    def check(self, node: int, header: pb.AnswerHeader) -> int:
        """Check the header of an answer before memory is allocated for it.

        Returns:
            The bytes of its tensors.

        Raises:
            BadAnswerError: There are unknown or duplicate parts, unknown dtypes, or wrong shapes.
        """
        who = f"node {node}"
        names = [tensor.name for tensor in header.tensors]
        if len(set(names)) < len(names) or not set(names) <= set(Part):
            raise BadAnswerError(f"{who} answered for parts that do not exist", nodes=(node,))
        labels = read_answer(node, header.answer, {}).labels
        for tensor in header.tensors:
            part = Part(tensor.name)
            require_shape(self.question, node, part, tuple(tensor.shape), len(labels.get(part, ())))
        try:
            return sum(wire_bytes(tensor) for tensor in header.tensors)
        except ValueError as error:
            raise BadAnswerError(f"{who} answered with a {error}", nodes=(node,)) from None

    def admit_one(self) -> bool:
        """Wait until there is room for an answer; return false where the round is over."""
        self._slots.acquire()
        if self._closed.is_set():
            self._slots.release()
            return False
        return True

    def done_with_one(self) -> None:
        """Make room for another answer."""
        self._slots.release()

    def put(self, node: int, header: pb.AnswerHeader, values: dict[str, Tensor], size: int) -> None:
        """Put a complete answer into the queue."""
        answer = read_answer(node, header.answer, {Part(n): t for n, t in values.items()})
        if (answer.model_digest, answer.vectors_digest) == self._echoes:
            answer = replace(
                answer,
                model_digest=self.question.model_digest,
                vectors_digest=self.question.vectors_digest,
            )
        self.events.put(Arrived(answer, size))

    def close(self) -> None:
        """End the round, so that no thread waits for room in it."""
        self._closed.set()
        self._slots.release()  # each thread that wakes releases the next one
