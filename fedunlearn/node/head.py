"""What a node answers about a linear layer that is all that its network trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedunlearn.errors import TaskError
from fedunlearn.questions.heads import Head, HeadDerivatives, HeadMoments
from fedunlearn.risk.examples import Examples, few
from fedunlearn.risk.head_sums import derivatives, moments
from fedunlearn.risk.linear_head import HeadLoss, LinearHead, loss_factor, target_rows
from fedunlearn.risk.task import Loss

# Lengths of inputs that count as 1, for networks that scale them in float32.
UNIT = 1.0 + 1e-6


class NodeHead:
    """Sums over a node's examples in the weights of its linear head.

    The layer's inputs are computed once for each example and held while memory allows, since the
    frozen part costs far more than the sums.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, examples: Examples, indices: Tensor, memory: int
    ) -> None:
        """Check the network on a few examples.

        Args:
            model: The network.
            loss: The Task's loss.
            examples: The node's examples, removed ones included.
            indices: The places (m,) of some that were not removed.
            memory: Bytes that may be held.

        Raises:
            TaskError: The network is not a frozen part with one trained linear layer.
        """
        self._layer = LinearHead(model)
        self._few = few(examples.at(indices))
        self._layer.require_linear(self._few)
        self._loss = loss
        self._examples = examples
        self._factors: dict[HeadLoss, float] = {}
        self._rows: Tensor | None = None
        self._known = torch.zeros(len(examples), dtype=torch.bool)
        if len(examples) * self._layer.inputs * 8 <= memory:
            self._rows = torch.empty(len(examples), self._layer.inputs, dtype=torch.float64)

    def moments(self, ask: HeadMoments, groups: list[Tensor]) -> Tensor:
        """Return the moments (groups, m) of groups of examples, by their places."""
        factor = self._factor(ask.head)
        return torch.stack(
            [moments(ask.head.loss, factor, *self._of(ask.head, group)) for group in groups]
        )

    def derivatives(self, ask: HeadDerivatives, point: Tensor, indices: Tensor) -> Tensor:
        """Return loss, gradient and curvature at weights (d,) over the examples at some places."""
        factor = self._factor(ask.head)
        weights = point.double().reshape(ask.head.outputs, -1)
        if weights.shape[1] != self._layer.inputs:
            raise TaskError(
                f"model: its linear head has {self._layer.inputs} inputs, the question's "
                f"{weights.shape[1]}; server and nodes need the same Task"
            )
        rows, targets = self._of(ask.head, indices)
        return derivatives(ask.head.loss, factor, rows, targets, weights, curvature=ask.curvature)

    def _of(self, head: Head, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's inputs and the targets of the examples at some places."""
        rows = self._features(indices)
        if head.unit and float(torch.linalg.vector_norm(rows, dim=1).max()) > UNIT:
            raise TaskError(
                "model: inputs of its linear head are longer than 1, which certified removal "
                "excludes; scale them in the model, as fedunlearn.UnitBall() does before a "
                "nn.Linear without bias"
            )
        targets = self._examples.at(indices).batch(torch.arange(len(indices)))[1]
        if not isinstance(targets, Tensor):
            raise TaskError("data: the targets of a linear head are one tensor, (n,) or (n, k)")
        return rows, target_rows(targets, head.outputs).double()

    def _features(self, indices: Tensor) -> Tensor:
        if self._rows is None:
            return self._layer.features(self._examples, indices)
        missing = indices[~self._known[indices]]
        if len(missing):
            self._rows[missing] = self._layer.features(self._examples, missing)
            self._known[missing] = True
        return self._rows[indices]

    def _factor(self, head: Head) -> float:
        """Return the factor of the loss, after comparing the layer with the server's.

        Raises:
            TaskError: The layer or the loss is another one.
        """
        own = self._layer
        if (own.outputs, own.bias) != (head.outputs, head.bias):
            raise TaskError(
                f"model: its linear head has {own.outputs} outputs, the question's {head.outputs}; "
                "server and nodes need the same Task"
            )
        if head.loss not in self._factors:
            targets = self._few.batch(torch.arange(len(self._few)))[1]
            self._factors[head.loss] = loss_factor(head.loss, self._loss, targets, own.outputs)
        factor = self._factors[head.loss]
        if head.unit and factor > 1.0 + 1e-9:
            raise TaskError(
                f"loss: is {factor:g} times the logistic loss of each class, summed, mean over the "
                "examples; certified removal needs at most 1 of it"
            )
        return factor
