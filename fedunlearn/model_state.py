"""Tensors of a model that are sent besides its trainable weights: buffers, frozen parameters.

They are sent as float32 or float64, which hold every narrower float and every whole number up to
2^53 exactly, and are converted to the dtype of the model's own tensors where they are loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedunlearn.errors import InputError, ModelDiffersError

LARGEST_WHOLE = 2**53
WIDE = (torch.float32, torch.float64)


class ModelState(Mapping[str, Tensor]):
    """Immutable tensors by name in ``state_dict``, in the form in which they are sent.

    Attributes:
        digest: The sha256 of names, dtypes, shapes and bytes; empty where there are no tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Convert tensors to the form in which they are sent.

        Args:
            tensors: Any tensors; those that have this form are not copied.

        Raises:
            InputError: A tensor cannot be sent exactly.
        """
        self._tensors = {name: _crossing(name, (tensors or {})[name]) for name in tensors or ()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ModelState:
        """Return tensors in the form in which they are sent, unchanged where they have it."""
        return tensors if isinstance(tensors, ModelState) else cls(tensors)

    @override
    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    @override
    def __len__(self) -> int:
        return len(self._tensors)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelState) and self.digest == other.digest

    @override
    def __hash__(self) -> int:
        return hash(self.digest)

    @override
    def __repr__(self) -> str:
        return f"ModelState({', '.join(self)})"

    @property
    def nbytes(self) -> int:
        """The bytes of the tensors when they are sent."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @cached_property
    def digest(self) -> bytes:
        """The sha256 of names, dtypes, shapes and bytes; empty where there are no tensors."""
        if not self._tensors:
            return b""
        named = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            named.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}:".encode())
            named.update(tensor.numpy().tobytes())
        return named.digest()

    def load(self, model: nn.Module) -> None:
        """Copy the tensors into a model.

        Raises:
            ModelDiffersError: The model has no tensor of that name, or one of another shape.
        """
        own = model.state_dict()
        for name, tensor in self._tensors.items():
            if not isinstance(own.get(name), Tensor):
                raise ModelDiffersError(
                    f"model: has no tensor {name!r}, which belongs to the trained model; let every "
                    "node build the model that was trained"
                )
            if own[name].shape != tensor.shape:
                raise ModelDiffersError(
                    f"model: tensor {name!r} has shape {tuple(own[name].shape)}, that of the "
                    f"trained model {tuple(tensor.shape)}; let every node build the model that "
                    "was trained"
                )
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                own[name].copy_(tensor)


def _crossing(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.is_complex() or tensor.layout != torch.strided:
        raise InputError(
            f"state: {name!r} is not a plain tensor of real numbers, and cannot be sent to nodes"
        )
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype in WIDE:
        return plain
    if plain.is_floating_point():
        return plain.to(torch.float32)
    if plain.numel() and plain.dtype == torch.int64 and int(plain.abs().max()) > LARGEST_WHOLE:
        raise InputError(f"state: {name!r} holds whole numbers above 2^53; store them otherwise")
    return plain.to(torch.float64)
