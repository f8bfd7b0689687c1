"""Nodes in the same process, asked by a call: for tests and for use without Flower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.transport.base import node_failure
from fedunlearn.node.node import safe_message
from fedunlearn.questions.question import Answer, Node, Question


class InlineTransport:
    """Calls each node in turn. Counts the bytes that the tensors would take."""

    def __init__(self, nodes: Mapping[int, Node], meters: MeterStack | None = None) -> None:
        """Take the nodes by their numbers."""
        self.nodes = nodes
        self.meters = meters or MeterStack()

    def ask(
        self, question: Question, nodes: Sequence[int], /, *, deadline_s: float
    ) -> Iterator[Answer]:
        """See Transport."""
        del deadline_s  # a call returns or raises
        self.meters.count_round()
        for number in nodes:
            sent = question.point.nbytes + question.vectors.nbytes + question.carried.nbytes
            self.meters.count_bytes(down=sent)
            yield self._answer(question, number)  # not held while the next node is asked

    def _answer(self, question: Question, number: int) -> Answer:
        try:
            answer = self.nodes[number].answer(question)
        except Exception as error:
            raise node_failure(number, type(error).__name__, safe_message(error)) from error
        self.meters.count_bytes(up=sum(values.nbytes for values in answer.values.values()))
        return answer
