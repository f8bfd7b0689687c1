"""How a user's model is called on a batch, and what of its outputs the loss takes.

Found once, from the signatures and by a trial on a few examples; from then on the model maps inputs
to one tensor of outputs, and the loss that tensor and targets to a scalar.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fedunlearn.errors import OwnCodeError, TaskError
from fedunlearn.node.own_call import (
    LABEL_KEYS,
    OwnForward,
    Way,
    label_key,
    labels_by,
    parameters_of,
    way_of,
)
from fedunlearn.risk.dataset_examples import Divide
from fedunlearn.risk.layers import name_of
from fedunlearn.risk.network import twice_differentiable
from fedunlearn.risk.randomness import generators_restored
from fedunlearn.risk.task import Loss
from fedunlearn.trees import Tree, described

# Of outputs and targets, or of outputs and the whole batch.
OwnLoss = Callable[..., Tensor]
OUTPUT_KEYS = ("logits", "out", "outputs", "output")
# Between the loss that a model returns and the same from its logits.
AGREES = 1e-4
COARSE_AGREES = 3e-2


@dataclass(frozen=True)
class OwnForm:
    """How batches, model and loss fit together.

    Attributes:
        divide: Returns inputs and targets of a batch as collate makes it.
        label_of: Returns its labels, or None.
        call: Maps the model and inputs to one tensor: the outputs, or the loss where ``whole``.
        loss: Maps outputs and targets to the mean loss.
        whole: Whether the loss reads more of the model's outputs than one tensor, so that it is
            computed with the model and has no Gauss-Newton products.
        plain: Whether inputs and targets are the two parts of a pair, as tensors hold them.
    """

    divide: Divide
    label_of: Callable[[Tree], Tree]
    call: Callable[[Any, Tree], Tensor]
    loss: Loss
    whole: bool = False
    plain: bool = False


def form_of_own(
    model: nn.Module,
    loss: OwnLoss | None,
    batch: Tree,
    *,
    label: str | None = None,
    forward: OwnForward | None = None,
) -> OwnForm:
    """Find out how a model and a loss take batches.

    Args:
        model: Model in eval mode, on the device of the batch.
        loss: Loss of outputs and targets, or of outputs and batch; None for the loss that the model
            returns itself.
        batch: Batch of a few examples, as collate makes it.
        label: The key of the targets, of batches that are dictionaries.
        forward: Maps model and batch to outputs, where the signature does not say how.

    Returns:
        The form.

    Raises:
        TaskError: Nothing says how; the message names the keys and the argument that does.
    """
    key = label_key(batch, label) if isinstance(batch, Mapping) else None
    label_of = labels_by(batch, key)
    with _trial(model):
        if loss is None:
            return _of_models_own_loss(model, batch, key, label_of, forward)
        way = way_of(model, batch, key, forward)
        outputs = _tried(lambda: way.call(model, way.inputs(batch)))
        return _fitting(way, loss, batch, label_of, outputs, forward)


def adapted(model: nn.Module, form: OwnForm) -> nn.Module:
    """Let a model map a form's inputs to one tensor.

    The class is replaced by one that calls it as the form says, as ``torch``'s parametrizations do:
    names of layers and weights stay what they are.

    Args:
        model: The user's model, which is changed.
        form: How it is called.

    Returns:
        The model.
    """
    plain = type(model)
    own = vars(model).pop("forward", None)  # set on the object, as torch.compile does

    def forward(self: nn.Module, inputs: Tree) -> Tensor:
        if own is not None:
            return form.call(own, inputs)
        view = plain.__new__(plain)
        object.__setattr__(view, "__dict__", vars(self))
        return form.call(view, inputs)

    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
    model.__class__ = type(plain.__name__, (plain,), {"forward": forward, **names})
    return model


@contextmanager
def _trial(model: nn.Module) -> Iterator[None]:
    """Call a model in the block without a graph, a warning, or a generator that moves."""
    with (
        generators_restored(),
        torch.no_grad(),
        twice_differentiable(model),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _tried(act: Callable[[], object]) -> object | None:
    """Return what a call returns; None where it fails, which the checks of the risk explain."""
    try:
        return act()
    except Exception:
        return None


def tensor_of(outputs: object) -> Tensor | None:
    """Return the tensor of outputs among what a model returns: the logits where it names them."""
    if isinstance(outputs, Tensor):
        return outputs
    named = getattr(outputs, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(outputs, Mapping):
        for key in OUTPUT_KEYS:
            if isinstance(outputs.get(key), Tensor):
                found: Tensor = outputs[key]
                return found
        outputs = list(outputs.values())
    if isinstance(outputs, tuple | list):
        return next((o for o in outputs if isinstance(o, Tensor) and o.is_floating_point()), None)
    return None


def _logits(call: Callable[[Any, Tree], object]) -> Callable[[Any, Tree], Tensor]:
    def logits(model: Any, inputs: Tree) -> Tensor:
        outputs = call(model, inputs)
        found = tensor_of(outputs)
        # What is no tensor is refused by the checks of the risk, with the class it is of.
        return outputs if found is None else found  # type: ignore[return-value]

    return logits


def _rebuilt(outputs: object) -> Callable[[Tensor], object] | None:
    """Return what puts a tensor in the place of the logits in an object like the model's outputs.

    All else is left out: it would not follow the weights.
    """
    if isinstance(outputs, Tensor) or outputs is None or tensor_of(outputs) is None:
        return None
    kind = type(outputs)
    if hasattr(outputs, "logits"):
        with_logits = _tried(lambda: kind(logits=tensor_of(outputs)))  # type: ignore[call-arg]
        if with_logits is not None and hasattr(with_logits, "logits"):
            return lambda logits: kind(logits=logits)  # type: ignore[call-arg]
        return lambda logits: SimpleNamespace(logits=logits)
    if isinstance(outputs, Mapping):
        key = next(key for key, one in outputs.items() if one is tensor_of(outputs))
        return lambda logits: {key: logits}
    return lambda logits: (logits,)


def _fitting(
    way: Way,
    loss: OwnLoss,
    batch: Tree,
    label_of: Callable[[Tree], Tree],
    outputs: object,
    forward: OwnForward | None,
) -> OwnForm:
    """Choose the first way in which a loss takes outputs of a few examples."""
    calls = _logits(way.call)
    has_targets = label_of(batch) is not None
    targets_first = has_targets and not _second_is_batch(loss)
    takes = [label_of, _everything] if targets_first else [_everything]
    pair = isinstance(batch, tuple | list) and len(batch) == 2 and forward is None

    def form(of_loss: Loss, targets: Callable[[Tree], Tree]) -> OwnForm:
        return OwnForm(
            lambda batch: (way.inputs(batch), targets(batch)),
            label_of,
            calls,
            of_loss,
            plain=pair and targets is label_of and not isinstance(batch[0], Mapping),
        )

    logits = tensor_of(outputs)
    rebuilt = _rebuilt(outputs)
    for targets in takes:
        if logits is not None and _is_loss(lambda t=targets: loss(logits, t(batch))):  # type: ignore[misc]
            return form(loss, targets)
        if (
            rebuilt is not None
            and logits is not None
            and _is_loss(lambda t=targets: loss(rebuilt(logits), t(batch)))  # type: ignore[misc]
        ):
            return form(lambda logits, given: loss(rebuilt(logits), given), targets)
    if outputs is not None and not isinstance(outputs, Tensor):
        for targets in takes:
            if _is_loss(lambda t=targets: loss(outputs, t(batch))):  # type: ignore[misc]
                return _whole(
                    lambda model, batch, t=targets: loss(  # type: ignore[misc]
                        way.call(model, way.inputs(batch)), t(batch)
                    ),
                    label_of,
                )
    return form(loss, takes[0])


def _everything(batch: Tree) -> Tree:
    return batch


def _second_is_batch(loss: OwnLoss) -> bool:
    called = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        names = list(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return False
    return len(names) > 1 and names[1] == "batch"


def _is_loss(act: Callable[[], object]) -> bool:
    found = _tried(act)
    return isinstance(found, Tensor) and found.is_floating_point()


def _given(outputs: Tensor, targets: Tree) -> Tensor:
    """Return outputs that are the loss."""
    return outputs


def _whole(call: Callable[[Any, Tree], Tensor], label_of: Callable[[Tree], Tree]) -> OwnForm:
    return OwnForm(lambda batch: (batch, None), label_of, call, _given, whole=True)


def _of_models_own_loss(
    model: nn.Module,
    batch: Tree,
    key: str | None,
    label_of: Callable[[Tree], Tree],
    forward: OwnForward | None,
) -> OwnForm:
    """Use the loss that a model returns when it is given labels."""
    names, _, _ = parameters_of(model)
    wanted = next((name for name in LABEL_KEYS if name in names), None)
    if forward is None:
        if wanted is None or not isinstance(batch, Mapping):
            raise TaskError(
                "loss: none is given, and the model's forward() takes no labels beside the keys of "
                "a batch; pass loss=, as torch.nn.functional.cross_entropy"
            )
        way = way_of(model, batch, key, None)
    else:
        way = Way(_everything, forward)

    def call(model: Any, batch: Tree) -> object:
        if forward is not None:
            return forward(model, batch)
        targets = {} if key is None else {str(wanted): label_of(batch)}
        return model(**way.inputs(batch), **targets)

    try:
        outputs = call(model, batch)
    except Exception as error:
        raise OwnCodeError(
            f"{type(error).__name__} in the task's own code: {name_of(model, '')} on "
            f"{described(batch)}; see the node's log"
        ) from error
    value = _loss_in(outputs)
    if value is None:
        raise TaskError(
            "loss: none is given and the model returns none; pass loss=, as "
            "torch.nn.functional.cross_entropy, or return outputs with a loss"
        )
    logits = tensor_of(outputs)
    targets = label_of(batch)
    if logits is not None and targets is not None:
        for likely in _likely_losses():
            if _agrees(lambda one=likely: one(logits, targets), value, logits):  # type: ignore[misc]
                return OwnForm(
                    lambda batch: (way.inputs(batch), label_of(batch)),
                    label_of,
                    _logits(way.call),
                    likely,
                )

    def own_loss(model: Any, batch: Tree) -> Tensor:
        found = _loss_in(call(model, batch))
        assert found is not None
        return found

    return _whole(own_loss, label_of)


def _loss_in(outputs: object) -> Tensor | None:
    found = outputs.get("loss") if isinstance(outputs, Mapping) else None
    found = getattr(outputs, "loss", None) if found is None else found
    return found if isinstance(found, Tensor) else None


def _likely_losses() -> Iterator[Loss]:
    """Yield the losses that models return: of one label, of several, and of numbers."""
    yield nn.functional.cross_entropy
    yield nn.functional.binary_cross_entropy_with_logits
    yield lambda logits, targets: nn.functional.mse_loss(logits, targets.view_as(logits))


def _agrees(act: Callable[[], Tensor], value: Tensor, logits: Tensor) -> bool:
    found = _tried(act)
    if not isinstance(found, Tensor) or found.shape != value.shape:
        return False
    share = AGREES if torch.finfo(logits.dtype).eps < 1e-5 else COARSE_AGREES
    return abs(float(found) - float(value)) <= share * abs(float(value))
