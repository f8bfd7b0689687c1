"""Examples that are read batch by batch; an example's place in the data is the record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedunlearn.errors import TaskError
from fedunlearn.parameters import ParameterLayout, require_finite
from fedunlearn.trees import Tree, map_tensors, paired_records

# A tensor (n, ...), or tensors in nested tuples, lists and dictionaries.
Inputs = Tree
Targets = Tree
Batch = tuple[Inputs, Targets]
Form = tuple[object, ...]

PROBE_EXAMPLES = 16


class Examples(ABC):
    """What a node holds, read batch by batch."""

    @property
    def augmented(self) -> bool:
        """Whether items are drawn at random when they are read; each is fixed to one draw."""
        return False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples n."""

    @abstractmethod
    def batch(self, places: Tensor) -> Batch:
        """Return the inputs and the targets of some examples, put together.

        Args:
            places: Whole numbers (m,) in 0..n-1, in any order; one may come twice.

        Returns:
            Inputs and targets, each a tensor (m, ...) or a tree of tensors.
        """

    @abstractmethod
    def at(self, places: Tensor) -> Examples:
        """Return the examples at some places (m,), in that order."""

    @property
    @abstractmethod
    def labels(self) -> Tensor | None:
        """The label of each example, whole numbers (n,); None where the targets are no labels."""

    @abstractmethod
    def record_bytes(self) -> Iterator[bytes]:
        """Yield the bytes of each example that a node commits to, in order."""

    @abstractmethod
    def form(self) -> Form:
        """Return what all batches have in common: structure, dtypes, and shapes of an example."""

    def chunks(self, size: int) -> list[Tensor]:
        """Cut the examples into what is computed together.

        Args:
            size: The largest number of examples in one chunk.

        Returns:
            The places of each chunk; in order, where nothing is gained by another.
        """
        return list(torch.arange(len(self)).split(size))

    def longest(self, count: int) -> Tensor:
        """Return the places of some examples that need the most memory."""
        return torch.arange(min(count, len(self)))

    def held(self) -> Examples:
        """Return the same examples in memory, for those that are read again and again."""
        return self

    @abstractmethod
    def require_finite(self) -> None:
        """Refuse NaN and infinity; where examples are read from elsewhere, batches do so.

        Raises:
            NonFiniteError: There are some.
        """


class TensorExamples(Examples):
    """Two tensors in memory.

    Attributes:
        inputs: Shape (n, ...).
        targets: Shape (n, ...).
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        """Take the tensors; nothing is copied.

        Raises:
            TaskError: Inputs and targets differ in length.
        """
        if len(inputs) != len(targets):
            raise TaskError(
                f"data: {len(inputs)} inputs but {len(targets)} targets; give one target an input"
            )
        self.inputs = inputs
        self.targets = targets

    @override
    def __len__(self) -> int:
        return len(self.inputs)

    @override
    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        if consecutive(places):
            start = int(places[0])
            chosen = slice(start, start + len(places))
            return self.inputs[chosen], self.targets[chosen]
        return self.inputs[places], self.targets[places]

    @override
    def at(self, places: Tensor) -> TensorExamples:
        if len(places) == len(self) and consecutive(places):
            return self
        return TensorExamples(self.inputs[places], self.targets[places])

    @property
    @override
    def labels(self) -> Tensor | None:
        return self.targets if are_labels(self.targets) else None

    @override
    def record_bytes(self) -> Iterator[bytes]:
        return paired_records(self.inputs, self.targets)

    @override
    def form(self) -> Form:
        inputs, targets = self.inputs, self.targets
        return inputs.dtype, inputs.shape[1:], targets.dtype, targets.shape[1:]

    @override
    def require_finite(self) -> None:
        require_finite_batch(self.inputs, self.targets)


def as_examples(examples: Examples | tuple[Tensor, Tensor]) -> Examples:
    """Return examples as they are; of inputs (n, ...) and targets (n, ...) make some.

    Raises:
        TaskError: Inputs and targets differ in number.
    """
    if isinstance(examples, Examples):
        return examples
    return TensorExamples(*examples)


def few(examples: Examples) -> Examples:
    """Take some examples from all over the data, which may be in the order of its classes."""
    step = max(1, len(examples) // PROBE_EXAMPLES)
    return examples.at(torch.arange(0, len(examples), step)[:PROBE_EXAMPLES]).held()


def batch_for(model: nn.Module, examples: Examples, places: Tensor | None = None) -> Batch:
    """Return a batch where the model takes it.

    Args:
        model: Model whose device is used.
        examples: Read at the places.
        places: Whole numbers (m,); None for all.
    """
    device = ParameterLayout.of(model).device
    batch = examples.batch(torch.arange(len(examples)) if places is None else places)
    inputs, targets = (map_tensors(lambda one: one.to(device), tree) for tree in batch)
    return inputs, targets


def consecutive(places: Tensor) -> bool:
    """Return whether places (m,) follow each other, m > 0, so that a slice has them."""
    count = len(places)
    if count == 0 or int(places[-1]) - int(places[0]) != count - 1:
        return False
    return count == 1 or bool((places[1:] - places[:-1] == 1).all())


def are_labels(targets: Any) -> bool:
    """Return whether targets are one whole number an example."""
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def require_finite_batch(inputs: Inputs, targets: Targets) -> None:
    """Refuse inputs or targets with NaN or infinity.

    Raises:
        NonFiniteError: There are some.
    """

    def check(name: str, tree: Tree) -> None:
        def one(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                require_finite(tensor, f"data: {name}", "fill in or drop what is missing")
            return tensor

        map_tensors(one, tree)

    check("inputs", inputs)
    check("targets", targets)
