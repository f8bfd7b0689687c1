"""The empirical risk of one node: sums of losses, gradients and products over its examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from fedunlearn.errors import EmptyNodeError, TaskError
from fedunlearn.parameters import ParameterLayout, flatten, require_finite
from fedunlearn.risk.memory import examples_per_chunk
from fedunlearn.risk.probe import require_deterministic, require_mean_loss
from fedunlearn.risk.products import Curvature, Function, KeptProduct, keep_product
from fedunlearn.risk.task import Examples, Loss


@dataclass(frozen=True)
class _Chunk:
    network: Function  # weights (d,) to outputs
    loss: Function  # outputs to the sum of the losses


class EmpiricalRisk:
    """Sums over a node's examples, as functions of flat weights.

    All results are sums, not means, and hold no regulariser: so they add up over chunks and over
    nodes, and the server alone divides and regularises.

        sum_i loss(f(w, x_i), y_i)
    """

    def __init__(
        self, model: nn.Module, loss: Loss, examples: Examples, *, chunk: int | None = None
    ) -> None:
        """Check that the risk is a function of the weights alone, and wrap it.

        Args:
            model: In the mode in which it is to be differentiated; its weights are not used.
            loss: Mean over examples.
            examples: Inputs (n, ...) and targets (n, ...).
            chunk: Examples processed at once; bounds memory, changes nothing else. Left out, as
                many as stay near the processor.

        Raises:
            EmptyNodeError: There are no examples.
            NotDeterministicError: Dropout or BatchNorm in training mode, or the like.
            NonFiniteError: Inputs or targets hold NaN or infinity.
            TaskError: The loss is not a mean, or inputs and targets differ in number.
        """
        inputs, targets = examples
        if len(inputs) != len(targets):
            raise TaskError(
                f"data: {len(inputs)} inputs but {len(targets)} targets; give one target an input"
            )
        if len(inputs) == 0:
            raise EmptyNodeError("data: no examples; a node needs at least one")
        for name, values in (("inputs", inputs), ("targets", targets)):
            if values.is_floating_point():
                require_finite(values, f"data: {name}", "fill in or drop what is missing")
        require_deterministic(model, loss, examples)
        require_mean_loss(model, loss, examples)
        self.model = model
        self.loss = loss
        self.inputs = inputs
        self.targets = targets
        self.layout = ParameterLayout.of(model)
        self._chunk = chunk or examples_per_chunk(self._probe_loss, inputs)

    def __len__(self) -> int:
        """Return the number of examples n."""
        return len(self.inputs)

    def value(self, weights: Tensor) -> float:
        """Return the sum of the losses at weights (d,)."""
        with torch.no_grad():
            return sum(float(chunk.loss(chunk.network(weights))) for chunk in self._chunks())

    def gradient(self, weights: Tensor) -> Tensor:
        """Return the gradient (d,) of the sum at weights (d,)."""
        total = torch.zeros_like(weights)
        for chunk in self._chunks():
            total += grad(_composed(chunk))(weights)
        return total

    def products(self, weights: Tensor, vectors: Tensor, curvature: Curvature) -> Tensor:
        """Multiply the curvature of the sum at weights (d,) with each row of (k, d), once."""
        return self.curvature(weights, curvature, budget=0).products(vectors)

    def curvature(self, weights: Tensor, curvature: Curvature, *, budget: int) -> RiskCurvature:
        """Return the curvature of the sum at weights (d,), to be multiplied again and again.

        Args:
            weights: Where it is taken.
            curvature: Hessian or GGN.
            budget: Bytes that may be kept between products; 0 keeps nothing.

        Returns:
            The curvature; nothing is computed yet.
        """
        return RiskCurvature(tuple(self._chunks()), weights, curvature, budget)

    def _chunks(self) -> Iterator[_Chunk]:
        for start in range(0, len(self), self._chunk):
            inputs = self.inputs[start : start + self._chunk]
            targets = self.targets[start : start + self._chunk]
            yield _Chunk(self._network(inputs), self._loss(targets))

    def _probe_loss(self, inputs: Tensor) -> Tensor:
        weights = flatten(self.model).requires_grad_()
        return self._loss(self.targets[: len(inputs)])(self._network(inputs)(weights))

    def _network(self, inputs: Tensor) -> Function:
        def network(weights: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.model, self.layout.unflatten(weights), (inputs,))
            return outputs

        return network

    def _loss(self, targets: Tensor) -> Function:
        return lambda outputs: self.loss(outputs, targets) * len(targets)


class RiskCurvature:
    """The curvature of a sum of losses at fixed weights.

    The first product differentiates every chunk once; chunks whose graphs fit into the budget keep
    them. The rest do it anew for each product, one at a time: memory stays under the budget plus
    one chunk.
    """

    def __init__(
        self, chunks: tuple[_Chunk, ...], weights: Tensor, curvature: Curvature, budget: int
    ) -> None:
        """Take the chunks; computes nothing."""
        self._chunks = chunks
        self._weights = weights
        self._curvature = curvature
        self._kept: dict[int, KeptProduct] = {}
        self._left = budget

    def products(self, vectors: Tensor) -> Tensor:
        """Multiply with each row of (k, d)."""
        total = torch.zeros_like(vectors)
        for number, chunk in enumerate(self._chunks):
            product = self._kept.get(number)
            if product is None:
                product = keep_product(self._curvature, chunk.network, chunk.loss, self._weights)
                if product.nbytes <= self._left:
                    self._kept[number] = product
                    self._left -= product.nbytes
            total += product.apply(vectors)
        return total


def _composed(chunk: _Chunk) -> Function:
    return lambda weights: chunk.loss(chunk.network(weights))
