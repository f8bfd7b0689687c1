"""A model's trainable parameters as one flat vector, and the digest that names it."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedunlearn.errors import NonFiniteError, TaskError
from fedunlearn.vectors import not_finite


@dataclass(frozen=True)
class ParameterLayout:
    """Where each trainable tensor of a model lies in the flat vector (d,).

    Only parameters that require a gradient count; buffers and frozen parameters stay with the
    model. The order is that of ``model.named_parameters()``. The tensors may differ in dtype and
    device; the vector has one of each.

    Attributes:
        names: Names of the tensors.
        shapes: Their shapes.
        dtypes: Their dtypes.
        devices: Their devices.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]

    @classmethod
    def of(cls, model: nn.Module) -> ParameterLayout:
        """Read the layout from a model.

        Returns:
            Names, shapes, dtypes and devices in the order of the flat vector.

        Raises:
            TaskError: The model has nothing to train.
        """
        named = trainable(model)
        if not named:
            raise TaskError("the model has no parameter that requires a gradient")
        tensors = named.values()
        return cls(
            names=tuple(named),
            shapes=tuple(tensor.shape for tensor in tensors),
            dtypes=tuple(tensor.dtype for tensor in tensors),
            devices=tuple(tensor.device for tensor in tensors),
        )

    @property
    def dimension(self) -> int:
        """Length d of the flat vector."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the flat vector: the widest of the tensors', float32 at least."""
        return functools.reduce(torch.promote_types, self.dtypes, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs: the device of its first tensor."""
        return self.devices[0]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector (d,) as the tensors, by name.

        Views of the vector where dtype and device agree, differentiable copies elsewhere.
        """
        parts = vector.split([shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape).to(device=device, dtype=dtype)
            for name, shape, dtype, device, part in zip(
                self.names, self.shapes, self.dtypes, self.devices, parts, strict=True
            )
        }


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flatten(model: nn.Module) -> Tensor:
    """Copy a model's trainable parameters into a new vector (d,) in main memory."""
    dtype = ParameterLayout.of(model).dtype
    tensors = trainable(model).values()
    return torch.cat([p.detach().reshape(-1).to("cpu", dtype) for p in tensors])


def initial_weights(make_model: Callable[[], nn.Module], seed: int) -> Tensor:
    """Make a model under a seed and return its weights (d,); generators are left as they were."""
    with seeded(seed):
        return flatten(make_model())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random generators of torch, NumPy and Python for a block, and put them back.

    Args:
        seed: Not negative.

    Yields:
        Nothing.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    kept, kept_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(kept)
        random.setstate(kept_python)


def load(model: nn.Module, vector: Tensor) -> None:
    """Copy a vector (d,) into a model's trainable parameters."""
    parts = ParameterLayout.of(model).unflatten(vector)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(parts[name])


def digest(vector: Tensor) -> bytes:
    """Return the sha256 of a vector's dtype, length and little-endian bytes."""
    array = vector.detach().cpu().contiguous().numpy()
    named = hashlib.sha256(f"{array.dtype.str}:{array.size}:".encode())
    named.update(array.view(np.uint8).data)
    return named.digest()


def require_finite(
    vector: Tensor, what: str, remedy: str = "lower the learning rate, or load a model that trained"
) -> None:
    """Refuse a tensor with NaN or infinity.

    Raises:
        NonFiniteError: Naming ``what``, how many entries are not finite, and the remedy.
    """
    bad = not_finite(vector)
    if bad:
        raise NonFiniteError(
            f"{what}: {bad} of {vector.numel()} numbers are NaN or infinite; {remedy}"
        )
