"""The rounds of one job: questions to a pinned cohort, and the sums of its answers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedunlearn.errors import MissingAnswerError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.cohort import Cohort
from fedunlearn.federation.journal import JobJournal, KeptRound, Spent
from fedunlearn.federation.transport.base import Transport
from fedunlearn.model_state import ModelState
from fedunlearn.parameters import require_finite
from fedunlearn.progress import Progress
from fedunlearn.questions.ask import Ask
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.questions.step_weights import StepWeights
from fedunlearn.vectors import accumulate


class FederatedRounds:
    """Rounds of questions to a pinned cohort, where a missing answer ends the job."""

    def __init__(
        self,
        transport: Transport,
        nodes: tuple[int, ...],
        forget: ForgetSet,
        *,
        meters: MeterStack,
        progress: Progress,
        deadline_s: float,
        journal: JobJournal | None = None,
        state: Mapping[str, Tensor] | None = None,
        step_batch: int | None = None,
    ) -> None:
        """Open a job without running a round.

        Args:
            transport: Transport that carries the rounds.
            nodes: The cohort.
            forget: The forget set.
            meters: Meters that count the client compute.
            progress: Progress display, which is updated after every round.
            deadline_s: The longest time of a round, in seconds.
            journal: Stores the sums of finished rounds, and holds those of a run that was killed.
            state: Tensors of the model, besides its trainable weights, that nodes load, by name in
                ``state_dict``.
            step_batch: The size of the batches in training, where nodes are weighted by their
                numbers of steps; None where every example counts once.
        """
        self.job = uuid.uuid4().hex
        self.cohort = Cohort(nodes)
        self.forget = forget
        self.state = ModelState.of(state or {})
        self.step_weights = StepWeights(step_batch)
        self.rounds = 0
        self._transport = transport
        self._meters = meters
        self._progress = progress
        self._deadline_s = deadline_s
        self._journal = journal

    def ask(
        self,
        point: Tensor,
        ask: Ask,
        parts: tuple[Part, ...],
        vectors: Tensor | None = None,
        sample: Sample | None = None,
    ) -> dict[Part, Tensor]:
        """Run one round and sum the answers in order of arrival, in float64.

        Sums of float32 answers in float64 hardly depend on the order in which the answers arrive.

        Returns:
            The sum over all nodes for each part, float64.
        """
        question = self.question(point, ask, parts, vectors, sample)
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
            for answer in self.answers(question):
                _add(answer, sums)
                del answer  # frees it before the next one arrives
        if self._journal is not None:
            done = KeptRound(sums, self.cohort.counts, Spent.of(meter))
            self._journal.keep(question, self.cohort.nodes, done)
        return sums

    def question(
        self,
        point: Tensor,
        ask: Ask,
        parts: tuple[Part, ...],
        vectors: Tensor | None = None,
        sample: Sample | None = None,
    ) -> Question:
        """Return the question of the next round."""
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
            batch_size=self.step_weights.batch_size if ask.additive else None,
        )

    def answers(self, question: Question) -> Iterator[Answer]:
        """Run one round.

        Yields:
            The answers in order of arrival, checked.

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
            examples += question.step_weights.used(answer.counts, question.parts)
            yield answer
            del answer  # frees it before the next one arrives
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
