"""The network on which nodes compute: built in the same way everywhere, and described.

Trainable parameters are sent. The rest, layers, frozen parameters and buffers, results from each
node's own call of the Task's ``model``, and must be the same on every node, unless the server has
trained values of it to send; see ``state_transfer.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.errors import FedunlearnError, ModelDiffersError, OwnCodeError, TaskError
from fedunlearn.parameters import seeded

# Seed under which every model is built. Weights do not depend on it, since the server sends them.
BUILD_SEED = 0
PART_BYTES = 8
MEAN, VAR = "running_mean", "running_var"
REMEDY = (
    "make it a parameter that requires a gradient, load it from one file, or draw it under a seed "
    "of its own in model(): with torch.random.fork_rng(): torch.manual_seed(0)"
)


@dataclass(frozen=True)
class NetworkDigest:
    """Digests of the parts of a network that must be the same on every node.

    Attributes:
        parts: A short digest of each part, by its name in messages: a layer (class and settings), a
            trainable parameter (shape and dtype), a frozen parameter or a buffer (also its
            numbers).
    """

    parts: Mapping[str, bytes]

    @classmethod
    def of(cls, model: nn.Module) -> NetworkDigest:
        """Describe a model, including buffers that are not saved."""
        parts: dict[str, bytes] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            settings = module.extra_repr() if type(module).__module__.startswith("torch.") else ""
            kind = f"{type(module).__qualname__}({settings}), {module.training}"
            parts[f"layer {name!r}" if name else "the model's class"] = _short(kind.encode())
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                parts[f"parameter {name!r}"] = _short(_form(parameter))
            else:
                parts[f"frozen parameter {name!r}"] = _short(_form(parameter), parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            parts[f"buffer {name!r}"] = _short(_form(buffer), buffer)
        return cls(parts)

    def without(self, tensors: Collection[str]) -> NetworkDigest:
        """Return the digest without the numbers of some frozen parameters and buffers."""
        left_out = {words for name in tensors for words in fixed_parts(name)}
        return NetworkDigest({n: part for n, part in self.parts.items() if n not in left_out})

    @property
    def digest(self) -> bytes:
        """The sha256 of all parts."""
        named = hashlib.sha256()
        for name, part in sorted(self.parts.items()):
            named.update(len(name.encode()).to_bytes(4, "little") + name.encode() + part)
        return named.digest()

    def difference(self, other: NetworkDigest) -> str | None:
        """Return a description of the first difference, for a message; None where there is none.

        Numbers of frozen parameters and buffers come last, because they differ wherever a layer
        does.
        """
        for name, part in self.parts.items():
            if name not in other.parts:
                return f"{name} is missing"
            if other.parts[name] != part:
                return f"{name} differs"
        for name in other.parts:
            if name not in self.parts:
                return f"{name} is added"
        for own, found in zip(self.parameters, other.parameters, strict=True):
            if own != found:
                return f"parameter {found!r} comes where {own!r} should, in another order of layers"
        return None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in their order in the weights (d,)."""
        start = "parameter "
        return tuple(name[len(start) + 1 : -1] for name in self.parts if name.startswith(start))


def fixed_parts(name: str) -> tuple[str, str]:
    """Return the names of the parts that hold the numbers of a tensor that is not trained."""
    return f"frozen parameter {name!r}", f"buffer {name!r}"


def tensor_digest(tensor: Tensor) -> bytes:
    """Return the short digest of the shape, the dtype and the numbers of a tensor."""
    return _short(_form(tensor), tensor)


def fixed_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the untrained tensors of a model: frozen parameters, and buffers that are saved.

    Args:
        model: The model, as it was built.

    Returns:
        The tensors by name in ``model.state_dict()``.
    """
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in trained}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if name not in names and isinstance(tensor, Tensor)
    }


def build_model(make: Callable[[], nn.Module], *, seed: int = BUILD_SEED) -> nn.Module:
    """Build a model as every node does, without changing the state of random generators.

    Args:
        make: The function ``model`` of the Task.
        seed: Seed of the generators of torch, NumPy and Python.

    Returns:
        The model.

    Raises:
        TaskError: The function returns something else.
        FedunlearnError: The Task's code raised it.
        OwnCodeError: The Task's code raised another exception.
    """
    with seeded(seed):
        try:
            model = make()
        except FedunlearnError:
            raise
        except Exception as error:
            raise OwnCodeError(
                f"{type(error).__name__} in the task's own code: model(); see the node's log"
            ) from error
    if not isinstance(model, nn.Module):
        raise TaskError(f"model: model() returns {type(model).__name__}; return a torch.nn.Module")
    return model


def running_statistics(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the normalisation layers whose running mean and variance are among the tensors.

    Args:
        tensors: The tensors, by name in ``state_dict``.

    Returns:
        The number of channels, by the name of the layer, ascending.
    """
    layers = [name.removesuffix(MEAN) for name in tensors if f".{name}".endswith(f".{MEAN}")]
    return {name: tensors[name + MEAN].numel() for name in sorted(layers) if name + VAR in tensors}


def require_one_network(
    make: Callable[[], nn.Module], model: nn.Module, *, sent: Collection[str] = ()
) -> None:
    """Check that no part of a model that is not sent is drawn at random when it is built.

    A build elsewhere, under another seed or none, would give another network.

    Args:
        make: The function ``model`` of the Task.
        model: The model, as it was built.
        sent: Names in ``state_dict`` of tensors that the server sends, which may be drawn at
            random.

    Raises:
        ModelDiffersError: A part is drawn at random; the message names it.
    """
    again = NetworkDigest.of(build_model(make, seed=BUILD_SEED + 1)).without(sent)
    differs = NetworkDigest.of(model).without(sent).difference(again)
    if differs is not None:
        part = differs.removesuffix(" differs")
        raise ModelDiffersError(
            f"model: {part} is drawn anew whenever the model is built, and does not travel with "
            f"the weights, so that every node would compute on another network; {REMEDY}"
        )


def _form(tensor: Tensor) -> bytes:
    return f"{tuple(tensor.shape)} {tensor.dtype}".encode()


def _short(form: bytes, tensor: Tensor | None = None) -> bytes:
    named = hashlib.sha256(form)
    if tensor is not None:
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        named.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return named.digest()[:PART_BYTES]
