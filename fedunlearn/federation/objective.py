"""The objective over a whole federation: every value, gradient and product is a round.

With n_r retained and n_f forgotten examples and the regulariser (lambda/2)||w||^2:
    F_r(w) = (1/n_r) sum over retained of loss + (lambda/2)||w||^2, F_f likewise,
    G(w) = F_r(w) - <b, w> with b = (n/n_r) grad F(u) = grad F_r(u) + (n_f/n_r) grad F_f(u)
is the influence objective at u: the one for which u was stationary before the removal, so that
what training left unconverged stays out of it (docs: README, "How it works").
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import ForgetSetError, MissingAnswerError
from fedunlearn.federation.accounting import MeterStack, compute_of
from fedunlearn.federation.cohort import Cohort
from fedunlearn.federation.forget import ForgetSet, Part
from fedunlearn.federation.summary import Gradient, Losses, Products, Question
from fedunlearn.federation.transport.base import Transport
from fedunlearn.parameters import require_finite
from fedunlearn.progress import Progress
from fedunlearn.risk.products import Curvature
from fedunlearn.solvers.operator import LinearOperator


@dataclass(frozen=True)
class Gradients:
    """Mean gradients of both parts at one point, regulariser included.

    Attributes:
        retain: grad F_r, shape (d,).
        forget: grad F_f, shape (d,).
        retained: n_r.
        forgotten: n_f.
    """

    retain: Tensor
    forget: Tensor
    retained: int
    forgotten: int

    @property
    def departing(self) -> Tensor:
        """-(n_f/n_r) grad F_f, the gradient of the influence objective: shape (d,)."""
        return -(self.forgotten / self.retained) * self.forget

    @property
    def whole(self) -> Tensor:
        """The gradient of F over all examples: shape (d,)."""
        count = self.retained + self.forgotten
        return (self.retained * self.retain + self.forgotten * self.forget) / count


class FederatedObjective:
    """F_r and F_f of one removal, over a pinned cohort."""

    def __init__(
        self,
        transport: Transport,
        nodes: tuple[int, ...],
        forget: ForgetSet,
        *,
        weight_decay: float,
        meters: MeterStack,
        progress: Progress,
        deadline_s: float,
    ) -> None:
        """Open a job; nothing is asked yet.

        Args:
            transport: Carries the rounds.
            nodes: The cohort.
            forget: What leaves.
            weight_decay: lambda.
            meters: Told of the client compute.
            progress: Told of every round.
            deadline_s: For each round.
        """
        self.job = uuid.uuid4().hex
        self.cohort = Cohort(nodes)
        self.forget = forget
        self.weight_decay = weight_decay
        self._transport = transport
        self._meters = meters
        self._progress = progress
        self._deadline_s = deadline_s
        self.rounds = 0

    def gradients(self, weights: Tensor) -> Gradients:
        """Ask both parts for their gradients at weights (d,): one round.

        Returns:
            Mean gradients and the number of examples of each part.

        Raises:
            ForgetSetError: Nothing would be forgotten, or nothing would stay.
        """
        sums = self._ask(weights, Gradient(), tuple(Part), self.cohort.nodes)
        counts = {part: self.cohort.examples(part) for part in Part}
        if not counts[Part.FORGET]:
            raise ForgetSetError(f"forget: no node has any example of {self.forget}")
        if not counts[Part.RETAIN]:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        means = {
            part: (sums[part] / counts[part]).to(weights.dtype) + self.weight_decay * weights
            for part in Part
        }
        return Gradients(
            retain=means[Part.RETAIN],
            forget=means[Part.FORGET],
            retained=counts[Part.RETAIN],
            forgotten=counts[Part.FORGET],
        )

    def gradient(self, weights: Tensor) -> Tensor:
        """Ask what stays for grad F_r at weights (d,): one round."""
        sums = self._ask(weights, Gradient(), (Part.RETAIN,), self.cohort.holders(Part.RETAIN))
        mean = sums[Part.RETAIN] / self.cohort.examples(Part.RETAIN)
        return mean.to(weights.dtype) + self.weight_decay * weights

    def losses(self, weights: Tensor, steps: Tensor) -> Tensor:
        """Evaluate F_r at weights (d,) and at weights + each of steps (m, d): one round.

        Returns:
            Values (m + 1,), float64.
        """
        sums = self._ask(weights, Losses(), (Part.RETAIN,), self.cohort.holders(Part.RETAIN), steps)
        points = torch.cat([weights[None], weights + steps]).double()
        regulariser = 0.5 * self.weight_decay * points.square().sum(1)
        return sums[Part.RETAIN] / self.cohort.examples(Part.RETAIN) + regulariser

    def curvature(self, weights: Tensor, curvature: Curvature) -> FederatedCurvature:
        """Return the curvature of F_r at weights (d,) as an operator; asks nothing yet."""
        return FederatedCurvature(self, weights, curvature)

    def products(self, weights: Tensor, vectors: Tensor, curvature: Curvature) -> Tensor:
        """Multiply the curvature of F_r at weights (d,) with each of vectors (k, d): one round."""
        holders = self.cohort.holders(Part.RETAIN)
        sums = self._ask(weights, Products(curvature), (Part.RETAIN,), holders, vectors)
        mean = sums[Part.RETAIN] / self.cohort.examples(Part.RETAIN)
        return mean.to(weights.dtype) + self.weight_decay * vectors

    def _ask(
        self,
        point: Tensor,
        ask: Gradient | Products | Losses,
        parts: tuple[Part, ...],
        nodes: tuple[int, ...],
        vectors: Tensor | None = None,
    ) -> dict[Part, Tensor]:
        """Run one round and sum the answers as they come, in float64.

        Sums of float32 answers in float64 hardly depend on the order in which the answers come.

        Returns:
            The sum over all nodes for each part, float64.

        Raises:
            MissingAnswerError: A node did not answer in time.
        """
        require_finite(point, "the model's weights")
        question = Question(
            job=self.job,
            round=self.rounds,
            forget=self.forget,
            parts=parts,
            point=point,
            ask=ask,
            vectors=point.new_empty(0, len(point)) if vectors is None else vectors,
        )
        self.rounds += 1
        sums = {part: torch.zeros(question.answer_shape, dtype=torch.float64) for part in parts}
        missing = set(nodes)
        examples = 0
        for answer in self._transport.ask(question, nodes, deadline_s=self._deadline_s):
            self.cohort.admit(question, answer)
            missing.discard(answer.node)
            for part, values in answer.values.items():
                sums[part] += values
                examples += answer.counts[part]
        if missing:
            raise MissingAnswerError(
                f"round {question.round}: no answer within {self._deadline_s:g} s from node "
                + ", ".join(str(node) for node in sorted(missing))
            )
        self._meters.count_compute(compute_of(question) * examples)
        self._progress.advance()
        return sums


class FederatedCurvature(LinearOperator):
    """The curvature of F_r at one point; each call of matmat is one round."""

    def __init__(
        self, objective: FederatedObjective, weights: Tensor, curvature: Curvature
    ) -> None:
        """Bind the operator to a point.

        Args:
            objective: Answers the products.
            weights: The point (d,).
            curvature: Hessian or GGN.
        """
        self.objective = objective
        self.weights = weights
        self.kind = curvature
        self.dimension = len(weights)
        self.dtype = weights.dtype
        self.positive_semidefinite = curvature is Curvature.GGN

    @override
    def matmat(self, vectors: Tensor) -> Tensor:
        return self.objective.products(self.weights, vectors.T.contiguous(), self.kind).T
