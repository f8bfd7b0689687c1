"""The objective over a whole federation, where every value, gradient and product is a round.

With the masses q_r and q_f of the retain set and the forget set, which are their numbers of
examples where every example counts once (questions/step_weights.py), and the regulariser
(lambda/2)||w||^2:
    F_r(w) = (1/q_r) weighted sum over retained of loss + (lambda/2)||w||^2, F_f in the same way,
    G(w) = F_r(w) - <b, w> with b = (q/q_r) grad F(u) = grad F_r(u) + (q_f/q_r) grad F_f(u)
is the influence objective at u: the one for which u was stationary before the removal, so that what
training left unconverged does not enter it (docs: Concepts, "The step").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import BadAnswerError, ForgetSetError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.evaluation import Evaluated, Evaluation
from fedunlearn.federation.journal import JobJournal
from fedunlearn.federation.rounds import FederatedRounds
from fedunlearn.federation.transport.base import Transport
from fedunlearn.model_state import ModelState
from fedunlearn.networks import running_statistics
from fedunlearn.progress import Progress
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    Evaluations,
    Gradient,
    GroupGradients,
    Losses,
    Products,
    Signs,
    Statistics,
    Summaries,
)
from fedunlearn.questions.question import Answer, Sample
from fedunlearn.questions.subspace_summary import Summary, unpack
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.statistics import with_statistics
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.vectors import dot


@dataclass(frozen=True)
class Gradients:
    """Mean gradients of both parts at one point, including the regulariser.

    Attributes:
        retain: Gradient grad F_r, shape (d,).
        forget: Gradient grad F_f, shape (d,).
        retained: Number n_r of retained examples.
        forgotten: Number n_f of forgotten examples.
        retained_mass: The mass q_r.
        forgotten_mass: The mass q_f.
    """

    retain: Tensor
    forget: Tensor
    retained: int
    forgotten: int
    retained_mass: int
    forgotten_mass: int

    @property
    def departing(self) -> Tensor:
        """The gradient -(q_f/q_r) grad F_f of the influence objective, shape (d,)."""
        return -(self.forgotten_mass / self.retained_mass) * self.forget

    @property
    def mass(self) -> int:
        """The mass q of all examples."""
        return self.retained_mass + self.forgotten_mass

    @property
    def whole(self) -> Tensor:
        """The gradient of F over all examples, shape (d,)."""
        total = self.retained_mass * self.retain + self.forgotten_mass * self.forget
        return total / self.mass


class FederatedObjective(FederatedRounds):
    """The objectives F_r and F_f of one removal, over a pinned cohort."""

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
        journal: JobJournal | None = None,
        state: Mapping[str, Tensor] | None = None,
        batch_size: int = 32,
        step_batch: int | None = None,
    ) -> None:
        """Open a job without running a round.

        Args:
            transport: Transport that carries the rounds.
            nodes: The cohort.
            forget: The forget set.
            weight_decay: The weight decay lambda.
            meters: Meters that count the client compute.
            progress: Progress display, which is updated after every round.
            deadline_s: The longest time of a round, in seconds.
            journal: Stores the sums of finished rounds, and holds those of a run that was killed.
            state: Tensors of the model, besides its trainable weights, that nodes load, by name in
                ``state_dict``.
            batch_size: The size of the batches in which running statistics are estimated.
            step_batch: The size of the batches in training, where nodes are weighted by their
                numbers of steps; None where every example counts once.
        """
        super().__init__(
            transport,
            nodes,
            forget,
            meters=meters,
            progress=progress,
            deadline_s=deadline_s,
            journal=journal,
            state=state,
            step_batch=step_batch,
        )
        self.weight_decay = weight_decay
        self.batch_size = batch_size

    def gradients(self, weights: Tensor) -> Gradients:
        """Compute the gradients of both parts at weights (d,): one round.

        Returns:
            Mean gradients and the number of examples of each part.

        Raises:
            ForgetSetError: Nothing would be forgotten, or nothing would stay.
        """
        sums = self.ask(weights, Gradient(), tuple(Part))
        counts = {part: self.cohort.examples(part) for part in Part}
        if not counts[Part.FORGET]:
            raise ForgetSetError(f"forget: no node has any example of {self.forget}")
        if not counts[Part.RETAIN]:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        masses = {part: self.mass(part) for part in Part}
        means = {part: self._mean(sums.pop(part), masses[part], weights) for part in Part}
        return Gradients(
            retain=means[Part.RETAIN],
            forget=means[Part.FORGET],
            retained=counts[Part.RETAIN],
            forgotten=counts[Part.FORGET],
            retained_mass=masses[Part.RETAIN],
            forgotten_mass=masses[Part.FORGET],
        )

    def gradient(self, weights: Tensor, sample: Sample | None = None) -> Tensor:
        """Compute grad F_r at weights (d,), or an estimate from a sample: one round.

        Returns:
            The gradient, shape (d,).

        Raises:
            ForgetSetError: Nothing would stay.
        """
        sums = self.ask(weights, Gradient(), (Part.RETAIN,), sample=sample)
        if not self.retained:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        return self._mean(sums[Part.RETAIN], self.mass(Part.RETAIN), weights)

    @property
    def forgotten(self) -> int:
        """The number n_f of forgotten examples in the cohort, from the answers so far."""
        return self.cohort.examples(Part.FORGET)

    @property
    def retained(self) -> int:
        """The number n_r of retained examples, from the answers so far."""
        return self.cohort.examples(Part.RETAIN)

    def mass(self, part: Part) -> int:
        """Return the mass of a part, from the answers so far; its examples without weights."""
        return self.cohort.mass(part, self.step_weights)

    def losses(self, weights: Tensor, steps: Tensor) -> Tensor:
        """Evaluate F_r at weights (d,) and at weights + each of steps (m, d): one round.

        Returns:
            Values (m + 1,), float64.
        """
        sums = self.ask(weights, Losses(), (Part.RETAIN,), steps)
        square = dot(weights, weights)
        squares = [square, *(square + 2.0 * dot(weights, s) + dot(s, s) for s in steps)]
        regulariser = 0.5 * self.weight_decay * torch.tensor(squares, dtype=torch.float64)
        return sums[Part.RETAIN] / self.mass(Part.RETAIN) + regulariser

    def evaluate(
        self, weights: Tensor, steps: Tensor, parts: tuple[Part, ...] = (Part.RETAIN,)
    ) -> dict[Part, tuple[Evaluated, ...]]:
        """Evaluate the models at weights (d,) and weights + each of steps (m, d): one round.

        Returns:
            For each part that some node holds, the evaluations of the m + 1 models in order.
        """
        sums = self.ask(weights, Evaluations(), parts, steps)
        return {
            part: tuple(
                Evaluated(Evaluation.of(own), Evaluation.of(held_out))
                for own, held_out in zip(*of_part, strict=True)
            )
            for part, of_part in sums.items()
        }

    def renew_statistics(self, weights: Tensor) -> None:
        """Estimate running statistics at weights (d,) for all later questions: one round.

        The trained statistics fit neither the initial weights nor a point between. No round is run
        where the state holds no running statistics.
        """
        self.state = ModelState(self.statistics(weights, self.batch_size, seed=0))

    def statistics(self, weights: Tensor, batch_size: int, seed: int) -> dict[str, Tensor]:
        """Estimate the running statistics of normalisation layers on the retain set.

        This takes one round, or none where the state holds no running statistics.

        Args:
            weights: The point (d,).
            batch_size: Size of the batches on each node.
            seed: Seed of the order of its examples.

        Returns:
            The state with the new statistics; the state of questions is not changed.

        Raises:
            ForgetSetError: Nothing would stay.
        """
        if not running_statistics(self.state):
            return dict(self.state)
        sums = self.ask(weights, Statistics(batch_size, seed), (Part.RETAIN,))
        if not self.retained:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        return with_statistics(self.state, sums[Part.RETAIN] / self.retained)

    def curvature(
        self, weights: Tensor, curvature: Curvature, sample: Sample | None = None
    ) -> FederatedCurvature:
        """Return the curvature of F_r at weights (d,) as an operator, without running a round.

        With a sample it is the curvature over the sampled examples, the same for all products.
        """
        return FederatedCurvature(self, weights, curvature, sample)

    def products(
        self,
        weights: Tensor,
        vectors: Tensor,
        curvature: Curvature,
        sample: Sample | None = None,
    ) -> Tensor:
        """Multiply the curvature of F_r at weights (d,) with each of vectors (k, d): one round."""
        sums = self.ask(weights, Products(curvature), (Part.RETAIN,), vectors, sample)
        return self._mean(sums.pop(Part.RETAIN), self.mass(Part.RETAIN), vectors)

    def forgotten_products(
        self,
        weights: Tensor,
        vectors: Tensor,
        curvature: Curvature,
        sample: Sample | None = None,
    ) -> Tensor:
        """Multiply the forget set's curvature at weights (d,) with vectors (k, d): one round.

        Returns:
            Weighted sums over the forget set, (k, d), float64, without the regulariser.
        """
        ask = Products(curvature)
        return self.ask(weights, ask, (Part.FORGET,), vectors, sample)[Part.FORGET]

    def group_gradients(
        self, weights: Tensor, *, by_label: bool
    ) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
        """Compute the gradient sum of each group on the retain set at weights (d,): one round.

        Yields:
            In order of arrival: node, labels of its groups (none: one group), rows (groups, d).
        """
        question = self.question(weights, GroupGradients(by_label), (Part.RETAIN,))
        for answer in self.answers(question):
            for part, rows in answer.values.items():
                yield answer.node, answer.labels.get(part, ()), rows

    def signed_gradients(self, weights: Tensor, *, by_label: bool, signs: Signs) -> Tensor:
        """Compute signed sums of the retain set's group gradients at weights (d,): one round.

        Returns:
            The sums over all nodes, (columns, d).
        """
        sums = self.ask(weights, GroupGradients(by_label, signs), (Part.RETAIN,))
        return sums[Part.RETAIN].to(weights.dtype)

    def summaries(
        self,
        weights: Tensor,
        basis: Tensor,
        curvature: Curvature,
        *,
        part: Part,
        by_label: bool,
        sample: Sample | None = None,
    ) -> Iterator[tuple[int, tuple[int, ...], list[Summary]]]:
        """Compute the summary of each group in a subspace at weights (d,): one round.

        Args:
            weights: The point.
            basis: The basis Q' (q, d), with orthonormal rows.
            curvature: Kind of curvature of the sums of losses.
            part: The part whose examples are used.
            by_label: Whether groups are labels.
            sample: The examples from which products are computed; None for all.

        Yields:
            In order of arrival: node, labels of its groups (none: one group), their summaries.
        """
        question = self.question(weights, Summaries(curvature, by_label), (part,), basis, sample)
        for answer in self.answers(question):
            for of_part, rows in answer.values.items():
                labels = answer.labels.get(of_part, ())
                found = [unpack(row, len(basis)) for row in rows]
                self._require_counted(answer, of_part, labels, found)
                yield answer.node, labels, found

    def _require_counted(
        self, answer: Answer, part: Part, labels: tuple[int, ...], found: list[Summary]
    ) -> None:
        """Check that summaries count the examples, and their weights, that the answer names.

        Raises:
            BadAnswerError: They do not, so that removals from them would be of other examples.
        """
        weights, counts = self.step_weights, answer.counts
        mass = weights.mass(counts, part)
        if labels:  # weighted as before the removal (node/sums.py)
            mass = weights.terms(counts, part)[part] * counts[part]
        summed = sum(one.examples for one in found), sum(one.mass for one in found)
        if summed[0] != counts[part] or not math.isclose(summed[1], mass, rel_tol=1e-5):
            raise BadAnswerError(
                f"node {answer.node} answered with summaries of other numbers of examples than it "
                "holds; leave it out, or have it enrol again",
                nodes=(answer.node,),
            )

    def _mean(self, total: Tensor, count: int, of_regulariser: Tensor) -> Tensor:
        """Divide a sum in place, and add lambda times a tensor of its shape."""
        mean = total.div_(count).to(of_regulariser.dtype)
        return mean.add_(of_regulariser, alpha=self.weight_decay)


class FederatedCurvature(LinearOperator):
    """The curvature of F_r at one point; each call of matmat is one round."""

    def __init__(
        self,
        objective: FederatedObjective,
        weights: Tensor,
        curvature: Curvature,
        sample: Sample | None = None,
    ) -> None:
        """Bind the operator to a point.

        Args:
            objective: The objective that computes the products.
            weights: The point (d,).
            curvature: Hessian or GGN.
            sample: The examples of the curvature; None for all.
        """
        self.objective = objective
        self.weights = weights
        self.kind = curvature
        self.sample = sample
        self.dimension = len(weights)
        self.dtype = weights.dtype
        self.positive_semidefinite = curvature is Curvature.GGN

    @override
    def matmat(self, vectors: Tensor) -> Tensor:
        rows = vectors.T.contiguous()
        return self.objective.products(self.weights, rows, self.kind, self.sample).T
