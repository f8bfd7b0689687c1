"""A model's trainable parameters as one flat vector, and the digest that identifies it."""

from __future__ import annotations

import functools
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedunlearn.errors import NonFiniteError, TaskError
from fedunlearn.vectors import not_finite


@dataclass(frozen=True)
class ParameterLayout:
    """The position of each trainable tensor of a model in the flat vector (d,).

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
        """The device of the model's first tensor, on which the model takes its inputs."""
        return self.devices[0]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector (d,) as the tensors, by name.

        The tensors are views of the vector where dtype and device agree, otherwise differentiable
        copies.

        Raises:
            TaskError: The vector is of another length.
        """
        if vector.shape != (self.dimension,):
            raise TaskError(
                f"weights: have shape {tuple(vector.shape)}, but the model has {self.dimension} "
                "trainable parameters; give weights of this model, as flatten(model) returns them"
            )
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


def flatten_state(model: nn.Module, state: Mapping[str, Tensor]) -> Tensor:
    """Return the trainable parameters of a state_dict as a vector (d,), matched by name.

    Args:
        model: The model, which determines order and names; its own numbers are not used.
        state: A state_dict of the model, in any order.

    Returns:
        The vector, in main memory.

    Raises:
        TaskError: The state_dict is of another model; the first tensor that differs is named.
    """
    layout = ParameterLayout.of(model)
    alike = _names_of(model)
    parts = []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        found = [state[one] for one in alike[name] if one in state]
        if not found:
            raise TaskError(
                f"state_dict: has no tensor {name!r}, which the model trains; give the state_dict "
                "of this model"
            )
        if found[0].shape != shape:
            raise TaskError(
                f"state_dict: tensor {name!r} has shape {tuple(found[0].shape)}, the model's "
                f"{tuple(shape)}; give the state_dict of this model"
            )
        parts.append(found[0].detach().reshape(-1).to("cpu", layout.dtype))
    known = set(model.state_dict()) | set(alike)
    if unknown := [name for name in state if name not in known]:
        raise TaskError(
            f"state_dict: holds {unknown[0]!r}, which the model does not have; give the state_dict "
            "of this model"
        )
    return torch.cat(parts)


def _names_of(model: nn.Module) -> dict[str, list[str]]:
    """Return all names of each trainable parameter, by its first; tied parameters have several."""
    first = {id(p): name for name, p in trainable(model).items()}
    names: dict[str, list[str]] = {name: [name] for name in first.values()}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in first and name != first[id(p)]:
            names[first[id(p)]].append(name)
    return names


def initial_weights(make_model: Callable[[], nn.Module], seed: int) -> Tensor:
    """Return the weights (d,) of a model made under a seed, and restore the generators."""
    with seeded(seed):
        return flatten(make_model())


# The global generators belong to the process: one thread at a time seeds them or watches them.
GENERATORS = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random generators of torch, NumPy and Python for a block, then restore them.

    Other threads that seed them wait, so that nodes in threads of one process build the same model.

    Args:
        seed: The seed, at least 0.

    Yields:
        Nothing.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with GENERATORS:
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                random.seed(seed)
                yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


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
    """Check that a tensor has neither NaN nor infinity.

    Raises:
        NonFiniteError: Some entries are not finite; the message names ``what``, their number and
            the remedy.
    """
    bad = not_finite(vector)
    if bad:
        raise NonFiniteError(
            f"{what}: {bad} of {vector.numel()} numbers are NaN or infinite; {remedy}"
        )
