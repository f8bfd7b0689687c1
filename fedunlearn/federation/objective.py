"""The objective over a whole federation: every value, gradient and product is a round.

With n_r retained and n_f forgotten examples and the regulariser (lambda/2)||w||^2:
    F_r(w) = (1/n_r) sum over retained of loss + (lambda/2)||w||^2, F_f likewise,
    G(w) = F_r(w) - <b, w> with b = (n/n_r) grad F(u) = grad F_r(u) + (n_f/n_r) grad F_f(u)
is the influence objective at u: the one for which u was stationary before the removal, so that
what training left unconverged stays out of it (docs: README, "How it works").
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import ForgetSetError, MissingAnswerError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.cohort import Cohort
from fedunlearn.federation.evaluation import Evaluated, Evaluation
from fedunlearn.federation.journal import JobJournal, KeptRound, Spent
from fedunlearn.federation.transport.base import Transport
from fedunlearn.model_state import ModelState
from fedunlearn.networks import running_statistics
from fedunlearn.parameters import require_finite
from fedunlearn.progress import Progress
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    Ask,
    Evaluations,
    Gradient,
    GroupGradients,
    Losses,
    Products,
    Signs,
    Statistics,
    Summaries,
)
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.questions.subspace_summary import Summary, unpack
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.statistics import with_statistics
from fedunlearn.solvers.linear_operator import LinearOperator
from fedunlearn.vectors import accumulate, dot


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
        journal: JobJournal | None = None,
        state: Mapping[str, Tensor] | None = None,
        batch_size: int = 32,
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
            journal: Keeps the sums of finished rounds, and has those of a run that was killed.
            state: Tensors of the model beside its trainable weights that nodes load, by their
                names in ``state_dict``.
            batch_size: In which running statistics are estimated.
        """
        self.job = uuid.uuid4().hex
        self.cohort = Cohort(nodes)
        self.forget = forget
        self.weight_decay = weight_decay
        self._transport = transport
        self._meters = meters
        self._progress = progress
        self._deadline_s = deadline_s
        self._journal = journal
        self.state = ModelState.of(state or {})
        self.batch_size = batch_size
        self.rounds = 0

    def gradients(self, weights: Tensor) -> Gradients:
        """Ask both parts for their gradients at weights (d,): one round.

        Returns:
            Mean gradients and the number of examples of each part.

        Raises:
            ForgetSetError: Nothing would be forgotten, or nothing would stay.
        """
        sums = self._ask(weights, Gradient(), tuple(Part))
        counts = {part: self.cohort.examples(part) for part in Part}
        if not counts[Part.FORGET]:
            raise ForgetSetError(f"forget: no node has any example of {self.forget}")
        if not counts[Part.RETAIN]:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        means = {part: self._mean(sums.pop(part), counts[part], weights) for part in Part}
        return Gradients(
            retain=means[Part.RETAIN],
            forget=means[Part.FORGET],
            retained=counts[Part.RETAIN],
            forgotten=counts[Part.FORGET],
        )

    def gradient(self, weights: Tensor, sample: Sample | None = None) -> Tensor:
        """Ask what stays for grad F_r at weights (d,), or an estimate from a sample: one round.

        Returns:
            Shape (d,).

        Raises:
            ForgetSetError: Nothing would stay.
        """
        sums = self._ask(weights, Gradient(), (Part.RETAIN,), sample=sample)
        if not self.retained:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        return self._mean(sums[Part.RETAIN], self.retained, weights)

    @property
    def forgotten(self) -> int:
        """n_f among the nodes of the cohort, as the answers so far tell it."""
        return self.cohort.examples(Part.FORGET)

    @property
    def retained(self) -> int:
        """n_r, as the answers so far tell it."""
        return self.cohort.examples(Part.RETAIN)

    def losses(self, weights: Tensor, steps: Tensor) -> Tensor:
        """Evaluate F_r at weights (d,) and at weights + each of steps (m, d): one round.

        Returns:
            Values (m + 1,), float64.
        """
        sums = self._ask(weights, Losses(), (Part.RETAIN,), steps)
        square = dot(weights, weights)
        squares = [square, *(square + 2.0 * dot(weights, s) + dot(s, s) for s in steps)]
        regulariser = 0.5 * self.weight_decay * torch.tensor(squares, dtype=torch.float64)
        return sums[Part.RETAIN] / self.retained + regulariser

    def evaluate(
        self, weights: Tensor, steps: Tensor, parts: tuple[Part, ...] = (Part.RETAIN,)
    ) -> dict[Part, tuple[Evaluated, ...]]:
        """Ask how well the models at weights (d,) and weights + each of steps (m, d) do: one round.

        Returns:
            For each part that some node holds, the m + 1 models in order.
        """
        sums = self._ask(weights, Evaluations(), parts, steps)
        return {
            part: tuple(
                Evaluated(Evaluation.of(own), Evaluation.of(held_out))
                for own, held_out in zip(*of_part, strict=True)
            )
            for part, of_part in sums.items()
        }

    def renew_statistics(self, weights: Tensor) -> None:
        """Answer from now on at running statistics that belong to weights (d,): one round.

        Between the initial and the trained weights the trained statistics fit neither. None is
        asked where the state holds no running statistics.
        """
        self.state = ModelState(self.statistics(weights, self.batch_size, seed=0))

    def statistics(self, weights: Tensor, batch_size: int, seed: int) -> dict[str, Tensor]:
        """Estimate anew on what stays what normalisation layers have as running statistics.

        One round; none where the state holds no running statistics.

        Args:
            weights: The point (d,).
            batch_size: Of the batches on each node.
            seed: Of the order of its examples.

        Returns:
            The state with the new statistics; the question's own stays as it was.

        Raises:
            ForgetSetError: Nothing would stay.
        """
        if not running_statistics(self.state):
            return dict(self.state)
        sums = self._ask(weights, Statistics(batch_size, seed), (Part.RETAIN,))
        if not self.retained:
            raise ForgetSetError(f"forget: {self.forget} is all there is; something must stay")
        return with_statistics(self.state, sums[Part.RETAIN] / self.retained)

    def curvature(
        self, weights: Tensor, curvature: Curvature, sample: Sample | None = None
    ) -> FederatedCurvature:
        """Return the curvature of F_r at weights (d,) as an operator; asks nothing yet.

        With a sample it is the curvature of these examples, the same for all products.
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
        sums = self._ask(weights, Products(curvature), (Part.RETAIN,), vectors, sample)
        return self._mean(sums.pop(Part.RETAIN), self.retained, vectors)

    def group_gradients(
        self, weights: Tensor, *, by_label: bool
    ) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
        """Ask what stays for the gradient sum of each group at weights (d,): one round.

        Yields:
            As the answers come: node, labels of its groups (none: one group), rows (groups, d).
        """
        question = self._question(weights, GroupGradients(by_label), (Part.RETAIN,))
        for answer in self._answers(question):
            for part, rows in answer.values.items():
                yield answer.node, answer.labels.get(part, ()), rows

    def signed_gradients(self, weights: Tensor, *, by_label: bool, signs: Signs) -> Tensor:
        """Ask what stays for signed sums of the groups' gradients at weights (d,): one round.

        Returns:
            Sums over all nodes, (columns, d).
        """
        sums = self._ask(weights, GroupGradients(by_label, signs), (Part.RETAIN,))
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
        """Ask a part what a subspace sees of each group at weights (d,): one round.

        Args:
            weights: The point.
            basis: Q' (q, d), orthonormal rows.
            curvature: Of the sums of losses.
            part: Of which examples.
            by_label: Whether groups are labels.
            sample: Which examples answer products; None for all.

        Yields:
            As the answers come: node, labels of its groups (none: one group), their summaries.
        """
        question = self._question(weights, Summaries(curvature, by_label), (part,), basis, sample)
        for answer in self._answers(question):
            for of_part, rows in answer.values.items():
                labels = answer.labels.get(of_part, ())
                yield answer.node, labels, [unpack(row, len(basis)) for row in rows]

    def _mean(self, total: Tensor, count: int, of_regulariser: Tensor) -> Tensor:
        """Divide a sum, which is used up, and add lambda times a tensor of its shape."""
        mean = total.div_(count).to(of_regulariser.dtype)
        return mean.add_(of_regulariser, alpha=self.weight_decay)

    def _ask(
        self,
        point: Tensor,
        ask: Ask,
        parts: tuple[Part, ...],
        vectors: Tensor | None = None,
        sample: Sample | None = None,
    ) -> dict[Part, Tensor]:
        """Run one round and sum the answers as they come, in float64.

        Sums of float32 answers in float64 hardly depend on the order in which the answers come.

        Returns:
            The sum over all nodes for each part, float64.
        """
        question = self._question(point, ask, parts, vectors, sample)
        if self._journal is not None:
            done = self._journal.find(question, self.cohort.nodes)
            if done is not None:
                self.rounds += 1
                self.cohort.restore(done.counts)
                done.spent.count(self._meters)
                self._progress.advance()
                return dict(done.sums)
        sums: dict[Part, Tensor] = {}
        with self._meters.measure() as meter:
            for answer in self._answers(question):
                _add(answer, sums)
                del answer  # before the next one comes
        if self._journal is not None:
            done = KeptRound(sums, self.cohort.counts, Spent.of(meter))
            self._journal.keep(question, self.cohort.nodes, done)
        return sums

    def _question(
        self,
        point: Tensor,
        ask: Ask,
        parts: tuple[Part, ...],
        vectors: Tensor | None = None,
        sample: Sample | None = None,
    ) -> Question:
        """Put the next round's question together."""
        require_finite(point, "the model's weights")
        return Question(
            job=self.job,
            round=self.rounds,
            forget=self.forget,
            parts=parts,
            point=point,
            ask=ask,
            vectors=point.new_empty(0, len(point)) if vectors is None else vectors,
            sample=sample,
            state=self.state,
        )

    def _answers(self, question: Question) -> Iterator[Answer]:
        """Run one round.

        Yields:
            Answers as they come, checked.

        Raises:
            MissingAnswerError: A node did not answer in time.
        """
        parts = question.parts
        nodes = self.cohort.nodes if len(parts) > 1 else self.cohort.holders(parts[0])
        self.rounds += 1
        missing = set(nodes)
        examples = 0
        for answer in self._transport.ask(question, nodes, deadline_s=self._deadline_s):
            self.cohort.admit(question, answer)
            missing.discard(answer.node)
            examples += sum(answer.counts[part] for part in answer.values)
            yield answer
            del answer  # before the next one comes
        if missing:
            raise MissingAnswerError(
                f"round {question.round}: no answer within {self._deadline_s:g} s from node "
                + ", ".join(str(node) for node in sorted(missing)),
                nodes=sorted(missing),
            )
        self._meters.count_compute(question.cost * examples)
        self._progress.advance()


def _add(answer: Answer, sums: dict[Part, Tensor]) -> None:
    for part, values in answer.values.items():
        if part not in sums:
            sums[part] = torch.zeros(values.shape, dtype=torch.float64)
        accumulate(sums[part], values)


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
            objective: Answers the products.
            weights: The point (d,).
            curvature: Hessian or GGN.
            sample: The examples it belongs to; None for all.
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
