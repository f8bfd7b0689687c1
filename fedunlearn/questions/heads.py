"""The kinds of questions about a linear layer that is all that a network trains."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from fedunlearn.questions.ask import Ask, Size
from fedunlearn.risk.head_sums import derivatives_size, moments_size
from fedunlearn.risk.linear_head import HeadLoss
from fedunlearn.rpc.v1 import session_pb2 as pb

_LOSSES = {
    HeadLoss.SQUARED: pb.HEAD_LOSS_SQUARED,
    HeadLoss.CROSS_ENTROPY: pb.HEAD_LOSS_CROSS_ENTROPY,
    HeadLoss.ONE_VS_REST: pb.HEAD_LOSS_ONE_VS_REST,
}
_LOSSES_BACK = {number: loss for loss, number in _LOSSES.items()}


@dataclass(frozen=True)
class Head:
    """The layer as the server knows it; a node whose network differs refuses to answer.

    Attributes:
        loss: The loss of its outputs.
        outputs: Number of outputs.
        bias: Whether it has a bias, which counts as the last input of each example, always 1.
        unit: Whether a node answers only if no example's vector of inputs is longer than 1.
    """

    loss: HeadLoss
    outputs: int
    bias: bool
    unit: bool = False

    def inputs(self, dimension: int) -> int:
        """Return the number of inputs of the layer, the bias among them, for d weights."""
        return dimension // self.outputs

    def message(self) -> pb.Head:
        """Return it as a message."""
        return pb.Head(
            loss=_LOSSES[self.loss], outputs=self.outputs, bias=self.bias, unit=self.unit
        )

    @classmethod
    def of(cls, message: pb.Head) -> Head:
        """Read it from its message.

        Returns:
            The layer.

        Raises:
            ValueError: The loss is unknown, or there are no outputs.
        """
        if message.loss not in _LOSSES_BACK or not message.outputs:
            raise ValueError("question about a linear head of an unknown kind")
        loss = _LOSSES_BACK[message.loss]
        return cls(loss, message.outputs, message.bias, message.unit)


@dataclass(frozen=True)
class HeadMoments(Ask):
    """Ask for second moments of the layer's inputs in each group of examples: (groups, m).

    A row holds the number of examples and the upper triangle of X'X; with the squared loss also
    X'Y. See risk/head_sums.py.

    Attributes:
        head: The layer.
        by_label: Whether groups are labels, as for GroupGradients.
    """

    head: Head
    by_label: bool

    field = "head_moments"
    additive = False  # the minimiser counts every example once

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
        inputs = self.head.inputs(size.dimension)
        return (size.groups, moments_size(self.head.loss, inputs, self.head.outputs))

    @override
    def cost(self, vectors: int, share: float) -> float:
        return 1.0

    @override
    def write(self, message: pb.Question) -> None:
        message.head_moments.head.CopyFrom(self.head.message())
        message.head_moments.by_label = self.by_label

    @classmethod
    @override
    def read(cls, message: pb.Question) -> HeadMoments:
        return cls(Head.of(message.head_moments.head), message.head_moments.by_label)


@dataclass(frozen=True)
class HeadDerivatives(Ask):
    """Ask for sums of the loss, its gradient and its curvature in the layer's weights: (m,).

    The point holds the layer's weights (outputs, inputs) by rows. See risk/head_sums.py.

    Attributes:
        head: The layer.
        curvature: Whether the curvature is asked for.
    """

    head: Head
    curvature: bool = True

    field = "head_derivatives"
    additive = False  # the minimiser counts every example once

    @override
    def shape(self, size: Size) -> tuple[int, ...]:
        inputs = self.head.inputs(size.dimension)
        return (
            derivatives_size(self.head.loss, inputs, self.head.outputs, curvature=self.curvature),
        )

    @override
    def cost(self, vectors: int, share: float) -> float:
        return share

    @override
    def write(self, message: pb.Question) -> None:
        message.head_derivatives.head.CopyFrom(self.head.message())
        message.head_derivatives.without_curvature = not self.curvature

    @classmethod
    @override
    def read(cls, message: pb.Question) -> HeadDerivatives:
        asked = message.head_derivatives
        return cls(Head.of(asked.head), not asked.without_curvature)
