"""The base of the kinds of questions, and what the shape of an answer depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from fedunlearn.rpc.v1 import session_pb2 as pb


@dataclass(frozen=True)
class Size:
    """What the shape of an answer depends on beside the kind.

    Attributes:
        dimension: d, of the point.
        vectors: How many vectors the question carries.
        groups: How many groups of examples the node has, where rows are groups.
        statistics: How many numbers the running statistics have that the question carries.
    """

    dimension: int
    vectors: int
    groups: int = 1
    statistics: int = 0


class Ask(ABC):
    """What is asked of each node.

    Attributes:
        field: Field of the kind in session.proto.
        may_overflow: Whether NaN and infinity are answers, which the server judges.
        may_round: Whether answers are long vectors, which may cross in half precision.
        additive: Whether answers are sums over examples, which can be weighted.
    """

    field: ClassVar[str]
    may_overflow: ClassVar[bool] = False
    may_round: ClassVar[bool] = False
    additive: ClassVar[bool] = True

    @property
    def in_groups(self) -> bool:
        """Whether the values of a part have a row for each group of its examples."""
        return False

    @property
    def groups_are_labels(self) -> bool:
        """Whether these rows are of labels, where targets are labels."""
        return False

    @abstractmethod
    def shape(self, size: Size) -> tuple[int, ...]:
        """Return the shape of the values of one part."""

    @abstractmethod
    def cost(self, vectors: int, share: float) -> float:
        """Return what one example costs on average, in gradients of one example.

        Args:
            vectors: How many the question carries.
            share: Share of the examples that answer.
        """

    def write(self, message: pb.Question) -> None:
        """Write the kind into a question's header; here, a message without fields."""
        getattr(message, self.field).SetInParent()

    @classmethod
    def read(cls, message: pb.Question) -> Self:
        """Read the kind from a question's header; here, from a message without fields.

        Returns:
            The kind.

        Raises:
            ValueError: The message asks for something unknown.
        """
        del message
        return cls()
