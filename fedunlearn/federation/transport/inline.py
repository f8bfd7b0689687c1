"""A transport to nodes in the same process, for tests and for use without Flower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.federation.transport.payload import tensors_bytes, values_bytes
from fedunlearn.node.safe_message import safe_message
from fedunlearn.questions.question import Answer, Node, Question
from fedunlearn.questions.wire import encode_answer, encode_question


class InlineTransport:
    """A transport that calls each node in turn and counts the bytes that messages would take."""

    def __init__(self, nodes: Mapping[int, Node], meters: MeterStack | None = None) -> None:
        """Take the nodes by number."""
        self.nodes = nodes
        self.meters = meters or MeterStack()

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """See Transport."""
        del deadline_s  # a call returns or raises
        self.meters.count_round()
        sent = _question_bytes(question) if nodes else 0
        for number in nodes:
            self.meters.count_bytes(down=sent)
            yield self._answer(question, number)  # not held while the next node computes

    def _answer(self, question: Question, number: int) -> Answer:
        try:
            answer = self.nodes[number].answer(question)
        except Exception as error:
            raise node_failure(number, type(error).__name__, safe_message(error)) from error
        header = {"answer": encode_answer(answer)}
        values = {str(part): tensor for part, tensor in answer.values.items()}
        self.meters.count_bytes(up=values_bytes(header) + tensors_bytes(values))
        return answer


def _question_bytes(question: Question) -> int:
    header: dict[str, bytes | int] = {"question": encode_question(question), "number": 0}
    tensors = {"point": question.point}
    if len(question.vectors):
        tensors["vectors"] = question.vectors
    return values_bytes(header) + tensors_bytes(tensors) + tensors_bytes(question.carried)
