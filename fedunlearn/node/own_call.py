"""Which part of a batch a user's model takes, and how it is called with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedunlearn.errors import TaskError
from fedunlearn.risk.dataset_examples import last_is_target
from fedunlearn.trees import Tree, tensors_of

# Maps the model and a batch to the outputs.
OwnForward = Callable[[Any, Tree], object]

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
LABEL_ENDINGS = ("_labels", "_label", "_target")


@dataclass(frozen=True)
class Way:
    """One way of calling a model: which part of a batch it takes, and how."""

    inputs: Callable[[Tree], Tree]
    call: Callable[[Any, Tree], object]


def label_key(batch: Mapping[str, Tree], label: str | None) -> str | None:
    """Return the key of the targets of a batch; None where no key is named like one.

    Args:
        batch: Batch as collate makes it.
        label: The key that the user names.

    Raises:
        TaskError: There is no such key, or several may be meant.
    """
    if label is not None:
        if label not in batch:
            raise TaskError(
                f"data: batches have no key {label!r}, which label= names, but {_keys(batch)}"
            )
        return label
    for key in LABEL_KEYS:
        if key in batch:
            return key
    found = [key for key in batch if str(key).endswith(LABEL_ENDINGS)]
    if "fine_label" in found:
        return "fine_label"
    if len(found) > 1:
        raise TaskError(
            f"data: batches have the keys {_keys(batch)}, of which several may be the target; name "
            "it by label="
        )
    return found[0] if found else None


def _true(_: object) -> bool:
    return True


def _is_label(key: object) -> bool:
    return key in LABEL_KEYS or str(key).endswith(LABEL_ENDINGS)


def _keys(batch: Mapping[str, Tree]) -> str:
    return ", ".join(repr(str(key)) for key in batch)


def labels_by(batch: Tree, key: str | None) -> Callable[[Tree], Tree]:
    """Return what finds the targets in a batch like the given one; None where it has none.

    Args:
        batch: Batch as collate makes it.
        key: Key of the targets, where the batch is a dictionary.
    """
    if key is not None:
        return lambda batch: batch[key]
    if isinstance(batch, tuple | list) and len(batch) > 1:
        return lambda batch: batch[-1]
    return lambda batch: None


def way_of(model: nn.Module, batch: Tree, key: str | None, forward: OwnForward | None) -> Way:
    """Find out which part of a batch a model takes, and how.

    Args:
        model: Model whose ``forward`` is inspected.
        batch: Batch as collate makes it.
        key: Key of the targets, where the batch is a dictionary.
        forward: How the user says that it is called; None where the signature says it.

    Returns:
        The part and the call.

    Raises:
        TaskError: Nothing says how.
    """
    if forward is not None:
        return Way(lambda batch: batch, forward)
    if isinstance(batch, Mapping):
        names, _, _ = parameters_of(model)
        rest = {
            k: value
            for k, value in batch.items()
            if any(True for _ in tensors_of(value))
            and k != key
            and (k in names or not _is_label(k))
        }
        keys, call = _by_keywords(model, rest, batch)
        return Way(lambda batch: {k: batch[k] for k in keys}, call)
    if isinstance(batch, tuple | list):
        return _of_sequence(model, batch)
    return Way(lambda batch: batch, lambda model, inputs: model(inputs))


def _of_sequence(model: nn.Module, batch: tuple[Tree, ...] | list[Tree]) -> Way:
    alone = len(batch) == 1

    def inputs_of(batch: Tree) -> Tree:
        return batch[0] if alone else last_is_target(batch)[0]

    inputs = inputs_of(batch)
    if isinstance(inputs, Mapping):
        keys, call = _by_keywords(model, inputs, inputs)
        return Way(lambda batch: {k: inputs_of(batch)[k] for k in keys}, call)
    if isinstance(inputs, tuple) and len(batch) > 2:
        return Way(inputs_of, lambda model, inputs: model(*inputs))
    return Way(inputs_of, lambda model, inputs: model(inputs))


def _by_keywords(
    model: nn.Module, rest: Mapping[str, Tree], batch: Mapping[str, Tree]
) -> tuple[list[str], Callable[[Any, Tree], object]]:
    """Return the keys that a model takes, and how."""
    names, required, any_other = parameters_of(model)
    named = [key for key in rest if key in names]
    if named and required <= set(named):
        keys = list(rest) if any_other else named
        return keys, lambda model, inputs: model(**inputs)
    if len(rest) == 1:
        (only,) = rest
        return [only], lambda model, inputs: model(inputs[only])
    if names == {"batch"}:
        return list(rest), lambda model, inputs: model(inputs)
    if not rest:
        raise TaskError(
            f"data: batches have the keys {_keys(batch)} and no tensors beside the target; make "
            "tensors in the dataset or in a DataLoader's collate_fn, of text by a tokenizer"
        )
    takes = ", ".join(sorted(names)) or "no names"
    raise TaskError(
        f"model: forward() takes {takes}, and batches have the keys {_keys(batch)}; say how it is "
        "called by forward=lambda model, batch: model(batch[...])"
    )


def parameters_of(model: nn.Module) -> tuple[set[str], set[str], bool]:
    """Return the names that ``forward`` takes, those that it needs, and whether it takes others."""
    base = model
    for attribute in ("_orig_mod", "get_base_model"):
        inner = getattr(base, attribute, None)
        if inner is not None:
            base = inner if isinstance(inner, nn.Module) else inner()
    try:
        parameters = inspect.signature(base.forward).parameters.values()
    except (TypeError, ValueError):
        return set(), set(), False
    kinds = inspect.Parameter
    named = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    required = {p.name for p in named if p.default is kinds.empty}
    return {p.name for p in named}, required, any(p.kind is kinds.VAR_KEYWORD for p in parameters)
