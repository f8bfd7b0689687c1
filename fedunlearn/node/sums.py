"""The sums that answer a question, over some of a node's examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fedunlearn.errors import TaskError
from fedunlearn.node.head import NodeHead
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.heads import HeadDerivatives, HeadMoments
from fedunlearn.questions.kinds import (
    Evaluations,
    Gradient,
    GroupGradients,
    Products,
    Statistics,
    Summaries,
)
from fedunlearn.questions.question import Question, Sample
from fedunlearn.questions.subspace_summary import pack
from fedunlearn.risk.examples import Examples, TensorExamples
from fedunlearn.risk.objective import EmpiricalRisk, RiskCurvature
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.statistics import batches, statistics
from fedunlearn.risk.task import Task

PRODUCTS_AT_ONCE = 8

# Weight, part and places of the examples that a summary is of.
_Group = Sequence[tuple[int, Part, Tensor]]
_CurvatureKey = tuple[bytes, ForgetSet, Part, Curvature, Sample | None]


class OfNode(Protocol):
    """What the sums are taken of."""

    task: Task
    number: int
    memory: int

    @property
    def model(self) -> nn.Module:
        """A workspace whose weights do not matter."""
        ...

    @property
    def examples(self) -> Examples:
        """The node's examples, removed ones included."""
        ...

    @property
    def held_out(self) -> Examples | None:
        """What the node evaluates on and does not train on."""
        ...


class ExampleSums:
    """Computes sums over examples of one node, and keeps a basis's curvature between products."""

    def __init__(self, node: OfNode) -> None:
        """Take sums over the examples of a node."""
        self._node = node
        self._curvature: tuple[_CurvatureKey, RiskCurvature] | None = None
        self._head: NodeHead | None = None

    def release(self) -> None:
        """Free what is stored between questions: curvature, graphs, inputs of a linear head."""
        self._curvature = None
        self._head = None

    def of_part(
        self, question: Question, part: Part, indices: Mapping[Part, Tensor]
    ) -> tuple[Tensor, tuple[int, ...] | None]:
        """Answer for one part.

        Args:
            question: The question.
            part: Retained or forgotten examples.
            indices: The places (m,) of the examples of both parts; the part that is asked for has
                at least one.

        Returns:
            The values, and the labels of their groups; None where the question has no groups.
        """
        match question.ask:
            case Statistics():
                return self._statistics(question, question.ask, indices[part]), None
            case GroupGradients() | Summaries():
                labels, rows = self._by_group(question, part, indices)
                return rows, labels if question.in_groups else None
            case HeadMoments():
                groups = self._groups(indices[part]) if question.ask.by_label else {}
                chosen = list(groups.values()) or [indices[part]]
                return self._linear_head(indices[part]).moments(question.ask, chosen), tuple(groups)
            case _:
                return self._weighted(question, part, indices, self._estimate), None

    def _weighted(
        self,
        question: Question,
        part: Part,
        indices: Mapping[Part, Tensor],
        sums: Callable[[Question, Part, Tensor], Tensor],
    ) -> Tensor:
        """Add up sums over both parts with the weights that they have in the answer for a part."""
        if not question.ask.additive:
            return sums(question, part, indices[part])
        terms = question.step_weights.terms(_counts(indices), part)
        total: Tensor | None = None
        for of, weight in terms.items():
            values = sums(question, of, indices[of])
            values = values if weight == 1 else values * weight
            total = values if total is None else total + values
        assert total is not None  # the part has examples
        return total

    def _estimate(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        """Sum over a part's examples, or scale up the sum over a sample of them."""
        if question.sample is None:
            return self._values(question, part, indices)
        drawn = question.sample.draw(indices, self._node.number, part)
        return self._values(question, part, drawn) * (len(indices) / len(drawn))

    def _values(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        if isinstance(question.ask, Products):
            return self._curvature_of(question, question.ask, part, indices).products(
                question.vectors
            )
        if isinstance(question.ask, HeadDerivatives):
            return self._linear_head(indices).derivatives(question.ask, question.point, indices)
        risk = self._risk(question, indices)
        if isinstance(question.ask, Gradient):
            return risk.gradient(question.point)
        points = [question.point, *(question.point + step for step in question.vectors)]
        if isinstance(question.ask, Evaluations):
            own = torch.stack([risk.evaluation(point) for point in points])
            return torch.stack([own, self._on_held_out(question, part, points)])
        return torch.tensor([risk.value(w) for w in points], dtype=torch.float64)

    def _statistics(self, question: Question, ask: Statistics, indices: Tensor) -> Tensor:
        """Answer what normalisation layers see of batches of a part's examples."""
        self._curvature = None  # its graphs hold the buffers that are written to
        places = batches(indices, ask.batch_size, [ask.seed, self._node.number])
        # A batch of one has no variance: where a node has but one example, it counts as two.
        inputs = (
            (len(some), self._node.examples.batch(some if len(some) > 1 else some.repeat(2))[0])
            for some in places
        )
        return statistics(self._node.model, question.point, question.carried, inputs, ask.seed)

    def _on_held_out(self, question: Question, part: Part, points: list[Tensor]) -> Tensor:
        """Evaluate models (m,) on what is held out and belongs to a part: (m, 4)."""
        nothing = torch.zeros(len(points), 4, dtype=torch.float64)
        if self._node.held_out is None:
            return nothing
        held_out = self._node.held_out
        gone = torch.zeros(len(held_out), dtype=torch.bool)
        labels = held_out.labels if question.forget.everywhere else None
        if labels is not None:
            gone = torch.isin(labels, labels.new_tensor(sorted(question.forget.everywhere)))
        chosen = torch.nonzero(gone if part is Part.FORGET else ~gone)[:, 0]
        if not len(chosen):
            return nothing
        risk = EmpiricalRisk(self._node.model, self._node.task.loss, held_out.at(chosen))
        return torch.stack([risk.evaluation(point) for point in points])

    def _by_group(
        self, question: Question, part: Part, indices: Mapping[Part, Tensor]
    ) -> tuple[tuple[int, ...], Tensor]:
        """Answer for each group of a part's examples.

        Groups of one label have the weights before the removal, since their rows cannot say how the
        weights of other labels change; the server knows all labels (recording/recording.py).

        Returns:
            The labels and the rows.
        """
        ask = question.ask
        assert isinstance(ask, GroupGradients | Summaries)
        groups = self._groups(indices[part]) if ask.by_label else {}
        labels = tuple(groups)
        counts = _counts(indices)
        terms = question.step_weights.terms(counts, part)
        chosen = [[(terms[part], part, group)] for group in groups.values()] or [
            [(weight, of, indices[of]) for of, weight in terms.items()]
        ]
        if isinstance(ask, Summaries):
            rows = [self._summary(question, ask.curvature, part, group) for group in chosen]
            return labels, torch.stack(rows)
        gradients = [self._gradient(question, group) for group in chosen]
        if ask.signs is None:
            return labels, torch.stack(gradients)
        signs = ask.signs.draw(self._node.number, labels, question.point.dtype)
        return labels, signs @ torch.stack(gradients)

    def _gradient(self, question: Question, group: _Group) -> Tensor:
        """Return the weighted sum of the gradients of a group's examples."""
        total = torch.zeros_like(question.point)
        for weight, _, indices in group:
            total.add_(self._risk(question, indices).gradient(question.point), alpha=weight)
        return total

    def _summary(self, question: Question, kind: Curvature, part: Part, group: _Group) -> Tensor:
        """Summarise the gradient of all examples of a group, and the curvature of the sample."""
        basis = question.vectors
        gradient = self._gradient(question, group)
        seen = torch.zeros(len(basis), len(basis), dtype=basis.dtype)
        for weight, of, indices in group:
            drawn = indices
            if question.sample is not None:
                drawn = question.sample.draw(indices, self._node.number, of)
            risk = self._risk(question, drawn)
            curvature = risk.curvature(question.point, kind, budget=self._node.memory)
            # A few products at a time: the memory of Q is enough.
            images = [curvature.products(some) @ basis.T for some in basis.split(PRODUCTS_AT_ONCE)]
            seen.add_(torch.cat(images), alpha=weight * len(indices) / len(drawn))
        examples = sum(len(indices) for _, of, indices in group if of is part)
        mass = sum(weight * len(indices) for weight, _, indices in group)
        return pack(examples, mass, gradient, basis @ gradient, seen)

    def _curvature_of(
        self, question: Question, ask: Products, part: Part, indices: Tensor
    ) -> RiskCurvature:
        """Return the curvature that a basis is built from, kept from one product to the next."""
        key = (question.model_digest, question.forget, part, ask.curvature, question.sample)
        if self._curvature is None or self._curvature[0] != key:
            self._curvature = None  # frees the old before the new takes its place
            risk = self._risk(question, indices)
            kept = risk.curvature(question.point, ask.curvature, budget=self._node.memory)
            self._curvature = (key, kept)
        return self._curvature[1]

    def _risk(self, question: Question, indices: Tensor) -> EmpiricalRisk:
        risk = EmpiricalRisk(self._node.model, self._node.task.loss, self._taken(indices))
        if question.point.shape != (risk.layout.dimension,):
            raise TaskError(
                f"model: has {risk.layout.dimension} trainable parameters, the question's point "
                f"{question.point.numel()}; server and nodes need the same Task"
            )
        return risk

    def _linear_head(self, indices: Tensor) -> NodeHead:
        if self._head is None:
            node = self._node
            self._head = NodeHead(node.model, node.task.loss, node.examples, indices, node.memory)
        return self._head

    def _groups(self, indices: Tensor) -> dict[int, Tensor]:
        return split_by_label(self._group_targets(), indices)

    def _group_targets(self) -> Tensor:
        if isinstance(self._node.examples, TensorExamples):
            return self._node.examples.targets
        labels = self._node.examples.labels
        return torch.zeros(len(self._node.examples), 0) if labels is None else labels

    def _taken(self, indices: Tensor) -> Examples:
        examples = self._node.examples
        return examples if len(indices) == len(examples) else examples.at(indices)


def _counts(indices: Mapping[Part, Tensor]) -> dict[Part, int]:
    """Return the number of examples of each part."""
    return {part: len(places) for part, places in indices.items()}


def split_by_label(targets: Tensor, indices: Tensor) -> dict[int, Tensor]:
    """Split examples by their label, ascending; empty where targets (n, ...) are not labels."""
    if targets.ndim != 1 or targets.is_floating_point() or int(targets.min()) < 0:
        return {}
    own = targets[indices]
    return {int(label): indices[own == label] for label in own.unique()}
