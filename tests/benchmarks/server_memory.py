"""The server's memory while it takes one cubic step for a model of 11 million parameters.

Run as a program it is that server, with nodes in the same process that hold nothing: their
curvature is diagonal, so that what they answer is made as it is asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from torch import Tensor

from tests.benchmarks.peak import peak_mib

DIMENSION = 11_173_962
PRODUCTS = 10
NODES = 3
LEAVES = 2
EXAMPLES = 100
PART_SIZE = 2**16  # of what a node computes at once: its memory is not the server's


def server_memory() -> dict[str, object]:
    """Return the peak of a fresh process, and the bound: (k + 4) d floats and 500 MB."""
    measured = {
        basis: json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.server_memory", basis],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for basis in ("stored", "two-pass")
    }
    bound = (PRODUCTS + 4) * 4 * DIMENSION + 500e6
    return {"server_memory": {"step_peak_mib": measured, "bound_mib": round(bound / 2**20)}}


def main() -> None:
    """Take the step and print the peak of this process in MiB."""
    from fedunlearn.federation.accounting import MeterStack
    from fedunlearn.federation.federation import Federation
    from fedunlearn.federation.trained_model import TrainedModel
    from fedunlearn.federation.transport.inline import InlineTransport
    from fedunlearn.questions.forget import ForgetSet, Part
    from fedunlearn.questions.kinds import Gradient, Products
    from fedunlearn.questions.question import Answer, Question
    from fedunlearn.settings import TrainingSettings
    from fedunlearn.unlearning.cubic_newton import CubicNewton, CubicNewtonSettings

    class Diagonal:
        """A node whose loss is (1/2) sum_i c_i w_i^2 for each example, c_i from 0.1 to 1."""

        def __init__(self, number: int) -> None:
            self.number = number

        def answer(self, question: Question) -> Answer:
            """Answer for the part that the node belongs to."""
            part = Part.FORGET if self.number in question.forget.nodes else Part.RETAIN
            other = Part.RETAIN if part is Part.FORGET else Part.FORGET
            values = {part: self._values(question)} if part in question.parts else {}
            return Answer(
                node=self.number,
                job=question.job,
                round=question.round,
                model_digest=question.model_digest,
                vectors_digest=question.vectors_digest,
                counts={part: EXAMPLES, other: 0},
                values=values,
            )

        def _values(self, question: Question) -> Tensor:
            if isinstance(question.ask, Gradient):
                return self._scaled(question.point)
            if isinstance(question.ask, Products):
                return self._scaled(question.vectors[0])[None]
            pieces = zip(
                *(v.split(PART_SIZE) for v in (question.point, *question.vectors)), strict=True
            )
            total = torch.zeros(len(question.vectors) + 1, dtype=torch.float64)
            for number, (point, *steps) in enumerate(pieces):
                points = torch.stack([point, *(point + step for step in steps)]).double()
                total += 0.5 * points.square() @ self._diagonal(number, len(point)).double()
            return total

        def _scaled(self, vector: Tensor) -> Tensor:
            scaled = vector.clone()
            for number, piece in enumerate(scaled.split(PART_SIZE)):
                piece.mul_(self._diagonal(number, len(piece)))
            return scaled

        def _diagonal(self, number: int, length: int) -> Tensor:
            where = torch.arange(length) + number * PART_SIZE + 7 * self.number
            return EXAMPLES * (0.1 + (where % 97) / 107.0)

    torch.set_num_threads(1)
    meters = MeterStack()
    transport = InlineTransport({n: Diagonal(n) for n in range(NODES)}, meters)
    federation = Federation(
        examples=dict.fromkeys(range(NODES), EXAMPLES),
        transport=transport,
        trainer=None,  # type: ignore[arg-type]  # nothing is trained here
        meters=meters,
    )
    generator = torch.Generator().manual_seed(0)
    trained = TrainedModel(
        weights=torch.randn(DIMENSION, generator=generator),
        initial=torch.randn(DIMENSION, generator=generator),
        settings=TrainingSettings(),
    )
    settings = CubicNewtonSettings.model_validate({"products": PRODUCTS, "basis": sys.argv[1]})
    CubicNewton(settings).unlearn(trained, federation, ForgetSet.of_nodes(LEAVES))
    print(round(peak_mib()))


if __name__ == "__main__":
    main()
