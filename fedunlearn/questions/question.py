"""Typed questions and answers: what crosses between server and node in one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.subspace_summary import packed_size
from fedunlearn.risk.products import Curvature


@dataclass(frozen=True)
class Gradient:
    """Ask for sums of gradients (d,)."""


@dataclass(frozen=True)
class Products:
    """Ask for the curvature of the sum of losses, times each of the vectors: (k, d)."""

    curvature: Curvature


@dataclass(frozen=True)
class Losses:
    """Ask for sums of losses at the point and at the point plus each of the vectors: (m + 1,)."""


@dataclass(frozen=True)
class Signs:
    """Random signs for sums of gradients, which let only sums be seen and span the same range.

    Source: Halko, Martinsson, Tropp 2011, section 4.1, with a Rademacher matrix.

    Attributes:
        columns: How many sums.
        seed: Of the signs.
    """

    columns: int
    seed: int

    def draw(self, node: int, labels: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the signs (columns, groups) of a node's groups; no labels: one group."""
        rows = [
            np.random.default_rng([self.seed, node, group]).choice([-1.0, 1.0], self.columns)
            for group in ([1 + label for label in labels] or [0])
        ]
        return torch.from_numpy(np.stack(rows, axis=1)).to(dtype)


@dataclass(frozen=True)
class GroupGradients:
    """Ask for the sum of gradients of each group of examples: (groups, d).

    Attributes:
        by_label: A group holds the examples of one label; otherwise, and where targets are not
            labels, all examples of the part are one.
        signs: Ask for signed sums of the groups' gradients instead, (columns, d).
    """

    by_label: bool
    signs: Signs | None = None


@dataclass(frozen=True)
class Summaries:
    """Ask what a subspace sees of each group of examples: (groups, packed Summary).

    The vectors (q, d) are its orthonormal basis. See subspace_summary.py.

    Attributes:
        curvature: Of the sum of losses.
        by_label: As for GroupGradients.
    """

    curvature: Curvature
    by_label: bool


@dataclass(frozen=True)
class Evaluations:
    """Ask how well models do, at the point and at the point plus each of the vectors.

    The answer of a part is (2, m + 1, 4): for the part's examples, and for those that the node
    holds out of training; for each model; sum of losses, examples that are classified right,
    examples that have a class to compare with, examples.
    """


Ask = Evaluations | Gradient | Products | Losses | GroupGradients | Summaries


@dataclass(frozen=True)
class Sample:
    """Ask each node to answer for some of its examples, as an estimate of the sum over all.

    Attributes:
        share: Of the examples of each part, in (0, 1]; at least one is taken.
        seed: Of the draw. Products of one basis belong to one operator only if all have the same.
    """

    share: float
    seed: int

    @classmethod
    def of(cls, share: float, seed: int) -> Sample | None:
        """Return a sample of a share of the examples; None, which means all of them, for 1."""
        return cls(share, seed) if share < 1.0 else None

    def draw(self, indices: Tensor, node: int, part: Part) -> Tensor:
        """Return a node's sample (m,) of the indices (n,) of a part, ascending; n > 0."""
        size = max(1, round(self.share * len(indices)))
        entropy = [self.seed, node, 1 + list(Part).index(part)]  # not that of a forget set
        chosen = np.random.default_rng(entropy).permutation(len(indices))[:size]
        return indices[torch.from_numpy(np.sort(chosen))]


@dataclass(frozen=True)
class Question:
    """One broadcast.

    Attributes:
        job: Names the removal that asks.
        round: Number of the round within the job.
        forget: Cuts each node's examples in two.
        parts: Which of the two are asked for.
        point: Weights (d,) at which to answer.
        ask: What is asked.
        vectors: (k, d); empty (0, d) for gradients.
        sample: Which of the examples answer; None for all. Of summaries it is for the curvature
            alone, group gradients are always of all.
    """

    job: str
    round: int
    forget: ForgetSet
    parts: tuple[Part, ...]
    point: Tensor
    ask: Ask
    vectors: Tensor
    sample: Sample | None = None

    @cached_property
    def model_digest(self) -> bytes:
        """The sha256 of the point."""
        return digest(self.point)

    def at_point_of(self, before: Question) -> Question:
        """Return the same question with the point, and its digest, of one that has an equal point.

        Comparing is faster than hashing, and a basis asks at one point again and again.
        """
        if not torch.equal(self.point, before.point):
            return self
        same = replace(self, point=before.point)
        same.__dict__["model_digest"] = before.model_digest
        return same

    @cached_property
    def vectors_digest(self) -> bytes:
        """The sha256 of the vectors, empty where there are none."""
        return digest(self.vectors.reshape(-1)) if len(self.vectors) else b""

    @property
    def in_groups(self) -> bool:
        """Whether the values of a part have a row for each group of its examples."""
        match self.ask:
            case GroupGradients(signs=None) | Summaries():
                return True
            case _:
                return False

    @property
    def by_label(self) -> bool:
        """Whether these rows are of labels, where targets are labels."""
        match self.ask:
            case GroupGradients(by_label=by_label, signs=None) | Summaries(by_label=by_label):
                return by_label
            case _:
                return False

    def answer_shape(self, groups: int = 1) -> tuple[int, ...]:
        """Return the shape of the values of one part, with so many groups where rows are groups."""
        count, dimension = self.vectors.shape
        match self.ask:
            case Gradient():
                return (dimension,)
            case Products():
                return (count, dimension)
            case Losses():
                return (count + 1,)
            case Evaluations():
                return (2, count + 1, 4)
            case GroupGradients(signs=Signs() as signs):
                return (signs.columns, dimension)
            case GroupGradients():
                return (groups, dimension)
            case Summaries():
                return (groups, packed_size(count))


@dataclass(frozen=True)
class Answer:
    """What one node says to one question.

    Attributes:
        node: Who answers.
        job: Echo of the question.
        round: Echo of the question.
        model_digest: Of the point that the node received.
        vectors_digest: Of the vectors that the node received.
        counts: The node's number of examples in each part.
        values: For each part that was asked for and is not empty: sums over its examples, or, from
            a sample of them, an unbiased estimate of these.
        labels: For each part whose groups were asked for by label: the labels of the rows,
            ascending; empty where the targets are no labels, so that there is one row.
    """

    node: int
    job: str
    round: int
    model_digest: bytes
    vectors_digest: bytes
    counts: Mapping[Part, int]
    values: Mapping[Part, Tensor] = field(default_factory=dict)
    labels: Mapping[Part, tuple[int, ...]] = field(default_factory=dict)


class Node(Protocol):
    """What a node does when asked."""

    def answer(self, question: Question) -> Answer:
        """Answer one question about the node's own examples."""
        ...
