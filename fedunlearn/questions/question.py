"""Typed questions and answers: what crosses between server and node in one round."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedunlearn.model_state import ModelState
from fedunlearn.networks import running_statistics
from fedunlearn.parameters import digest
from fedunlearn.questions.ask import Ask, Size
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.step_weights import StepWeights


@dataclass(frozen=True)
class Sample:
    """Ask each node to answer for some of its examples, as an estimate of the sum over all.

    Attributes:
        share: Share of the examples of each part, in (0, 1]; at least one is taken.
        seed: Seed of the draw; products of one basis belong to one operator only with the same
            seed.
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
        state: Tensors of the model beside its trainable weights, by their names in its
            ``state_dict``, which the node loads before it answers.
        batch_size: The size of the batches in training, where sums are weighted by a node's number
            of steps in an epoch (step_weights.py); None where every example counts once.
    """

    job: str
    round: int
    forget: ForgetSet
    parts: tuple[Part, ...]
    point: Tensor
    ask: Ask
    vectors: Tensor
    sample: Sample | None = None
    state: Mapping[str, Tensor] = field(default_factory=ModelState)
    batch_size: int | None = None

    @cached_property
    def step_weights(self) -> StepWeights:
        """The weights of a node's examples."""
        return StepWeights(self.batch_size)

    @cached_property
    def carried(self) -> ModelState:
        """The state as it crosses."""
        return ModelState.of(self.state)

    @cached_property
    def _point_digest(self) -> bytes:
        return digest(self.point)

    @cached_property
    def model_digest(self) -> bytes:
        """The sha256 of the point; where the question carries a state, of both their digests."""
        if not self.carried:
            return self._point_digest
        return hashlib.sha256(self._point_digest + self.carried.digest).digest()

    def at_point_of(self, before: Question) -> Question:
        """Return the same question with the point, and its digest, of one that has an equal point.

        Comparing is faster than hashing, and a basis asks at one point again and again.
        """
        if not torch.equal(self.point, before.point):
            return self
        same = replace(self, point=before.point)
        same.__dict__["_point_digest"] = before._point_digest
        return same

    @cached_property
    def vectors_digest(self) -> bytes:
        """The sha256 of the vectors, empty where there are none."""
        return digest(self.vectors.reshape(-1)) if len(self.vectors) else b""

    @property
    def in_groups(self) -> bool:
        """Whether the values of a part have a row for each group of its examples."""
        return self.ask.in_groups

    @property
    def by_label(self) -> bool:
        """Whether these rows are of labels, where targets are labels."""
        return self.ask.groups_are_labels

    @property
    def cost(self) -> float:
        """What one of a node's examples costs on average, in gradients of one example."""
        share = self.sample.share if self.sample else 1.0
        return self.ask.cost(len(self.vectors), share)

    def answer_shape(self, groups: int = 1) -> tuple[int, ...]:
        """Return the shape of the values of one part, with so many groups where rows are groups."""
        count, dimension = self.vectors.shape
        statistics = 2 * sum(running_statistics(self.carried).values())
        return self.ask.shape(Size(dimension, count, groups, statistics))


@dataclass(frozen=True)
class Answer:
    """What one node says to one question.

    Attributes:
        node: Number of the node that answers.
        job: Echo of the question.
        round: Echo of the question.
        model_digest: Digest of the point that the node received.
        vectors_digest: Digest of the vectors that the node received.
        counts: The node's number of examples in each part.
        values: Sums over the examples of each part that was asked for and is not empty, or, from
            a sample of them, an unbiased estimate of these.
        labels: Labels of the rows of each part whose groups were asked for by label,
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
