"""The nodes of one job, pinned together with the number of examples of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedunlearn.errors import BadAnswerError
from fedunlearn.questions.forget import Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.questions.step_weights import StepWeights
from fedunlearn.vectors import not_finite


class Cohort:
    """The nodes that answer a job, fixed by the first complete round and never renormalised.

    If nodes or counts change between two products, the operator changes, and no Krylov basis
    belongs to both operators.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        """Set the nodes; their numbers of examples are learned from their first answers."""
        self.nodes = tuple(sorted(nodes))
        self._counts: dict[int, dict[Part, int]] = {}

    def holders(self, part: Part) -> tuple[int, ...]:
        """Return the nodes that hold examples of a part, as far as is known; else all."""
        if len(self._counts) < len(self.nodes):
            return self.nodes
        return tuple(node for node in self.nodes if self._counts[node][part])

    def examples(self, part: Part) -> int:
        """Return the number of examples of a part in the cohort."""
        return sum(counts[part] for counts in self._counts.values())

    def mass(self, part: Part, weights: StepWeights) -> int:
        """Return the sum of the weights of a part's examples in the cohort."""
        return sum(weights.mass(counts, part) for counts in self._counts.values())

    @property
    def counts(self) -> Mapping[int, Mapping[Part, int]]:
        """The number of examples per part of each node that has answered so far."""
        return dict(self._counts)

    def restore(self, counts: Mapping[int, Mapping[Part, int]]) -> None:
        """Pin the counts of nodes from rounds that are not run again."""
        self._counts.update({node: dict(of_part) for node, of_part in counts.items()})

    def admit(self, question: Question, answer: Answer) -> None:
        """Check that an answer belongs to a question and to this cohort, and pin its counts.

        Raises:
            BadAnswerError: The answer has another job, round, model or basis; a wrong shape; NaN; a
                part that is missing or was not requested; labels that do not ascend or were not
                requested; or counts that have changed.
        """
        who, blamed = f"node {answer.node}", (answer.node,)
        if answer.node not in self.nodes:
            raise BadAnswerError(
                f"{who} answered but is not of the cohort {list(self.nodes)}", nodes=blamed
            )
        for what, got, want in (
            ("job", answer.job, question.job),
            ("round", answer.round, question.round),
            ("model digest", answer.model_digest, question.model_digest),
            ("vectors digest", answer.vectors_digest, question.vectors_digest),
        ):
            if got != want:
                raise BadAnswerError(f"{who} answered with another {what} than asked", nodes=blamed)
        counts = dict(answer.counts)
        known = self._counts.setdefault(answer.node, counts)
        if known != counts:
            raise BadAnswerError(
                f"{who} holds other numbers of examples than in the first round; start anew",
                nodes=blamed,
            )
        for part in question.parts:
            if counts.get(part) and part not in answer.values:
                raise BadAnswerError(f"{who} left out the {part} part that it holds", nodes=blamed)
        for part, values in answer.values.items():
            if part not in question.parts:
                raise BadAnswerError(
                    f"{who} answered for {part}, which was not asked for", nodes=blamed
                )
            labels = answer.labels.get(part, ())
            if labels and not question.by_label:
                raise BadAnswerError(
                    f"{who} answered with labels for {part}, asked for none", nodes=blamed
                )
            if list(labels) != sorted(set(labels)):
                raise BadAnswerError(
                    f"{who} answered with labels for {part} that do not ascend", nodes=blamed
                )
            require_shape(question, answer.node, part, tuple(values.shape), len(labels))
            if not question.ask.may_overflow and not_finite(values):
                raise BadAnswerError(
                    f"{who} answered with NaN or infinity for {part}", nodes=blamed
                )


def require_shape(
    question: Question, node: int, part: Part, shape: tuple[int, ...], labels: int
) -> None:
    """Check the shape of a node's answer for a part with this number of labelled rows.

    Raises:
        BadAnswerError: The shape differs from the requested one.
    """
    wanted = question.answer_shape(labels or 1)
    if shape != wanted:
        raise BadAnswerError(
            f"node {node} answered with shape {shape} for {part}, asked for {wanted}", nodes=(node,)
        )
