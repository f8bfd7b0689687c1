"""The kinds of questions: each holds the shape of its answers, its cost and its wire form.

A new kind is one class here, with its message in session.proto, and what a node answers to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from fedunlearn.errors import InputError
from fedunlearn.questions.ask import Ask, Size
from fedunlearn.questions.heads import HeadDerivatives, HeadMoments
from fedunlearn.questions.subspace_summary import packed_size
from fedunlearn.risk.products import Curvature
from fedunlearn.rpc.v1 import session_pb2 as pb

# Time of one product, and of one loss, over that of one gradient of the same examples, as
# `make bench` measures them (the slower of mlp and cnn, 4,096 examples, one thread, rounded up with
# a margin for busy machines; a product is a tenth of a basis of ten, graphs kept).
PRODUCT_COST = {Curvature.GGN: 1.4, Curvature.HESSIAN: 1.4}
LOSS_COST = 0.6

_CURVATURES = {Curvature.GGN: pb.CURVATURE_GGN, Curvature.HESSIAN: pb.CURVATURE_HESSIAN}
_CURVATURES_BACK = {number: curvature for curvature, number in _CURVATURES.items()}


@dataclass(frozen=True)
class Gradient(Ask):
    """Ask for sums of gradients (d,)."""

    field = "gradient"
    may_round = True

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.dimension,)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return share


@dataclass(frozen=True)
class Products(Ask):
    """Ask for the curvature of the sum of losses, times each of the vectors: (k, d)."""

    curvature: Curvature

    field = "products"
    may_round = True

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.vectors, size.dimension)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return share * PRODUCT_COST[self.curvature] * vectors

    @override
    def write(self, message: pb.Question) -> None:
        message.products.curvature = _CURVATURES[self.curvature]

    @classmethod
    @override
    def read(cls, message: pb.Question) -> Products:
        return cls(_curvature(message.products.curvature))


@dataclass(frozen=True)
class Losses(Ask):
    """Ask for sums of losses at the point and at the point plus each of the vectors: (m + 1,).

    A candidate step may go so far that losses overflow; that is for the server to judge.
    """

    field = "losses"
    may_overflow = True

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.vectors + 1,)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return share * LOSS_COST * (vectors + 1)


@dataclass(frozen=True)
class Evaluations(Ask):
    """Ask how well models do, at the point and at the point plus each of the vectors.

    The answer of a part is (2, m + 1, 4): for the part's examples, and for those that the node
    holds out of training; for each model; sum of losses, examples that are classified right,
    examples that have a class to compare with, examples.
    """

    field = "evaluations"
    may_overflow = True
    additive = False

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (2, size.vectors + 1, 4)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return share * LOSS_COST * (vectors + 1)


@dataclass(frozen=True)
class Statistics(Ask):
    """Ask for sums over batches of what normalisation layers see of them, in training behaviour.

    Of each layer, in the order of their names, whose running statistics the question's state
    holds: the sum of batch size times mean, then of batch size times unbiased variance.

    Attributes:
        batch_size: Size of the batches; the last one of a node may have one example more.
        seed: Seed of the order of the examples.
    """

    batch_size: int
    seed: int

    field = "statistics"
    additive = False

    def __post_init__(self) -> None:
        """Refuse batches that have no variance.

        Raises:
            InputError: Batches have fewer than two examples.
        """
        if self.batch_size < 2:
            raise InputError(
                f"statistics: batches of {self.batch_size} have no variance; give 2 or more"
            )

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.statistics,)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return LOSS_COST

    @override
    def write(self, message: pb.Question) -> None:
        message.statistics.batch_size = self.batch_size
        message.statistics.seed = self.seed

    @classmethod
    @override
    def read(cls, message: pb.Question) -> Statistics:
        if message.statistics.batch_size < 2:
            raise ValueError("statistics of batches of fewer than two examples")
        return cls(message.statistics.batch_size, message.statistics.seed)


@dataclass(frozen=True)
class Signs:
    """Random signs for sums of gradients, which let only sums be seen and span the same range.

    Source: Halko, Martinsson, Tropp 2011, section 4.1, with a Rademacher matrix.

    Attributes:
        columns: How many sums.
        seed: Seed of the signs.
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
class GroupGradients(Ask):
    """Ask for the sum of gradients of each group of examples: (groups, d).

    Attributes:
        by_label: A group holds the examples of one label; otherwise, and where targets are not
            labels, all examples of the part are one.
        signs: Ask for signed sums of the groups' gradients instead, (columns, d).
    """

    by_label: bool
    signs: Signs | None = None

    field = "group_gradients"
    may_round = True

    @property
    @override
    def in_groups(self) -> bool:
        return self.signs is None

    @property
    @override
    def groups_are_labels(self) -> bool:
        return self.by_label and self.signs is None

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.groups if self.signs is None else self.signs.columns, size.dimension)

    @override
    def cost(self, vectors: int, share: float) -> float:
        return 1.0

    @override
    def write(self, message: pb.Question) -> None:
        message.group_gradients.by_label = self.by_label
        if self.signs is not None:
            message.group_gradients.signs.columns = self.signs.columns
            message.group_gradients.signs.seed = self.signs.seed

    @classmethod
    @override
    def read(cls, message: pb.Question) -> GroupGradients:
        asked = message.group_gradients
        if not asked.HasField("signs"):
            return cls(asked.by_label)
        if not asked.signs.columns:
            raise ValueError("signed sums without columns")
        return cls(asked.by_label, Signs(asked.signs.columns, asked.signs.seed))


@dataclass(frozen=True)
class Summaries(Ask):
    """Ask what a subspace sees of each group of examples: (groups, packed Summary).

    The vectors (q, d) are its orthonormal basis. See subspace_summary.py.

    Attributes:
        curvature: Kind of curvature of the sum of losses.
        by_label: Whether groups are labels, as for GroupGradients.
    """

    curvature: Curvature
    by_label: bool

    field = "summaries"

    @property
    @override
    def in_groups(self) -> bool:
        return True

    @property
    @override
    def groups_are_labels(self) -> bool:
        return self.by_label

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        return (size.groups, packed_size(size.vectors))

    @override
    def cost(self, vectors: int, share: float) -> float:
        return 1.0 + share * PRODUCT_COST[self.curvature] * vectors

    @override
    def write(self, message: pb.Question) -> None:
        message.summaries.curvature = _CURVATURES[self.curvature]
        message.summaries.by_label = self.by_label

    @classmethod
    @override
    def read(cls, message: pb.Question) -> Summaries:
        return cls(_curvature(message.summaries.curvature), message.summaries.by_label)


KINDS: dict[str, type[Ask]] = {
    kind.field: kind
    for kind in (
        Gradient,
        Products,
        Losses,
        Evaluations,
        Statistics,
        GroupGradients,
        Summaries,
        HeadMoments,
        HeadDerivatives,
    )
}


def read_kind(message: pb.Question) -> Ask:
    """Return what a question's header asks.

    Raises:
        ValueError: Something unknown.
    """
    kind = message.WhichOneof("kind")
    if kind not in KINDS:
        raise ValueError("question of an unknown kind")
    return KINDS[kind].read(message)


def _curvature(number: int) -> Curvature:
    if number not in _CURVATURES_BACK:
        raise ValueError("question of an unknown kind")
    return _CURVATURES_BACK[number]  # type: ignore[index]
