"""Why a model or a loss of the user cannot be used: cause, layer and remedy, in one line.

Texts of torch's exceptions do not leave a node, for they may hold data. What is known of them is
said in our words; of others, the type and the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedunlearn.errors import (
    FedunlearnError,
    NotDifferentiableError,
    OwnCodeError,
    TaskError,
)
from fedunlearn.parameters import ParameterLayout
from fedunlearn.risk.examples import Batch, Examples, batch_for
from fedunlearn.risk.layers import name_of
from fedunlearn.risk.task import Loss
from fedunlearn.trees import described, map_tensors

CHECKPOINTING = "turn gradient checkpointing off for what is removed from"
OWN_WORDS: tuple[tuple[str, str], ...] = (
    (
        r"use_reentrant|incompatible with \.grad\(\)",
        "uses reentrant gradient checkpointing, which has no torch.autograd.grad; "
        f"pass use_reentrant=False to checkpoint(), or {CHECKPOINTING}",
    ),
    (
        r"torch\.utils\.checkpoint|CheckpointError",
        "has gradient checkpointing that computes something else the second time; let what is "
        f"checkpointed depend on its arguments and weights alone, or {CHECKPOINTING}",
    ),
    (
        r"once_differentiable",
        "has an autograd.Function whose backward is marked once_differentiable, so that there is "
        "no second derivative; write its backward with torch's operations and leave the mark out",
    ),
    (
        r"(derivative for \S+|[Dd]ouble backward|[Dd]ouble-backward|second derivative).*not "
        r"(implemented|supported|currently)|(not|n't) (currently )?support double backward|"
        r"NotImplemented.*backward",
        "has an operation of which torch has no second derivative; write it with other operations, "
        "or replace the layer",
    ),
    (
        r"Legacy autograd function|non-static forward",
        "has an autograd.Function whose forward is no static method, which torch no longer runs; "
        "mark forward and backward with @staticmethod and call it by apply()",
    ),
    (
        r"numpy\(\) on Tensor that requires grad",
        "leaves torch for NumPy in forward(), where there is no derivative; "
        "use torch's operations instead",
    ),
    (
        r"[Ii]nference tensor",
        "computes in torch.inference_mode(), where there is no derivative; leave that out of "
        "forward() and of what makes its tensors",
    ),
    (
        r"in-?place operation|[Ll]eaf [Vv]ariable that requires grad|is a view",
        "changes in place what its derivative needs; use the form that returns a new tensor "
        "(relu instead of relu_, x = x + y instead of x += y)",
    ),
    (
        r"does not require grad|not have been used in the graph",
        "gives outputs that do not depend on the weights in a way that torch can differentiate; "
        "leave detach(), no_grad() and argmax() out of forward()",
    ),
    (
        r"same device|on different devices|device-side",
        "holds tensors on several devices that meet; make them parameters or buffers, so that they "
        "move with the model",
    ),
    (
        r"out of memory|OutOfMemory|can't allocate memory",
        "needs more memory than there is for a few examples; use a smaller model, or more memory",
    ),
)


@contextmanager
def explained(model: nn.Module, loss: Loss, examples: Examples) -> Iterator[None]:
    """Raise what goes wrong in the block with its cause, the layer and the remedy.

    Args:
        model: The user's model.
        loss: The user's loss.
        examples: A few, with which the cause is looked for.

    Yields:
        Nothing.

    Raises:
        FedunlearnError: The one that was raised, or one that explains another exception.
    """
    try:
        yield
    except FedunlearnError:
        raise
    except Exception as error:
        explanation: FedunlearnError
        try:
            explanation = cause_of(error, model, loss, batch_for(model, examples))
        except Exception:  # a search for the cause must not hide that there is one
            explanation = OwnCodeError(f"{owned(error)}; see the node's log")
        raise explanation from error


def cause_of(error: Exception, model: nn.Module, loss: Loss, batch: Batch) -> FedunlearnError:
    """Find out why a model or a loss raised.

    Args:
        error: What was raised.
        model: The user's model.
        loss: The user's loss.
        batch: Batch of a few examples, on the model's device.

    Returns:
        What to raise instead: a TaskError where the cause is known.
    """
    where, remedied = _in_forward(model, loss, batch)
    if remedied is not None:
        return TaskError(remedied)
    text = f"{type(error).__name__}: {error}"
    for pattern, words in OWN_WORDS:
        if re.search(pattern, text):
            where = where or _in_derivative(model, loss, batch)
            return NotDifferentiableError(f"{where} {words}")
    if where is None:
        return OwnCodeError(f"{owned(error)}, while it was differentiated; see the node's log")
    return OwnCodeError(f"{owned(error)}: {where} on {_form(batch)}; see the node's log")


def owned(error: BaseException) -> str:
    """Return what may be said of an exception of the user's code: its type."""
    return f"{type(error).__name__} in the task's own code"


def _form(batch: Batch) -> str:
    return " and ".join(
        f"{name} of {described(values)}"
        for name, values in zip(("inputs", "targets"), batch, strict=True)
    )


def _in_forward(model: nn.Module, loss: Loss, batch: Batch) -> tuple[str | None, str | None]:
    """Return where a forward pass fails, and what is wrong where another form of data helps."""
    inputs, targets = batch
    entered: list[str] = []
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def leave(*_: object) -> None:
        entered.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: entered.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        outputs = _forward(model, inputs)
        _forward(lambda given: loss(outputs, given), targets)
        return None, None
    except Exception:
        where = name_of(model, entered[-1]) if entered else "loss:"
    finally:
        for handle in handles:
            handle.remove()
    return where, _with_graph(model, loss, batch, where) or _other_form(model, loss, batch)


def _forward(function: Callable[..., Tensor], given: object) -> Tensor:
    with torch.no_grad():
        return function(given)


def _with_graph(model: nn.Module, loss: Loss, batch: Batch, where: str) -> str | None:
    """Return what is wrong where a forward pass needs a graph even for its value."""
    try:
        with torch.enable_grad():
            loss(model(batch[0]), batch[1])
    except Exception:
        return None
    return (
        f"{where} differentiates inside of forward(), which fails under torch.no_grad(); "
        "put it into a block with torch.enable_grad()"
    )


def _other_form(model: nn.Module, loss: Loss, batch: Batch) -> str | None:
    """Return what is wrong with the form of the data, if a change of dtype or shape mends it."""
    inputs, targets = batch
    wanted = ParameterLayout.of(model).dtypes[0]
    seen = str(wanted).removeprefix("torch.")
    forms: list[tuple[str, str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        ("inputs", f"inputs.to(torch.{seen})", lambda x: x.to(wanted), lambda y: y),
        ("inputs", "inputs.long()", lambda x: x.long(), lambda y: y),
        ("targets", "targets.long()", lambda x: x, lambda y: y.long()),
        ("targets", f"targets.to(torch.{seen})", lambda x: x, lambda y: y.to(wanted)),
        ("targets", "targets.squeeze(1)", lambda x: x, lambda y: y.squeeze(1)),
        ("targets", "targets.squeeze(1).long()", lambda x: x, lambda y: y.squeeze(1).long()),
        ("targets", "targets[:, None]", lambda x: x, lambda y: y[:, None]),
        (
            "targets",
            f"targets[:, None].to(torch.{seen})",
            lambda x: x,
            lambda y: y[:, None].to(wanted),
        ),
        (
            "inputs and targets",
            f"both in torch.{seen}",
            lambda x: x.to(wanted),
            lambda y: y.to(wanted),
        ),
    ]
    for what, remedy, of_inputs, of_targets in forms:
        try:
            with torch.no_grad():
                loss(model(map_tensors(of_inputs, inputs)), map_tensors(of_targets, targets))
        except Exception:
            continue
        return (
            f"data: {_form(batch)} do not fit the model, whose weights are {seen}; "
            f"return {what} as {remedy}"
        )
    return None


def _in_derivative(model: nn.Module, loss: Loss, batch: Batch) -> str:
    """Name the innermost layer that cannot be differentiated twice; else the loss or the model."""
    inputs, targets = batch
    calls: list[tuple[str, nn.Module, tuple[object, ...]]] = []
    handles = [
        module.register_forward_hook(
            lambda module, given, _, name=name: calls.append((name, module, given))
        )
        for name, module in model.named_modules()
    ]
    try:
        outputs = _forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, module, given in calls:
        if not _twice(module, given, list(module.parameters())):
            return name_of(model, name)
    if isinstance(outputs, Tensor) and not _twice(lambda o: loss(o, targets), (outputs,), []):
        return "loss:"
    return name_of(model, "")


def _twice(
    function: Callable[..., object], given: tuple[object, ...], weights: list[nn.Parameter]
) -> bool:
    """Return whether a function of some tensors, and of weights, can be differentiated twice."""
    try:
        arguments = [
            one.detach().requires_grad_()
            if isinstance(one, Tensor) and one.is_floating_point()
            else one
            for one in given
        ]
        to = [one for one in arguments if isinstance(one, Tensor) and one.requires_grad]
        to += [weight for weight in weights if weight.requires_grad]
        with torch.enable_grad():
            outputs = [one for one in _leaves(function(*arguments)) if one.requires_grad]
            if not outputs or not to:
                return True
            value = torch.stack([one.float().square().sum() for one in outputs]).sum()
            first = torch.autograd.grad(value, to, create_graph=True, allow_unused=True)
            slopes = [one.float().square().sum() for one in first if one is not None]
            slopes = [one for one in slopes if one.requires_grad]
            if slopes:
                torch.autograd.grad(torch.stack(slopes).sum(), to, allow_unused=True)
    except Exception:
        return False
    return True


def _leaves(outputs: object) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, dict):
        for one in outputs.values():
            yield from _leaves(one)
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _leaves(one)
