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
PROBE_SHARES = (0.1, 0.01)
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
    some = few(model, examples)
    first, second = (_losses(model, loss, some) for _ in range(2))
    if not torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True):
        raise NotDeterministicError(
            "model: the same weights and examples gave two different losses; "
            "remove what draws random numbers in forward(), or return the model in eval() mode"
        )


def require_mean_loss(model: nn.Module, loss: Loss, examples: Examples) -> None:
    """Refuse a loss that is not the mean over examples.

    Raises:
        TaskError: The loss of some examples, each taken twice, differs from their loss; or it is
            not what the losses of two parts of them add up to.
    """
    inputs, targets = few(model, examples)
    once = _losses(model, loss, (inputs, targets))
    twice = _losses(model, loss, (torch.cat([inputs, inputs]), torch.cat([targets, targets])))
    if once.ndim != 0:
        raise TaskError(
            f"loss: returns shape {tuple(once.shape)}; use a scalar, as with reduction='mean'"
        )
    # The loss of a model that fits its data is rounding: no sign of anything.
    rounding = 16.0 * torch.finfo(once.dtype).eps
    if not torch.allclose(once, twice, rtol=1e-3, atol=rounding, equal_nan=True):
        raise TaskError("loss: is not the mean over examples; use reduction='mean'")
    count = len(inputs)
    cuts = (slice(0, count // 3), slice(count // 3, count))
    parts = [
        _losses(model, loss, (inputs[cut], targets[cut])) * (len(inputs[cut]) / count)
        for cut in cuts
        if len(inputs[cut])
    ]
    if not torch.allclose(once, torch.stack(parts).sum(), rtol=1e-3, atol=rounding, equal_nan=True):
        raise TaskError(
            "loss: of two parts does not add up to that of the whole, as with class weights or "
            "ignore_index, which divide by other than the number of examples; weigh them with "
            "reduction='none' and return the mean()"
        )


def require_ggn(loss: Loss, outputs: object, targets: Tensor) -> None:
    """Refuse a loss for which Gauss-Newton products make no sense.

    Args:
        loss: Mean over examples.
        outputs: The model's, for a few examples (n, ...).
        targets: Of these examples.

    Raises:
        NoCurvatureError: The outputs are not one tensor; or the loss, as a function of them, has
            no curvature anywhere that was tried, or negative curvature, or torch cannot tell.
        RuntimeError: Of the loss itself, at the outputs.
        ValueError: Likewise.
    """
    if not isinstance(outputs, Tensor):
        raise NoCurvatureError(
            f"model: returns {type(outputs).__name__}, but GGN needs one tensor of outputs; "
            "return the logits, or use curvature = 'hessian'"
        )
    outputs, targets = _widened(outputs.detach()), _widened(targets)
    curves = False
    for number, point in enumerate(_points(outputs, targets)):
        try:
            smallest, largest = _curvature_of_loss(loss, point, targets)
        except (RuntimeError, ValueError) as error:
            if "not implemented" in str(error):
                raise NoCurvatureError(
                    f"loss: torch cannot differentiate it twice ({error}); write it with other "
                    "operations, or use cross-entropy on logits or mean squares"
                ) from error
            if number == 0:
                raise
            continue  # the loss is not defined there
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


def _points(outputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Return where to look at a loss: at the outputs, and where a loss that saturates still curves.

    Points between 0, outputs and targets, of which most losses allow each, and outputs of one
    example with the target of another, which are wrong where the model is right.
    """
    largest = outputs.abs().max().clamp(min=torch.finfo(outputs.dtype).tiny)
    points = [outputs, outputs * (10.0 / largest).clamp(max=1.0), outputs / largest]
    points += [point.roll(1, 0) for point in points]
    points += [share * outputs / largest for share in PROBE_SHARES]
    if targets.is_floating_point() and targets.shape == outputs.shape:
        missed = outputs - targets
        missed = missed / missed.abs().max().clamp(min=1.0)
        points += [targets + share * missed for share in PROBE_SHARES]
    return points


def _widened(values: Tensor) -> Tensor:
    """Return what is of half precision in float32, whose rounding is negligible."""
    if not values.is_floating_point():
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


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


def few(model: nn.Module, examples: Examples) -> Examples:
    """Take some examples from all over the data, which may be in the order of its classes."""
    device = ParameterLayout.of(model).device
    step = max(1, len(examples[0]) // PROBE_EXAMPLES)
    inputs, targets = (values[::step][:PROBE_EXAMPLES].to(device) for values in examples)
    return inputs, targets


def _losses(model: nn.Module, loss: Loss, examples: Examples) -> Tensor:
    with torch.no_grad():
        return loss(model(examples[0]), examples[1])
