"""A node over a user's Task: it answers with sums over its own examples."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from fedunlearn.errors import EmptyNodeError, FedunlearnError, TaskError
from fedunlearn.federation.forget import ForgetSet, Part
from fedunlearn.federation.summary import Answer, Gradient, Products, Question, Sample
from fedunlearn.parameters import require_finite
from fedunlearn.risk.local_training import LocalPlan, train_locally
from fedunlearn.risk.objective import EmpiricalRisk, RiskCurvature
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples, Task

MEMORY = 256 * 2**20

_CurvatureKey = tuple[bytes, ForgetSet, Part, Curvature, Sample | None]


class TaskNode:
    """One participant's share of a Task."""

    def __init__(self, task: Task, number: int, *, memory: int = MEMORY) -> None:
        """Take the node's share.

        Args:
            task: The Task.
            number: The node's number, handed to ``task.data``.
            memory: Bytes that the node may hold between the products of one basis.
        """
        self.task = task
        self.number = number
        self.memory = memory
        self._curvature: tuple[_CurvatureKey, RiskCurvature] | None = None

    @cached_property
    def examples(self) -> Examples:
        """The node's inputs and targets.

        Raises:
            EmptyNodeError: There are none.
        """
        inputs, targets = self.task.data(self.number)
        if len(inputs) == 0:
            raise EmptyNodeError("data: no examples; a node needs at least one")
        return inputs, targets

    @cached_property
    def model(self) -> nn.Module:
        """A workspace whose weights do not matter."""
        return self.task.model()

    def answer(self, question: Question) -> Answer:
        """Answer with sums over the parts that were asked for."""
        indices = {part: self._indices(question.forget, part) for part in Part}
        values = {
            part: self._estimate(question, part, indices[part])
            for part in question.parts
            if len(indices[part])
        }
        return Answer(
            node=self.number,
            job=question.job,
            round=question.round,
            model_digest=question.model_digest,
            vectors_digest=question.vectors_digest,
            counts={part: len(chosen) for part, chosen in indices.items()},
            values=values,
        )

    def train(
        self, weights: Tensor, plan: LocalPlan, without: ForgetSet | None
    ) -> tuple[Tensor, int]:
        """Train on what the node holds, less a forget set.

        Returns:
            The new weights (d,) and the number of examples they were trained on; with none, the
            weights that came in.
        """
        self._curvature = None  # its memory is better spent on training
        examples = self.examples
        if without is not None:
            examples = self._take(self._indices(without, Part.RETAIN))
        if len(examples[0]) == 0:
            return weights, 0
        trained = train_locally(self.model, self.task.loss, examples, weights, plan)
        require_finite(trained, f"training on node {self.number}")
        return trained, len(examples[0])

    def _indices(self, forget: ForgetSet, part: Part) -> Tensor:
        return forget.select(part, self.number, self.examples[1])

    def _take(self, indices: Tensor) -> Examples:
        inputs, targets = self.examples
        if len(indices) == len(targets):
            return inputs, targets
        return inputs[indices], targets[indices]

    def _estimate(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        """Sum over a part's examples, or scale up the sum over a sample of them."""
        if question.sample is None:
            return self._values(question, part, indices)
        drawn = question.sample.draw(indices, self.number, part)
        return self._values(question, part, drawn) * (len(indices) / len(drawn))

    def _values(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        if isinstance(question.ask, Products):
            return self._curvature_of(question, question.ask, part, indices).products(
                question.vectors
            )
        risk = self._risk(question, indices)
        if isinstance(question.ask, Gradient):
            return risk.gradient(question.point)
        points = [question.point, *(question.point + step for step in question.vectors)]
        return torch.tensor([risk.value(w) for w in points], dtype=torch.float64)

    def _curvature_of(
        self, question: Question, ask: Products, part: Part, indices: Tensor
    ) -> RiskCurvature:
        """Return the curvature that a basis is built from, kept from one product to the next."""
        key = (question.model_digest, question.forget, part, ask.curvature, question.sample)
        if self._curvature is None or self._curvature[0] != key:
            self._curvature = None  # frees the old before the new takes its place
            risk = self._risk(question, indices)
            kept = risk.curvature(question.point, ask.curvature, budget=self.memory)
            self._curvature = (key, kept)
        return self._curvature[1]

    def _risk(self, question: Question, indices: Tensor) -> EmpiricalRisk:
        risk = EmpiricalRisk(self.model, self.task.loss, self._take(indices))
        if question.point.shape != (risk.layout.dimension,):
            raise TaskError(
                f"model: has {risk.layout.dimension} trainable parameters, the question's point "
                f"{question.point.numel()}; server and nodes need the same Task"
            )
        return risk


def safe_message(error: Exception) -> str:
    """Return what of an error may leave a node: our own messages whole, of others the type only."""
    if isinstance(error, FedunlearnError):
        return str(error)
    return f"{type(error).__name__} in the task's own code; see the node's log"
