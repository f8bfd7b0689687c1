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
class TaskWithHeldOut(Task, Protocol):
    """A Task whose nodes hold examples that they do not train on."""

    def held_out(self, node: int) -> ReadExamples | None:
        """Return what one node evaluates on; None where it has none."""
        ...


@runtime_checkable
class TaskWithTest(Task, Protocol):
    """A Task that also holds examples which no node trains on."""

    def test_data(self) -> Examples:
        """Return inputs and targets for testing."""
        ...
