"""Checks that must hold before any curvature product can be trusted.

A product belongs to a function of the weights. Dropout draws a new function at every call, and
BatchNorm in training mode makes an example's loss depend on its neighbours, so that sums over
chunks and nodes are no longer sums over examples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedunlearn.errors import NotDeterministicError, TaskError
from fedunlearn.risk.task import Examples, Loss

PROBE_EXAMPLES = 16


def require_deterministic(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a model whose loss is not a function of weights and examples alone.

    Args:
        model: The model, in the mode in which it will be differentiated.
        loss: Mean over examples.
        examples: Some of them are used.

    Raises:
        NotDeterministicError: Naming the layer and what to use instead.
    """
    for name, module in model.named_modules():
        where = f"model: layer {name!r} ({type(module).__name__})"
        if isinstance(module, _DropoutNd) and module.training and module.p > 0.0:
            raise NotDeterministicError(
                f"{where} drops at random, so curvature is undefined; "
                "use weight decay instead, or return the model in eval() mode"
            )
        if isinstance(module, _BatchNorm) and module.training:
            raise NotDeterministicError(
                f"{where} in training mode mixes the examples of a batch; "
                "use GroupNorm instead, or return the model in eval() mode"
            )
    few = _few(examples)
    first, second = (_losses(model, loss, few) for _ in range(2))
    if not torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True):
        raise NotDeterministicError(
            "model: the same weights and examples gave two different losses; "
            "remove what draws random numbers in forward(), or return the model in eval() mode"
        )


def require_mean_loss(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a loss that is not the mean over examples.

    Raises:
        TaskError: The loss of some examples, each taken twice, differs from their loss.
    """
    inputs, targets = _few(examples)
    once = _losses(model, loss, (inputs, targets))
    twice = _losses(model, loss, (torch.cat([inputs, inputs]), torch.cat([targets, targets])))
    if once.ndim != 0:
        raise TaskError(
            f"loss: returns shape {tuple(once.shape)}; use a scalar, as with reduction='mean'"
        )
    if not torch.allclose(once, twice, rtol=1e-3, equal_nan=True):
        raise TaskError("loss: is not the mean over examples; use reduction='mean'")


def _few(examples: Examples) -> Examples:
    return examples[0][:PROBE_EXAMPLES], examples[1][:PROBE_EXAMPLES]


def _losses(model: nn.Module, loss: Loss, examples: Examples) -> Tensor:
    with torch.no_grad():
        return loss(model(examples[0]), examples[1])
