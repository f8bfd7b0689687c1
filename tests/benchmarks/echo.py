"""Nodes that compute nothing, so that what a round takes is what carrying it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from fedunlearn.federation.transport.base import Transport
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Products
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.products import Curvature


class Echo:
    """Answers products with the vectors that came."""

    def __init__(self, number: int) -> None:
        self.number = number

    def enrol(self) -> Enrolment:
        return Enrolment(self.number, 1)

    def answer(self, question: Question) -> Answer:
        return Answer(
            node=self.number,
            job=question.job,
            round=question.round,
            model_digest=question.model_digest,
            vectors_digest=question.vectors_digest,
            counts={Part.RETAIN: 1, Part.FORGET: 0},
            values={Part.RETAIN: question.vectors},
        )


def timed_round(transport: Transport, nodes: Sequence[int], size: int, number: int) -> float:
    """Return the seconds of a round of one product of so many floats, all answers taken."""
    point = torch.arange(size, dtype=torch.float32)
    started = time.perf_counter()
    question = Question(
        "benchmark",
        number,
        ForgetSet.of_nodes(),
        (Part.RETAIN,),
        point,
        Products(Curvature.GGN),
        point[None],
    )
    taken = 0
    for answer in transport.ask(question, nodes, deadline_s=300.0):
        assert answer.values[Part.RETAIN].shape == (1, size)
        taken += 1
        del answer
    assert taken == len(nodes)
    return time.perf_counter() - started
