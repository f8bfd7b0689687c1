"""Typed questions and answers: what crosses between server and node in one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedunlearn.federation.forget import ForgetSet, Part
from fedunlearn.parameters import digest
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
        vectors: (k, d); empty (0, d) for a gradient.
        sample: Which of the examples answer; None for all.
    """

    job: str
    round: int
    forget: ForgetSet
    parts: tuple[Part, ...]
    point: Tensor
    ask: Gradient | Products | Losses
    vectors: Tensor
    sample: Sample | None = None

    @cached_property
    def model_digest(self) -> bytes:
        """The sha256 of the point."""
        return digest(self.point)

    @cached_property
    def vectors_digest(self) -> bytes:
        """The sha256 of the vectors, empty where there are none."""
        return digest(self.vectors.reshape(-1)) if len(self.vectors) else b""

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the values of one part."""
        count, dimension = self.vectors.shape
        match self.ask:
            case Gradient():
                return (dimension,)
            case Products():
                return (count, dimension)
            case Losses():
                return (count + 1,)


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
    """

    node: int
    job: str
    round: int
    model_digest: bytes
    vectors_digest: bytes
    counts: Mapping[Part, int]
    values: Mapping[Part, Tensor] = field(default_factory=dict)


class Node(Protocol):
    """What a node does when asked."""

    def answer(self, question: Question) -> Answer:
        """Answer one question about the node's own examples."""
        ...
