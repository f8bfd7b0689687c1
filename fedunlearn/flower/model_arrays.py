"""Conversion between the ArrayRecord that training sends and the flat weights of removals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn

from fedunlearn.errors import InputError
from fedunlearn.parameters import ParameterLayout, flatten_state, trainable
from fedunlearn.state_transfer import by_own_names


@dataclass(frozen=True)
class ModelArrays:
    """The form in which an ArrayRecord holds a model.

    Attributes:
        model: The model, built as on the nodes.
        names: The names in the model's ``state_dict``, by the keys of the record and in its order.
    """

    model: nn.Module
    names: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, arrays: ArrayRecord, what: str) -> ModelArrays:
        """Match the arrays of a record to the tensors of a model.

        Args:
            model: The model, built as on the nodes.
            arrays: A state_dict, of all tensors or of the trainable ones; the adapters of PEFT; or
                a list of arrays in the order of the state_dict.
            what: Name of the arrays for the user, for messages.

        Returns:
            The form of the record.

        Raises:
            InputError: The arrays belong to another model; the first that differs is named.
        """
        if not isinstance(arrays, ArrayRecord):
            raise InputError(
                f"{what}: is {type(arrays).__name__}; give an ArrayRecord, as result.arrays, or "
                "ArrayRecord(model.state_dict())"
            )
        if not len(arrays):
            raise InputError(f"{what}: holds no array; training has given no model")
        names = _names(model, list(arrays), what)
        state = model.state_dict()
        for key, name in names.items():
            found, wanted = _shape(arrays[key]), tuple(state[name].shape)
            if found != wanted:
                raise InputError(
                    f"{what}: {key!r} has shape {found}, the model's {name!r} {wanted}; give "
                    "model= what builds the network that was trained"
                )
        missing = [name for name in trainable(model) if name not in set(names.values())]
        shared = _tied(model)
        missing = [name for name in missing if not shared.get(name, set()) & set(names.values())]
        if missing:
            raise InputError(
                f"{what}: has no {missing[0]!r}, which the model trains; give all that is "
                "trained, or freeze what is not"
            )
        return cls(model, names)

    @property
    def layout(self) -> ParameterLayout:
        """The layout of the trainable tensors in the flat weights."""
        return ParameterLayout.of(self.model)

    def weights(self, arrays: ArrayRecord) -> Tensor:
        """Return the trainable parameters of a record as a vector (d,)."""
        named = self.tensors(arrays)
        trained = set(trainable(self.model)).union(*_tied(self.model).values())
        return flatten_state(self.model, {n: t for n, t in named.items() if n in trained})

    def state(self, arrays: ArrayRecord) -> dict[str, Tensor]:
        """Return the tensors of a record that are not trained: buffers, frozen parameters."""
        trained = set(trainable(self.model)).union(*_tied(self.model).values())
        return {n: t for n, t in self.tensors(arrays).items() if n not in trained}

    def tensors(self, arrays: ArrayRecord) -> dict[str, Tensor]:
        """Return the tensors of a record by name in the state_dict."""
        return {name: _tensor(arrays[key]) for key, name in self.names.items()}

    def record(self, weights: Tensor, state: Mapping[str, Tensor]) -> ArrayRecord:
        """Return a record of the same form.

        Args:
            weights: Trainable weights, shape (d,).
            state: Buffers and frozen parameters, by name in the state_dict.

        Returns:
            Arrays with the same names, shapes and order.
        """
        named = dict(self.layout.unflatten(weights))
        for name, others in _tied(self.model).items():
            named.update({other: named[name] for other in others if name in named})
        own = self.model.state_dict()
        named.update({name: tensor.to(own[name].dtype) for name, tensor in state.items()})
        return ArrayRecord({key: _array(named[name]) for key, name in self.names.items()})


def _shape(array: Array) -> tuple[int, ...]:
    """Return an array's shape, which arrays of Flower's legacy workflows do not state."""
    if not array.dtype:
        return tuple(array.numpy().shape)
    return tuple(array.shape)


def _names(model: nn.Module, keys: list[str], what: str) -> dict[str, str]:
    own = list(model.state_dict())
    if set(keys) <= set(own):
        return {key: key for key in keys}
    if keys == [str(number) for number in range(len(keys))]:  # a list of arrays
        if len(keys) == len(own):
            return dict(zip(keys, own, strict=True))
        trained = list(trainable(model))
        if len(keys) == len(trained):
            return dict(zip(keys, trained, strict=True))
        raise InputError(
            f"{what}: holds {len(keys)} arrays without names, the model's state_dict {len(own)}; "
            "give model= what builds the network that was trained"
        )
    # PEFT leaves the adapter's name out of the state_dict that it saves.
    named = by_own_names(model, {key: torch.empty(0) for key in keys})
    for key, name in zip(keys, named, strict=True):
        if name not in own:
            raise InputError(
                f"{what}: holds {key!r}, which the model does not have; give model= what builds "
                "the network that was trained"
            )
    return dict(zip(keys, named, strict=True))


def _tied(model: nn.Module) -> dict[str, set[str]]:
    """Return all names of each trainable parameter that has several, by its first name."""
    first = {id(p): name for name, p in trainable(model).items()}
    names: dict[str, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in first and name != first[id(p)]:
            names.setdefault(first[id(p)], set()).add(name)
    return names


def _tensor(array: Array) -> Tensor:
    return torch.tensor(array.numpy())


def _array(tensor: Tensor) -> Array:
    return Array(tensor.detach().cpu().contiguous().numpy())
