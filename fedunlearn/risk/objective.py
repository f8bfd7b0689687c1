"""The empirical risk of one node: sums of losses, gradients and products over its examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fedunlearn.errors import EmptyNodeError
from fedunlearn.parameters import flatten
from fedunlearn.risk.causes import explained
from fedunlearn.risk.classified import classified
from fedunlearn.risk.differentiation import require_differentiable
from fedunlearn.risk.examples import (
    PROBE_EXAMPLES,
    Batch,
    Examples,
    Inputs,
    Targets,
    as_examples,
    batch_for,
    few,
)
from fedunlearn.risk.layers import require_known_layers
from fedunlearn.risk.memory import examples_per_chunk
from fedunlearn.risk.network import (
    FlatNetwork,
    gradient_of,
    twice_differentiable,
)
from fedunlearn.risk.probe import require_deterministic, require_ggn
from fedunlearn.risk.products import Curvature, Function, KeptProduct, keep_product
from fedunlearn.risk.separate import require_separate_examples
from fedunlearn.risk.task import Loss
from fedunlearn.trees import map_tensors


@dataclass(frozen=True)
class _Chunk:
    network: Function  # weights (d,) to outputs
    loss: Function  # outputs to the sum of the losses
    targets: Targets
    places: Tensor


class EmpiricalRisk:
    """Sums over a node's examples, as functions of flat weights.

    All results are sums, not means, and hold no regulariser: so they add up over chunks and over
    nodes, and the server alone divides and regularises.

        sum_i loss(f(w, x_i), y_i)

    Vectors may lie on any device; the model computes where its parameters are, and results come
    back to where the weights lie, in their dtype.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        examples: Examples | tuple[Tensor, Tensor],
        *,
        chunk: int | None = None,
    ) -> None:
        """Check that the risk is a function of the weights alone, and wrap it.

        Args:
            model: Model in the mode in which it is differentiated; its weights are not used.
            loss: Mean over examples.
            examples: Read batch by batch; or inputs (n, ...) and targets (n, ...).
            chunk: Examples processed at once; bounds memory, changes nothing else. Left out, as
                many as stay near the processor.

        Raises:
            EmptyNodeError: There are no examples.
            NotDeterministicError: Dropout or BatchNorm in training mode, or the like.
            NonFiniteError: Inputs or targets hold NaN or infinity.
            TaskError: The loss is not a mean, or inputs and targets differ in number.
        """
        examples = as_examples(examples)
        if len(examples) == 0:
            raise EmptyNodeError("data: no examples; a node needs at least one")
        examples.require_finite()
        require_known_layers(model)
        some = few(examples)
        with explained(model, loss, some):
            require_deterministic(model, loss, some)
            require_separate_examples(model, loss, some)
        self.model = model
        self.loss = loss
        self.examples = examples
        self._few = some
        self._flat = FlatNetwork(model)
        self.layout = self._flat.layout
        with explained(model, loss, some):
            self._chunk = chunk or self._fitting_chunk()
        self._places = examples.chunks(self._chunk)

    def __len__(self) -> int:
        """Return the number of examples n."""
        return len(self.examples)

    @property
    def inputs(self) -> Inputs:
        """The inputs of all examples, put together."""
        return self.examples.batch(torch.arange(len(self)))[0]

    @property
    def targets(self) -> Targets:
        """The targets of all examples, put together."""
        return self.examples.batch(torch.arange(len(self)))[1]

    def value(self, weights: Tensor) -> float:
        """Return the sum of the losses at weights (d,)."""
        weights = weights.to(self.layout.device)
        with torch.no_grad(), twice_differentiable(self.model):
            return sum(float(chunk.loss(chunk.network(weights))) for chunk in self._chunks())

    def evaluation(self, weights: Tensor) -> Tensor:
        """Return how well the model does at weights (d,), as sums (4,), float64.

        Returns:
            Sum of losses, examples that are classified right, examples that have a class to compare
            with, examples.
        """
        weights = weights.to(self.layout.device)
        total = torch.zeros(4, dtype=torch.float64)
        with torch.no_grad(), twice_differentiable(self.model):
            for chunk in self._chunks():
                outputs = chunk.network(weights)
                targets = chunk.targets
                # Labels may take a pass over the data: only where targets are none themselves.
                if not isinstance(targets, Tensor) and (labels := self.examples.labels) is not None:
                    targets = labels[chunk.places].to(outputs.device)
                right, compared = classified(outputs, targets)
                sums = [float(chunk.loss(outputs)), right, compared, len(chunk.places)]
                total += torch.tensor(sums, dtype=torch.float64)
        return total

    def gradient(self, weights: Tensor) -> Tensor:
        """Return the gradient (d,) of the sum at weights (d,)."""
        point = weights.to(self.layout.device)
        total = torch.zeros_like(point)

        def add_all() -> None:
            for chunk in self._chunks():
                total.add_(gradient_of(_composed(chunk), point))

        self._flat.holding(point, add_all)
        return total.to(weights.device)

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
            The curvature; nothing is computed yet but a check of the loss.

        Raises:
            NoCurvatureError: GGN was asked for and does not exist for this loss or these outputs.
        """
        self.require_differentiable()
        point = weights.to(self.layout.device)
        if curvature is Curvature.GGN:
            inputs, targets = batch_for(self.model, self._few)
            with torch.no_grad(), twice_differentiable(self.model):
                outputs = self._network(inputs)(point)
            require_ggn(self.loss, outputs, targets)
        return RiskCurvature(self._flat, self._chunk_makers(), point, curvature, budget)

    def require_differentiable(self) -> None:
        """Try one gradient and one product on a few examples; see ``require_differentiable``."""
        require_differentiable(self.model, self.loss, self._few)

    def _take(self, places: Tensor) -> Batch:
        device = self.layout.device
        inputs, targets = self.examples.batch(places)
        return (
            map_tensors(lambda one: one.to(device), inputs),
            map_tensors(lambda one: one.to(device), targets),
        )

    def _made(self, places: Tensor) -> _Chunk:
        inputs, targets = self._take(places)
        return _Chunk(self._network(inputs), self._loss(targets, len(places)), targets, places)

    def _chunk_makers(self) -> tuple[Callable[[], _Chunk], ...]:
        """Return what makes each chunk, so that only one at a time is on the model's device."""
        return tuple(partial(self._made, places) for places in self._places)

    def _chunks(self) -> Iterator[_Chunk]:
        for make in self._chunk_makers():
            yield make()

    def _fitting_chunk(self) -> int:
        weights = flatten(self.model).to(self.layout.device).requires_grad_()
        places = self.examples.longest(PROBE_EXAMPLES)
        inputs, targets = self._take(places)

        def loss_of(few: Inputs) -> Tensor:
            return self._loss(targets, len(places))(self._network(few)(weights))

        with twice_differentiable(self.model):
            return examples_per_chunk(loss_of, inputs, weights, len(places))

    def _network(self, inputs: Inputs) -> Function:
        return lambda weights: self._flat.outputs(weights, inputs)

    def _loss(self, targets: Targets, count: int) -> Function:
        return lambda outputs: self.loss(outputs, targets) * count


class RiskCurvature:
    """The curvature of a sum of losses at fixed weights.

    The first product differentiates every chunk once; chunks whose graphs fit into the budget keep
    them. The rest do it anew for each product, one at a time: memory stays under the budget plus
    one chunk.
    """

    def __init__(
        self,
        flat: FlatNetwork,
        makers: tuple[Callable[[], _Chunk], ...],
        weights: Tensor,
        curvature: Curvature,
        budget: int,
    ) -> None:
        """Take what makes the chunks; computes nothing."""
        self._flat = flat
        self._makers = makers
        self._weights = weights
        self._curvature = curvature
        self._kept: dict[int, KeptProduct] = {}
        self._left = budget

    def products(self, vectors: Tensor) -> Tensor:
        """Multiply with each row of (k, d); the result lies where the rows do."""
        rows = vectors.to(self._weights.device)
        total = torch.zeros_like(rows)

        def add_all() -> None:
            for number, make in enumerate(self._makers):
                total.add_(self._product(number, make).apply(rows))

        self._flat.holding(self._weights, add_all)
        return total.to(vectors.device)

    def _product(self, number: int, make: Callable[[], _Chunk]) -> KeptProduct:
        """Return what multiplies by the curvature of one chunk, kept where the budget allows."""
        if number in self._kept:
            return self._kept[number]
        chunk = make()
        product = keep_product(self._curvature, chunk.network, chunk.loss, self._weights)
        if product.nbytes <= self._left:
            self._kept[number] = product
            self._left -= product.nbytes
        return product


def _composed(chunk: _Chunk) -> Function:
    return lambda weights: chunk.loss(chunk.network(weights))
