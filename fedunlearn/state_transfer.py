"""The part of a trained model that is sent to nodes, and the part that they must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedunlearn.errors import ModelDiffersError, TaskError
from fedunlearn.model_state import ModelState
from fedunlearn.names import listed
from fedunlearn.networks import (
    MEAN,
    VAR,
    NetworkDigest,
    fixed_parts,
    fixed_tensors,
    running_statistics,
    tensor_digest,
)
from fedunlearn.parameters import flatten_state, trainable

COUNTER = "num_batches_tracked"
AGAIN = "modules_to_save"


@dataclass(frozen=True)
class TransferredState:
    """The part of a trained model that the server sends.

    Attributes:
        weights: The trainable parameters, shape (d,).
        state: Trained values of tensors that are not trainable parameters and that differ on some
            node.
    """

    weights: Tensor
    state: ModelState


def state_to_transfer(
    model: nn.Module,
    trained: Mapping[str, Tensor],
    nodes: Mapping[int, NetworkDigest | None],
) -> TransferredState:
    """Decide what is sent of a trained model, and reject nodes with another network.

    Trainable parameters are always sent. Other tensors with trained values on the server are sent
    where some node has another value, as BatchNorm's statistics. Tensors without trained values
    must be the same on every node as on the server.

    Args:
        model: The model as the server builds it, in the mode in which nodes differentiate theirs.
        trained: Trained values by name in ``state_dict``: all of them, or, for adapters on a frozen
            model, those of ``peft.get_peft_model_state_dict``.
        nodes: The digest that each node reports of its model; None where it reports none.

    Returns:
        The weights and the state to be sent.

    Raises:
        ModelDiffersError: A node has another layer, parameter, frozen parameter or buffer.
        TaskError: The trained values are not those of the model.
    """
    values = by_own_names(model, trained)
    weights = flatten_state(model, values)
    fixed = {
        name: _like(name, values[name], own)
        for name, own in fixed_tensors(model).items()
        if name in values
    }
    counters = [f"{name}{COUNTER}" for name in running_statistics(model.state_dict())]
    own = NetworkDigest.of(model).without(counters)
    for name, value in fixed.items():
        for words in fixed_parts(name):
            if words in own.parts:
                own = NetworkDigest({**own.parts, words: tensor_digest(value)})
    reported = {
        n: None if one is None else one.without(counters) for n, one in sorted(nodes.items())
    }
    _require_same(own, reported, fixed)
    differs = {
        name
        for name in fixed
        if name not in counters and any(_differs(own, one, name) for one in reported.values())
    }
    for name in running_statistics(fixed):  # mean and variance are sent together
        if differs & {name + MEAN, name + VAR}:
            differs |= {name + MEAN, name + VAR}
    return TransferredState(weights, ModelState({n: v for n, v in fixed.items() if n in differs}))


def by_own_names(model: nn.Module, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return trained values by the names that the model has for them.

    ``get_peft_model_state_dict`` leaves the adapter's name out: ``fc.lora_A.weight`` is
    ``fc.lora_A.default.weight``, and ``head.weight`` may be
    ``head.modules_to_save.default.weight``.

    Args:
        model: The model.
        trained: Trained values. A name that matches no parameter or several is not changed.
    """
    own = model.state_dict()
    shortened: dict[str, list[str]] = {}
    for name in trainable(model):
        for short in _shortened(name):
            shortened.setdefault(short, []).append(name)
    named: dict[str, Tensor] = {}
    for name, value in trained.items():
        candidates = [one for one in shortened.get(name, ()) if one not in trained]
        named[name if name in own or len(candidates) != 1 else candidates[0]] = value
    return named


def _shortened(name: str) -> set[str]:
    """Return the short names of a parameter, without the adapter's name."""
    parts = name.split(".")
    short = set()
    for place in range(1, len(parts)):
        if parts[place - 1] == AGAIN:
            short.add(".".join(parts[: place - 1] + parts[place + 1 :]))
        elif parts[place - 1].startswith(("lora_", "ia3_", "hada_", "lokr_", "oft_", "vera_")):
            short.add(".".join(parts[:place] + parts[place + 1 :]))
    return short


def _like(name: str, value: Tensor, own: Tensor) -> Tensor:
    if value.shape != own.shape:
        raise TaskError(
            f"state_dict: tensor {name!r} has shape {tuple(value.shape)}, the model's "
            f"{tuple(own.shape)}; give the state_dict of this model"
        )
    return torch.as_tensor(value).detach().cpu().to(own.dtype)


def _differs(own: NetworkDigest, other: NetworkDigest | None, name: str) -> bool:
    if other is None:
        return True
    return any(own.parts.get(words) != other.parts.get(words) for words in fixed_parts(name))


def _require_same(
    own: NetworkDigest, reported: Mapping[int, NetworkDigest | None], fixed: Mapping[str, Tensor]
) -> None:
    """Check that networks differ only in tensors of which the server has values."""
    rest = own.without(fixed)
    differs = {
        node: difference
        for node, one in reported.items()
        if one is not None and (difference := rest.difference(one.without(fixed)))
    }
    if not differs:
        return
    difference = next(iter(differs.values()))
    alike = [str(node) for node, one in differs.items() if one == difference]
    if difference.startswith(("frozen parameter", "buffer")) and difference.endswith("differs"):
        remedy = (
            "its trained value is not among those that were given: give the whole state_dict of "
            "the trained model, or let every node take it from the same file or seed"
        )
    else:
        remedy = "let server and nodes build the same model, from the same code"
    raise ModelDiffersError(
        f"{listed('node', alike)}: model: {difference}, compared with the server; {remedy}"
    )
