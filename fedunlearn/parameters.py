"""A model's trainable parameters as one flat vector, and the digest that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.errors import NonFiniteError, TaskError


@dataclass(frozen=True)
class ParameterLayout:
    """Where each trainable tensor of a model lies in the flat vector (d,).

    Only parameters that require a gradient count; buffers and frozen parameters stay with the
    model. The order is that of ``model.named_parameters()``.

    Attributes:
        names: Names of the tensors.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> ParameterLayout:
        """Read the layout from a model.

        Returns:
            Names and shapes in the order of the flat vector.

        Raises:
            TaskError: The model has nothing to train.
        """
        named = trainable(model)
        if not named:
            raise TaskError("the model has no parameter that requires a gradient")
        return cls(tuple(named), tuple(tensor.shape for tensor in named.values()))

    @property
    def dimension(self) -> int:
        """Length d of the flat vector."""
        return sum(shape.numel() for shape in self.shapes)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of a vector (d,) under the tensors' names and shapes."""
        parts = vector.split([shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flatten(model: nn.Module) -> Tensor:
    """Copy a model's trainable parameters into a new vector (d,)."""
    return torch.cat([p.detach().reshape(-1) for p in trainable(model).values()])


def initial_weights(make_model: Callable[[], nn.Module], seed: int) -> Tensor:
    """Make a model under a seed and return its weights (d,); torch's own generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return flatten(make_model())


def load(model: nn.Module, vector: Tensor) -> None:
    """Copy a vector (d,) into a model's trainable parameters."""
    parts = ParameterLayout.of(model).unflatten(vector)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(parts[name])


def digest(vector: Tensor) -> bytes:
    """Return the sha256 of a vector's dtype, length and little-endian bytes."""
    array = vector.detach().cpu().contiguous().numpy()
    head = f"{array.dtype.str}:{array.size}:".encode()
    return hashlib.sha256(head + array.tobytes()).digest()


def require_finite(
    vector: Tensor, what: str, remedy: str = "lower the learning rate, or load a model that trained"
) -> None:
    """Refuse a tensor with NaN or infinity.

    Raises:
        NonFiniteError: Naming ``what``, how many entries are not finite, and the remedy.
    """
    bad = int((~torch.isfinite(vector)).sum())
    if bad:
        raise NonFiniteError(
            f"{what}: {bad} of {vector.numel()} numbers are NaN or infinite; {remedy}"
        )
