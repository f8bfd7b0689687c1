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

from fedunlearn.errors import NoCurvatureError, NotDeterministicError, TaskError
from fedunlearn.parameters import ParameterLayout
from fedunlearn.risk.task import Examples, Loss

PROBE_EXAMPLES = 16
PROBE_DIRECTIONS = 8
PROBE_SEED = 0
# Relative to a loss of order 1: rounding of a saturated loss in float32 stays below.
NEGLIGIBLE_CURVATURE = 1e-4


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
    few = _few(model, examples)
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
    inputs, targets = _few(model, examples)
    once = _losses(model, loss, (inputs, targets))
    twice = _losses(model, loss, (torch.cat([inputs, inputs]), torch.cat([targets, targets])))
    if once.ndim != 0:
        raise TaskError(
            f"loss: returns shape {tuple(once.shape)}; use a scalar, as with reduction='mean'"
        )
    if not torch.allclose(once, twice, rtol=1e-3, equal_nan=True):
        raise TaskError("loss: is not the mean over examples; use reduction='mean'")


def require_ggn(loss: Loss, outputs: object, targets: Tensor) -> None:
    """Refuse a loss for which Gauss-Newton products make no sense.

    Args:
        loss: Mean over examples.
        outputs: The model's, for a few examples (n, ...).
        targets: Of these examples.

    Raises:
        NoCurvatureError: The outputs are not one tensor; or the loss, as a function of them, has
            no curvature anywhere that was tried, or negative curvature.
    """
    if not isinstance(outputs, Tensor):
        raise NoCurvatureError(
            f"model: returns {type(outputs).__name__}, but GGN needs one tensor of outputs; "
            "return the logits, or use curvature = 'hessian'"
        )
    # A well trained model saturates its loss; nearer to 0 or to the targets it still curves.
    tried = [share * outputs for share in (1.0, 0.1, 0.01)]
    if targets.is_floating_point() and targets.shape == outputs.shape:
        tried += [targets + share * (outputs - targets) for share in (0.1, 0.01)]
    curves = False
    for point in tried:
        smallest, largest = _curvature_of_loss(loss, point.detach(), targets)
        if smallest < -NEGLIGIBLE_CURVATURE * max(1.0, largest):
            raise NoCurvatureError(
                "loss: is not convex in the model's outputs, so GGN is not positive semidefinite; "
                "use curvature = 'hessian' or 'hessian-abs'"
            )
        curves = curves or largest > 0.0
    if not curves:
        raise NoCurvatureError(
            "loss: has no second derivative in the model's outputs (as L1, hinge, or NLLLoss after "
            "LogSoftmax), so GGN would be zero; use cross-entropy on logits or mean squares, or "
            "curvature = 'hessian'"
        )


def _curvature_of_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest v'(d2 loss)v / v'v over examples and a few random v."""
    point = outputs.clone().requires_grad_()
    generator = torch.Generator().manual_seed(PROBE_SEED)
    with torch.enable_grad():
        total = loss(point, targets) * len(targets)
        (gradient,) = torch.autograd.grad(total, point, create_graph=True)
    if not gradient.requires_grad:
        return 0.0, 0.0
    quotients = []
    for _ in range(PROBE_DIRECTIONS):
        direction = torch.randn(outputs.shape, generator=generator).to(outputs)
        (image,) = torch.autograd.grad(
            gradient, point, direction, retain_graph=True, materialize_grads=True
        )
        rows = direction.reshape(len(targets), -1)
        products = rows * image.reshape(len(targets), -1)
        quotients.append(products.sum(1) / rows.square().sum(1))
    values = torch.cat(quotients).double()
    return float(values.min()), float(values.max())


def _few(model: nn.Module, examples: Examples) -> Examples:
    device = ParameterLayout.of(model).device
    inputs, targets = (values[:PROBE_EXAMPLES].to(device) for values in examples)
    return inputs, targets


def _losses(model: nn.Module, loss: Loss, examples: Examples) -> Tensor:
    with torch.no_grad():
        return loss(model(examples[0]), examples[1])
