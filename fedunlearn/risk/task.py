"""What a user brings: a model, data and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from fedunlearn.risk.examples import Examples as ReadExamples

Loss = Callable[[Tensor, Tensor], Tensor]
# The plain form: inputs (n, ...) and targets (n, ...).
Examples = tuple[Tensor, Tensor]


class Task(Protocol):
    """A federated learning task.

    A Task crosses process borders: keep large data out of its attributes and load it in ``data``.
    """

    @property
    def loss(self) -> Loss:
        """Map outputs and targets to the mean loss over the examples, a scalar."""
        ...

    def model(self) -> nn.Module:
        """Return a new model, initialised from torch's global generator."""
        ...

    def data(self, node: int) -> Examples | ReadExamples:
        """Return the examples of one node; the same at every call.

        Inputs (n, ...) and targets (n, ...), or what is read batch by batch.
        """
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """A Task whose nodes hold some examples out of training, to evaluate models on."""

    def held_out(self, node: int) -> Examples | ReadExamples | None:
        """Return what one node evaluates on and does not train on; None where it has none."""
        ...
